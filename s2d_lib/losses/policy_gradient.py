"""GRPO's token loss: advantages relative to the group, and the clipped policy gradient that they weigh.

Both equal TRL 1.16's (`GRPOTrainer._generate_and_score_completions` and `_compute_loss`, loss types grpo, dapo and
dr_grpo, which differ in their denominators only; ours is `srpo_objective`'s).
"""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from s2d_lib.losses.inputs import check
from s2d_lib.losses.routing import checked_group_size

SCALE_REWARDS = ("group", "batch", "none")


def group_advantages(
    rewards: Tensor, group_size: int | None = None, scale_rewards: str = "group", *, group_ids: Tensor | None = None
) -> Tensor:
    """Rewards less their group's mean, over a standard deviation where asked for.

    SRPO's text (arXiv 2604.02288) divides by the group's standard deviation, its description of the baseline says
    "unbiased normalisation"; so it is a parameter.

    Args:
        rewards: (N,), groups one after the other; of the whole generation batch, over all processes.
        group_size: rollouts of one prompt; not needed beside `group_ids`.
        scale_rewards: what divides: "group", each group's standard deviation; "batch", that of all N rewards; "none"
            (Dr. GRPO). Standard deviations are the unbiased ones (n - 1) plus 1e-4, as TRL's.
        group_ids: (N,), see `route`.

    Returns:
        (N,), 0 in groups whose rewards are all the same.

    Raises:
        ValueError: an unknown `scale_rewards`; groups or rewards that `route` refuses.

    """
    check(scale_rewards in SCALE_REWARDS, f"scale_rewards must be one of group, batch, none, got {scale_rewards!r}.")
    size = checked_group_size(rewards, group_size, group_ids)
    grouped = (rewards if rewards.is_floating_point() else rewards.float()).reshape(-1, size)
    advantages = grouped - grouped.mean(1, keepdim=True)
    if scale_rewards != "none":
        spread = grouped.std(1, keepdim=True) if scale_rewards == "group" else grouped.std()
        advantages = advantages / (spread + 1e-4)
    return advantages.reshape(-1)


def clipped_policy_loss(
    log_probs: Tensor,
    advantages: Tensor,
    sampled_log_probs: Tensor | None = None,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.28,
) -> Tensor:
    """GRPO's loss of each token: `-min(ratio A, clip(ratio, 1 - epsilon_low, 1 + epsilon_high) A)`.

    Args:
        log_probs: (B, T), the student's now, of the sampled tokens (nats); the gradient flows here.
        advantages: (B,), or (B, T) where tokens differ; no gradient.
        sampled_log_probs: (B, T), the student's when it sampled them (nats), no gradient; None: the same as now, so
            the ratio is 1 (but its gradient is not 0).
        epsilon_low: 0.2 in SRPO's baseline, as everywhere.
        epsilon_high: 0.28 there (DAPO's).

    Returns:
        (B, T).

    Raises:
        ValueError: shapes that do not fit together, or an epsilon below 0.

    """
    shape = tuple(log_probs.shape)
    fits = log_probs.dim() == 2 and tuple(advantages.shape) in (shape, shape[:1])
    check(fits, f"log_probs must be (B, T) and advantages (B,) or (B, T), got {shape} and {tuple(advantages.shape)}.")
    for name, value in (("epsilon_low", epsilon_low), ("epsilon_high", epsilon_high)):
        check(isinstance(value, Real) and value >= 0, f"{name} must be a number from 0 on, got {value!r}.")
    sampled = log_probs if sampled_log_probs is None else sampled_log_probs
    check(sampled.shape == log_probs.shape, f"sampled_log_probs must be {shape}, got {tuple(sampled.shape)}.")
    advantages = advantages.detach().reshape(*advantages.shape, *(1,) * (2 - advantages.dim()))
    ratio = (log_probs - sampled.detach()).exp()
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return -torch.min(ratio * advantages, clipped * advantages)
