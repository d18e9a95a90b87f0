"""Sampling and storing: exact token ids, lengths, log-probabilities, reproducible streams."""

import functools
import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import read_rollouts, sample, undisturbed, write_rollouts
from s2d_lib.stages.stored_teacher import sequence_log_probs
from s2d_lib.study import resolve
from s2d_lib.study.settings import Decoding, Hardware, RoleModel, Sampling


@pytest.fixture(scope="module")
def policy():
    return load_policy(RoleModel(model="micro/chains-student"), Hardware())


@pytest.fixture(scope="module")
def problems():
    return load_problems(resolve("micro", "student", 0).problems).evaluations["micro-math"][:5]


def drawn(policy, problems, samples=2, limit=12, batch=64, seed=0, **how):
    """Rollouts of a decoding, by default at temperature 1."""
    sampling = Sampling(max_new_tokens=limit, batch=batch)
    decoding = Decoding(samples=samples, **{"temperature": 1.0} | how)
    return sample(policy, problems, samples=samples, sampling=sampling, seed=seed, decoding=decoding, show=False)


def test_samples_come_in_order_with_their_ids_and_a_seed_is_a_stream(policy, problems):
    rollouts, again, other = (drawn(policy, problems, 3, limit=16, batch=4, seed=seed) for seed in (0, 0, 1))
    assert again == rollouts != other
    assert [(r.problem, r.sample) for r in rollouts] == [(p.id, i) for p in problems for i in range(3)]
    eos = policy.tokenizer.eos_token_id
    for r in rollouts:
        assert r.finished == (r.ids[-1] == eos)
        assert eos not in r.ids[:-1]
        assert r.finished or len(r.ids) == 16
        assert r.text == policy.tokenizer.decode([i for i in r.ids if i != eos])


def test_one_token_to_choose_from_is_the_greedy_answer(policy, problems):
    draw = functools.partial(drawn, policy, problems, limit=8)
    greedy = draw(1, temperature=0)
    assert draw(1, top_k=1) == draw(1, temperature=1e-4) == greedy
    free, of_two = draw(8, temperature=2.0), draw(8, temperature=2.0, top_k=2)
    assert draw(8, temperature=2.0, top_k=0) == free != of_two
    for rollout in of_two:  # the first token of each is one of the two most likely
        (prompt,) = policy.prompt_ids([p for p in problems if p.id == rollout.problem])
        best = policy.model(torch.tensor([prompt])).logits[0, -1].topk(2).indices.tolist()
        assert rollout.ids[0] in best


@pytest.mark.parametrize("training", [True, False])
def test_an_interrupted_sampling_leaves_mode_and_random_streams_as_they_were(policy, problems, monkeypatch, training):
    def numbers():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def interrupted(**_):
        numbers()
        raise KeyboardInterrupt

    set_seed(1)
    expected = numbers()
    set_seed(1)
    policy.model.train(training)
    monkeypatch.setattr(policy.model, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt), undisturbed():
        drawn(policy, problems)
    assert policy.model.training == training
    assert numbers() == expected
    policy.model.eval()


SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("micro", {}),
        ("gemma2", {"head_dim": 16, "num_key_value_heads": 1, "final_logit_softcapping": 0.05}),
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_log_probabilities_are_those_of_one_sequence_at_a_time(policy, problems, kind, head):
    if kind != "micro":
        torch.manual_seed(0)
        ends = {"pad_token_id": policy.tokenizer.pad_token_id, "eos_token_id": policy.tokenizer.eos_token_id}
        config = AutoConfig.for_model(kind, vocab_size=len(policy.tokenizer), **ends, **SMALL, **head)
        policy = replace(policy, model=AutoModelForCausalLM.from_config(config).eval())
        with torch.no_grad():
            policy.model.get_output_embeddings().weight.mul_(20)
    rollouts = drawn(policy, problems)
    values, prompts = sequence_log_probs(policy, problems, rollouts, batch=3), {p.id: p.prompt for p in problems}
    for rollout, value in zip(rollouts, values, strict=True):
        prompt = policy.tokenizer(prompts[rollout.problem])["input_ids"]
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *rollout.ids]])).logits[0, len(prompt) - 1 : -1].double()
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(rollout.ids)[:, None]).sum().item()
        assert value == pytest.approx(expected, abs=1e-4)


def test_rollouts_survive_storing_and_a_broken_file_is_said(policy, problems, tmp_path):
    rollouts, path = drawn(policy, problems), tmp_path / "r.parquet"
    with pytest.raises(StudyError, match="delete its run and make it again"):
        read_rollouts(path)
    write_rollouts(path, rollouts, [-0.5] * len(rollouts), {"teacher": "t"})
    stored, how = read_rollouts(path)
    assert (stored, how) == (rollouts, {"teacher": "t"})
    assert {r.log_prob for r in stored} == {-0.5}
    for spoil in (lambda: pq.write_table(pa.table({"problem": ["p"]}), path), lambda: path.write_text("not parquet")):
        spoil()
        with pytest.raises(StudyError, match="delete its run and make it again"):
            read_rollouts(path)
