"""The self-distillation trainer: one step is the same however it is cut, GRPO is TRL's, and the limiting cases."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from fixed_rollouts import MIXED, SIZE, Given, outcome, params, questions, student, trainer
from trl import GRPOConfig, GRPOTrainer

from s2d_lib.stages import self_distillation as module
from s2d_lib.stages.self_distillation import SelfDistillationTrainer

pytestmark = pytest.mark.slow

METHODS = ("grpo", "sdpo", "srpo", "advantage_mix")


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Distance relative to the length of the second."""
    return (torch.linalg.norm(one - other) / torch.linalg.norm(other)).item()


def same(one: dict, other: dict, tolerance=1e-6) -> None:
    """Losses, gradients and weights of two trainings."""
    # A policy loss is a difference of numbers near 1: what counts is the error against those
    assert one["losses"] == pytest.approx(other["losses"], rel=tolerance, abs=tolerance)
    for mine, theirs in zip(one["gradients"], other["gradients"], strict=True):
        assert apart(mine, theirs) < tolerance
    for name, value in other["weights"].items():
        torch.testing.assert_close(one["weights"][name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_the_same_in_1_2_or_8_micro_batches(tmp_path, method):
    whole = outcome(trainer(tmp_path, method, MIXED, 16))
    assert whole["gradients"][0].abs().max() > 1e-4
    for micro in (8, 2):
        parts = outcome(made := trainer(tmp_path, method, MIXED, micro))
        lengths = {int(batch["completion_mask"].sum()) for batch in made._buffered_inputs}
        assert len(lengths) > 1  # unequal token counts
        same(parts, whole)
        for name, value in whole["metrics"][0].items():
            if "time" not in name and "seconds" not in name:
                assert parts["metrics"][0][name] == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), name


def test_what_is_only_logged_is_read_from_a_sample_of_bounded_size(tmp_path, monkeypatch):
    whole, read = outcome(trainer(tmp_path, "srpo", MIXED, 8)), []
    divergence = module.linear_divergence
    monkeypatch.setattr(module, "MEASURED", 10)  # five in each of two micro-batches
    monkeypatch.setattr(
        module, "linear_divergence", lambda pair, **k: read.append(len(pair.student_hidden)) or divergence(pair, **k)
    )
    some = outcome(trainer(tmp_path, "srpo", MIXED, 8))
    assert read == [5, 5]
    same(some, whole)
    assert some["metrics"][0]["entropy"] == pytest.approx(whole["metrics"][0]["entropy"], rel=0.05)


@pytest.mark.parametrize(("limit", "kept"), [(9, [1, 2, 5, 6, 7, 8, 10]), (7, [1, 2, 5, 6, 7, 8, 10]), (3, [1, 5, 7])])
def test_a_sample_of_a_masks_places_is_spread_over_them_and_stands_for_all(limit, kept):
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.bool)
    some, each = module.thinned(mask, limit)
    assert some.flatten().nonzero().squeeze(1).tolist() == kept
    assert len(kept) * each == pytest.approx(7)


@pytest.mark.parametrize("method", ["grpo", "srpo"])
def test_two_steps_on_one_sampling_too(tmp_path, method):
    rewards, more = [*MIXED, *MIXED[::-1]], {"steps": 2, "steps_per_sampling": 2}
    # So large a step that the second one's ratios are far from 1
    far = {"learning_rate": 0.5}
    whole = outcome(trainer(tmp_path, method, rewards, 16, config=far, **more))
    parts = outcome(trainer(tmp_path, method, rewards, 4, config=far, **more))
    assert len(whole["losses"]) == 2
    same(parts, whole, 1e-5)
    # A step without a sampling of its own tells of the sampling that it uses
    assert whole["metrics"][1]["reward"] == whole["metrics"][0]["reward"] == pytest.approx(sum(rewards) / 32)
    unclamped = {"ratio_clamp": None} if method == "srpo" else {"epsilon_low": 0.01, "epsilon_high": 0.01}
    other = outcome(trainer(tmp_path, method, rewards, 16, config={**far, **epsilons(unclamped)}, **more, **unclamped))
    assert other["losses"][0] == whole["losses"][0]
    assert other["losses"][1] != pytest.approx(whole["losses"][1], rel=1e-3)


def epsilons(options):
    return {name.replace("_low", ""): value for name, value in options.items() if "epsilon" in name}


@pytest.mark.parametrize("method", ["srpo", "advantage_mix"])
def test_a_step_is_the_same_in_1_or_2_processes(tmp_path, method):
    one = outcome(trainer(tmp_path, method, MIXED, 4))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Each process has half of a batch whose groups have 4 rollouts, in two micro-batches
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fixed_rollouts.py")), str(tmp_path), method, "4"],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    two = torch.load(tmp_path / "outcome.pt")
    same(two, one)
    metrics = json.loads((tmp_path / "metrics.json").read_text())[0]
    for name in ("reward", "accuracy", "entropy", "routed/sdpo", "self_teacher/kl", "self_teacher/tokens"):
        assert metrics[name] == pytest.approx(one["metrics"][0][name], rel=1e-5)


def odd_length(completion_ids, **_):
    return [float(len(ids) % 2) for ids in completion_ids]


odd_length.binary = True


def test_grpo_is_trls_trainer(tmp_path):
    histories, weights = [], []
    for cls in (GRPOTrainer, SelfDistillationTrainer):
        policy = student()
        config = GRPOConfig(
            output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=8, gradient_accumulation_steps=2,
            num_generations=SIZE, max_completion_length=12, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
            gradient_checkpointing=False, logging_steps=1, learning_rate=0.1, optim="sgd", loss_type="dapo", beta=0.0,
            epsilon_high=0.28, disable_tqdm=True, shuffle_dataset=False, seed=3,
        )  # fmt: skip
        made = cls(
            model=policy.model,
            reward_funcs=odd_length,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": p.prompt} for p in questions(16)]),
            processing_class=policy.tokenizer,
            **({} if cls is GRPOTrainer else {"params": params("grpo")}),
        )
        made.train()
        histories.append([row for row in made.state.log_history if "loss" in row])
        weights.append(made.model.state_dict())
    for theirs, mine in zip(*histories, strict=True):
        assert theirs["loss"] != 0
        for name in theirs:
            if name.startswith("clip_ratio") or "time" in name:  # ratios are 1: each rollout is used once
                continue
            # TRL's entropy is a mean of micro-batches' means, ours of all tokens
            tolerance = 0.05 if name == "entropy" else 1e-5
            assert mine[name] == pytest.approx(theirs[name], rel=tolerance, abs=1e-6), name
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["grpo", "srpo"])
def test_importance_weights_multiply_grpos_losses_and_no_others(tmp_path, monkeypatch, method):
    score = GRPOTrainer._generate_and_score_completions

    def weighted(by):
        def weigh(self, inputs):
            batch = score(self, inputs)
            return batch | {
                "importance_sampling_ratio": torch.full_like(batch["completion_mask"], by, dtype=torch.float)
            }

        monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", weigh)
        return outcome(trainer(tmp_path, method, MIXED, 16, config={"max_grad_norm": 1e9}))["gradients"][0]

    once, twice, none = weighted(1.0), weighted(2.0), weighted(0.0)
    torch.testing.assert_close(twice - once, once - none, rtol=1e-4, atol=1e-6)
    assert (once - none).abs().max() > 1e-4
    assert (none.abs().max() > 1e-4) == (method == "srpo")  # what its SDPO tokens have


def test_srpo_with_every_rollout_correct_is_grpo_to_the_byte(tmp_path):
    rewards = [1, 1.5, 2, 1, 1, 1, 3, 1] * 2
    srpo = outcome(trainer(tmp_path, "srpo", rewards, 4, threshold=1))
    grpo = outcome(trainer(tmp_path, "grpo", rewards, 4, threshold=1))
    assert torch.equal(srpo["gradients"][0], grpo["gradients"][0])
    assert grpo["gradients"][0].any()
    assert all(torch.equal(value, grpo["weights"][name]) for name, value in srpo["weights"].items())
    assert srpo["metrics"][0]["routed/sdpo"] == 0
    assert math.isnan(srpo["metrics"][0]["self_teacher/mean_weight"])


@pytest.mark.parametrize("method", METHODS)
def test_with_every_rollout_wrong_nothing_is_learned(tmp_path, method):
    result = outcome(trainer(tmp_path, method, [0] * 16, 8))
    assert result["losses"] == [0]
    assert all(torch.equal(value, result["before"][name]) for name, value in result["weights"].items())
    assert result["metrics"][0]["routed/sdpo"] == 0


def test_every_overridden_hook_is_still_called_by_trl(tmp_path, monkeypatch):
    made = trainer(tmp_path, "srpo", MIXED, 8, config={"save_strategy": "steps", "save_steps": 1})
    hooks = {name for name in vars(SelfDistillationTrainer) if name.startswith("_") and not name.startswith("__")}
    hooks = {name for name in hooks if any(name in vars(cls) for cls in Given.__mro__[2:])} | {"compute_loss"}
    assert {"_calculate_rewards", "_prepare_inputs", "_get_grad_norm", "_load_optimizer_and_scheduler"} <= hooks
    called = set()
    for name in hooks:
        original = getattr(made, name)
        monkeypatch.setattr(made, name, lambda *a, _n=name, _o=original, **k: (called.add(_n), _o(*a, **k))[1])
    made.train()
    made.args.max_steps = 2
    made.train(resume_from_checkpoint=True)
    assert called == hooks
