"""SRPO's objective (arXiv 2604.02288): both branches' token losses over one denominator.

    (sum of GRPO losses over GRPO-routed tokens + sum of weighted SDPO losses over SDPO-routed tokens)
    / (routed valid tokens)

The denominator counts the whole optimiser batch: every micro-batch, every process. A mean per micro-batch would let a
token of a short micro-batch weigh more than one of a long one, and a mean per rollout that includes those without a
loss, as TRL 1.16's SDPOTrainer takes, would shrink the loss by their share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s2d_lib.losses.inputs import check, check_positive


def routed_masks(grpo: Tensor, sdpo: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens go where: two masks (B, T), bool, for GRPO and for SDPO; a masked token goes nowhere.

    The sum of both masks over the optimiser batch (every micro-batch, every process) is the denominator.

    Args:
        grpo: (B,), z_grpo of `route`, bool or number.
        sdpo: (B,), z_sdpo of `route`.
        completion_mask: (B, T), bool or number: valid tokens. Truncated rollouts are out where the mask says so.

    Raises:
        ValueError: shapes that do not fit together; a rollout that goes both ways.

    """
    shape = tuple(completion_mask.shape)
    fits = len(shape) == 2 and tuple(grpo.shape) == tuple(sdpo.shape) == shape[:1]
    check(fits, f"completion_mask must be (B, T), grpo and sdpo (B,), got {shape}, {grpo.shape}, {sdpo.shape}.")
    grpo, sdpo, valid = grpo != 0, sdpo != 0, completion_mask != 0
    check(not bool((grpo & sdpo).any()), "a rollout is routed to GRPO and to SDPO: it can only carry one loss.")
    return grpo[:, None] & valid, sdpo[:, None] & valid


def srpo_objective(
    policy_loss: Tensor,
    grpo_mask: Tensor,
    sdpo_sum: Tensor | float,
    denominator: Tensor | float,
    processes: int = 1,
) -> Tensor:
    """One micro-batch's part of the objective: the parts of an optimiser batch add up to it, and so do the gradients.

    GRPO, SDPO, SRPO and Advantage Mix are all this, with the masks that `route` gives them.

    Args:
        policy_loss: (B, T), `clipped_policy_loss`; anything finite where the mask is 0.
        grpo_mask: (B, T), bool or number: the GRPO-routed valid tokens.
        sdpo_sum: weighted sum of the SDPO losses over the SDPO-routed valid tokens of this micro-batch:
            `self_distillation(..., mask=sdpo_mask, normalizer=1).loss`; 0 if there are none.
        denominator: routed valid tokens of the whole optimiser batch, all micro-batches and processes; 0 counts as 1.
        processes: over which data-parallel training averages gradients (DDP, FSDP): the mean is made a sum again.

    Returns:
        A scalar (nats per token in the SDPO part). Backpropagate it as it is: no division by the number of micro-batches.

    Raises:
        ValueError: shapes that do not fit together; a denominator that is no number from 0 on.

    """
    shapes = tuple(policy_loss.shape), tuple(grpo_mask.shape)
    check(shapes[0] == shapes[1], f"policy_loss and grpo_mask must have the same shape, got {shapes[0]}, {shapes[1]}.")
    check_positive("processes", processes)
    if isinstance(denominator, Tensor):
        check(denominator.numel() == 1, f"denominator must be one number, got shape {tuple(denominator.shape)}.")
        denominator = denominator.detach().reshape(()).clamp(min=1)
    else:
        check(denominator >= 0, f"denominator must be a number from 0 on, got {denominator!r}.")
        denominator = max(denominator, 1)
    total = torch.where(grpo_mask != 0, policy_loss, 0.0).sum() + sdpo_sum
    return total / (denominator / processes)
