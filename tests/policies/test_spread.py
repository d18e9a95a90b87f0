"""A model that one process samples over several GPUs: whole layers, evenly; and the same numbers."""

import pytest
import torch
from accelerate import dispatch_model

from s2d_lib.errors import StudyError
from s2d_lib.policies.policy import Policy, configure_torch, load_policy
from s2d_lib.policies.spread import layout, over_gpus
from s2d_lib.problems.sources import load_problems
from s2d_lib.rollouts import sample
from s2d_lib.stages.heads import sequence_log_probs
from s2d_lib.study import resolve
from s2d_lib.study.settings import Hardware
from tests.plan.test_memory import built, shaped


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_layers_are_whole_and_each_gpu_holds_about_as_much(family):
    with torch.device("meta"):
        model = built(shaped(family, 12))
    places = layout(model, dict.fromkeys(range(3), 10**12))
    layers = [places[f"model.layers.{number}"] for number in range(12)]
    assert layers == sorted(layers)
    assert [layers.count(gpu) for gpu in range(3)] == pytest.approx([4, 4, 4], abs=2)
    assert max(layers.count(gpu) for gpu in range(3)) <= 4 + 1.25  # what the plan counts


def sampled(policy: Policy) -> tuple:
    """Completions and their log-probabilities."""
    run = resolve("micro", "teacher", 0)
    problems = load_problems(run.problems).evaluations["micro-math"][:4]
    rollouts = sample(policy, problems, samples=2, sampling=run.sampling, seed=1, show=False)
    return rollouts, sequence_log_probs(policy, problems, rollouts, batch=3)


def test_a_model_with_a_device_map_samples_what_it_samples_without():
    run = resolve("micro", "teacher", 0)
    policy, other = (load_policy(run.model, run.hardware) for _ in range(2))
    places = dict.fromkeys(layout(other.model, dict.fromkeys(range(2), 10**12)), "cpu")
    other.model = dispatch_model(other.model, places, force_hooks=True)
    assert sampled(policy) == sampled(other)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_sample_what_one_does():
    run = resolve("micro", "teacher", 0)
    one, two = (load_policy(run.model, Hardware(device="cuda")) for _ in range(2))
    two.model = over_gpus(two.model.cpu(), 2)
    assert {weights.device.index for weights in two.model.parameters()} == {0, 1}
    assert sampled(one)[0] == sampled(two)[0]
    assert sampled(two)[1] == pytest.approx(sampled(one)[1], abs=1e-3)


def test_more_gpus_than_there_are_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(StudyError, match=r"sampling_gpus is 2 but torch sees 1 GPUs: run where there are as many"):
        configure_torch(Hardware(device="cuda", sampling_gpus=2))
