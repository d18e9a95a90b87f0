"""Sampling and storing: exact token ids, lengths, log-probabilities, reproducible streams."""

import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import read_rollouts, sample, undisturbed, write_rollouts
from s2d_lib.stages.stored_teacher import sequence_log_probs
from s2d_lib.study import resolve
from s2d_lib.study.settings import Decoding, Hardware, RoleModel, Sampling


@pytest.fixture(scope="module")
def policy():
    """The released student."""
    return load_policy(RoleModel(model="micro/chains-student"), Hardware())


@pytest.fixture(scope="module")
def problems():
    """A few problems of different length."""
    return load_problems(resolve("micro", "student", 0).problems).evaluations["micro-math"][:5]


def test_samples_come_in_order_with_their_ids_and_a_seed_is_a_stream(policy, problems):
    draw = lambda seed: sample(policy, problems, samples=3, sampling=Sampling(max_new_tokens=16, batch=4), seed=seed)  # noqa: E731
    rollouts = draw(0)
    assert [(r.problem, r.sample) for r in rollouts] == [(p.id, i) for p in problems for i in range(3)]
    eos = policy.tokenizer.eos_token_id
    for r in rollouts:
        assert r.finished == (r.ids[-1] == eos)
        assert eos not in r.ids[:-1]
        assert r.finished or len(r.ids) == 16
        assert r.text == policy.tokenizer.decode([i for i in r.ids if i != eos])
    assert draw(0) == rollouts != draw(1)


def test_one_token_to_choose_from_is_the_greedy_answer(policy, problems):
    sampling = Sampling(max_new_tokens=8, batch=4, temperature=2.0)
    draw = lambda samples, **how: sample(  # noqa: E731
        policy, problems, samples=samples, sampling=sampling, seed=0, decoding=Decoding(samples=samples, **how)
    )
    greedy = draw(1, temperature=0)
    assert draw(1, top_k=1) == draw(1, temperature=1e-4) == greedy
    free = draw(8, temperature=2.0)
    assert draw(8, temperature=2.0, top_k=0) == free != draw(8, temperature=2.0, top_k=2)
    with torch.no_grad():  # the first token of each is one of the two most likely
        for rollout in draw(8, temperature=2.0, top_k=2):
            (prompt,) = policy.prompt_ids([p for p in problems if p.id == rollout.problem])
            best = policy.model(torch.tensor([prompt])).logits[0, -1].topk(2).indices.tolist()
            assert rollout.ids[0] in best


@pytest.mark.parametrize("training", [True, False])
def test_an_interrupted_sampling_leaves_mode_and_random_streams_as_they_were(policy, problems, monkeypatch, training):
    def interrupted(**_):
        raise KeyboardInterrupt

    def drawn():
        return random.random(), np.random.rand(), torch.rand(1).item()

    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = drawn()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    policy.model.train(training)
    with monkeypatch.context() as patch, undisturbed():
        sample(policy, problems[:1], samples=1, sampling=Sampling(max_new_tokens=2, batch=1), seed=0)
        patch.setattr(policy.model, "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sample(policy, problems[:1], samples=1, sampling=Sampling(max_new_tokens=2, batch=1), seed=0)
    assert policy.model.training == training
    assert drawn() == expected
    policy.model.eval()


SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
HEADS = {
    "micro": {},
    "gemma2": {"head_dim": 16, "num_key_value_heads": 1, "final_logit_softcapping": 0.05},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
}


@pytest.mark.parametrize("kind", HEADS)
def test_log_probabilities_are_those_of_one_sequence_at_a_time(policy, problems, kind):
    if kind != "micro":  # heads with a scale or a softcap
        torch.manual_seed(0)
        ends = {"pad_token_id": policy.tokenizer.pad_token_id, "eos_token_id": policy.tokenizer.eos_token_id}
        config = AutoConfig.for_model(kind, vocab_size=len(policy.tokenizer), **ends, **SMALL, **HEADS[kind])
        policy = replace(policy, model=AutoModelForCausalLM.from_config(config).eval())
        with torch.no_grad():
            policy.model.get_output_embeddings().weight.mul_(20)
    rollouts = sample(policy, problems, samples=2, sampling=Sampling(max_new_tokens=12, batch=64), seed=0)
    values, prompts = sequence_log_probs(policy, problems, rollouts, batch=3), {p.id: p.prompt for p in problems}
    for rollout, value in zip(rollouts, values, strict=True):
        prompt = policy.tokenizer(prompts[rollout.problem])["input_ids"]
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *rollout.ids]])).logits[0, len(prompt) - 1 : -1].double()
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(rollout.ids)[:, None]).sum().item()
        assert value == pytest.approx(expected, abs=1e-4)


def test_rollouts_survive_storing(policy, problems, tmp_path):
    rollouts = sample(policy, problems, samples=2, sampling=Sampling(max_new_tokens=8, batch=64), seed=0)
    write_rollouts(tmp_path / "r.parquet", rollouts, [-0.5] * len(rollouts), {"teacher": "t"})
    stored, how = read_rollouts(tmp_path / "r.parquet")
    assert (stored, how) == (rollouts, {"teacher": "t"})
    assert {r.log_prob for r in stored} == {-0.5}


@pytest.mark.parametrize("broken", ["missing", "text", "columns"])
def test_a_broken_file_of_rollouts_is_said(tmp_path, broken):
    path = tmp_path / "r.parquet"
    if broken == "text":
        path.write_text("not parquet")
    elif broken == "columns":
        pq.write_table(pa.table({"problem": ["p"]}), path)
    with pytest.raises(StudyError, match="delete its run and make it again"):
        read_rollouts(path)
