"""GRPO's advantages and clipped token loss, and Advantage Mix, against loops over floats."""

import math

import pytest
import torch
from plain_srpo import plain_advantages, plain_clipped

from s2d_lib.losses import clipped_policy_loss, group_advantages, mixed_advantages


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages(scale):
    rewards = [0.0, 1, 1, 0.5, 2, -1, 3, 3, 3]
    out = group_advantages(torch.tensor(rewards, dtype=torch.float64), 3, scale)
    assert out.tolist() == pytest.approx(plain_advantages(rewards, 3, scale), rel=1e-12)
    assert out[6:].tolist() == [0, 0, 0]
    ids = torch.tensor([4, 4, 4, 0, 0, 0, 2, 2, 2])
    assert torch.equal(out, group_advantages(torch.tensor(rewards, dtype=torch.float64), None, scale, group_ids=ids))
    assert group_advantages(torch.tensor([0, 1]), 2, scale).dtype == torch.float32


def test_all_wrong_and_all_right_groups_have_no_gradient_at_all():
    advantages = group_advantages(torch.tensor([0.0, 0, 0, 1, 1, 1]), 3)
    log_probs = (-torch.rand(6, 4)).requires_grad_()
    clipped_policy_loss(log_probs, advantages, log_probs.detach() + 0.3).sum().backward()
    assert torch.equal(advantages, torch.zeros(6))
    assert torch.equal(log_probs.grad, torch.zeros(6, 4))


@pytest.mark.parametrize("per_token", [False, True])
def test_clipped_loss(per_token):
    log_probs, sampled, advantages = tensors((5, 7), (5, 7), (5, 7) if per_token else (5,))
    sampled = log_probs + 0.4 * sampled  # ratios on both sides of both limits
    out = clipped_policy_loss(log_probs, advantages, sampled)
    seen = set()
    for b in range(5):
        for t in range(7):
            a = (advantages[b, t] if per_token else advantages[b]).item()
            now, then = log_probs[b, t].item(), sampled[b, t].item()
            assert out[b, t].item() == pytest.approx(plain_clipped(now, then, a), rel=1e-12)
            ratio = math.exp(now - then)
            seen.add((a > 0, "low" if ratio < 0.8 else "high" if ratio > 1.28 else "within"))
    assert len(seen) == 6

    assert torch.autograd.gradcheck(
        lambda now: clipped_policy_loss(now, advantages, sampled), [log_probs.requires_grad_()]
    )


def test_on_policy_has_ratio_one_and_a_gradient():
    log_probs, advantages = tensors((3, 4), (3,))
    log_probs.requires_grad_()
    loss = clipped_policy_loss(log_probs, advantages)
    torch.testing.assert_close(loss, -advantages[:, None].expand(3, 4))
    (grad,) = torch.autograd.grad(loss.sum(), log_probs)
    torch.testing.assert_close(grad, -advantages[:, None].expand(3, 4))
    (given,) = torch.autograd.grad(clipped_policy_loss(log_probs, advantages, log_probs).sum(), log_probs)
    assert torch.equal(grad, given)


def test_advantages_and_sampled_log_probs_get_no_gradient():
    log_probs, sampled, advantages = (t.requires_grad_() for t in tensors((3, 4), (3, 4), (3,)))
    clipped_policy_loss(log_probs, advantages, sampled).sum().backward()
    assert log_probs.grad is not None
    assert sampled.grad is None
    assert advantages.grad is None


@pytest.mark.parametrize("mix", [0.0, 0.9, 1.0])
def test_advantage_mix(mix):
    advantages, teacher, student = tensors((3,), (3, 4), (3, 4))
    scored = torch.tensor([True, False, True])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    out = mixed_advantages(advantages, teacher, student.requires_grad_(), scored, mix)
    assert not out.requires_grad
    for b in range(3):
        for t in range(4):
            opinion = (teacher[b, t] - student[b, t]).item() if scored[b] else 0.0
            assert out[b, t].item() == pytest.approx(mix * advantages[b].item() + (1 - mix) * opinion, rel=1e-12)
    teacher = torch.where(scored[:, None] & (mask != 0), teacher, math.nan)  # what was not scored is not looked at
    masked = mixed_advantages(advantages, teacher, student, scored[:, None] & (mask != 0), mix)
    assert torch.equal(masked[mask != 0], out[mask != 0])
    assert masked.isfinite().all()


def test_the_default_mix_is_the_papers():
    advantages, teacher, student = tensors((3,), (3, 4), (3, 4))
    out = mixed_advantages(advantages, teacher, student, torch.ones(3))
    torch.testing.assert_close(out, 0.9 * advantages[:, None] + 0.1 * (teacher - student))


@pytest.mark.parametrize(
    ("function", "change", "sentence"),
    [
        (group_advantages, {"scale_rewards": "std"}, "scale_rewards must be one of"),
        (group_advantages, {"group_size": 4}, "6 rollouts are not whole groups of 4"),
        (group_advantages, {"group_size": 1}, "2 rollouts or more"),
        (group_advantages, {"rewards": torch.full((6,), math.nan)}, "rewards must be finite"),
        (clipped_policy_loss, {"advantages": torch.ones(2)}, "advantages"),
        (clipped_policy_loss, {"advantages": torch.ones(6, 1)}, "advantages"),
        (clipped_policy_loss, {"log_probs": torch.ones(6)}, "log_probs must be"),
        (clipped_policy_loss, {"sampled_log_probs": torch.ones(6)}, "sampled_log_probs must be"),
        (clipped_policy_loss, {"epsilon_high": -0.1}, "epsilon_high must be"),
        (mixed_advantages, {"teacher_log_probs": torch.ones(6, 2)}, "both log-probabilities"),
        (mixed_advantages, {"advantages": torch.ones(6, 3)}, "advantages must be"),
        (mixed_advantages, {"scored": torch.ones(3)}, "scored must be"),
        (mixed_advantages, {"mix": 1.1}, "mix must be"),
    ],
)
def test_bad_arguments_are_refused(function, change, sentence):
    arguments = {
        group_advantages: {"rewards": torch.ones(6), "group_size": 3},
        clipped_policy_loss: {"log_probs": torch.ones(6, 3), "advantages": torch.ones(6)},
        mixed_advantages: {
            "advantages": torch.ones(6),
            "teacher_log_probs": torch.ones(6, 3),
            "student_log_probs": torch.ones(6, 3),
            "scored": torch.ones(6),
        },
    }[function]
    with pytest.raises(ValueError, match=sentence):
        function(**{**arguments, **change})
