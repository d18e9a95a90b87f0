"""Advantage Mix, SRPO's rival: one GRPO loss for every rollout, its advantages mixed with the self-teacher's opinion."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from s2d_lib.losses.inputs import check


@torch.no_grad()
def mixed_advantages(
    advantages: Tensor, teacher_log_probs: Tensor, student_log_probs: Tensor, scored: Tensor, mix: float = 0.9
) -> Tensor:
    """Advantages of tokens, `mix * A_grpo + (1 - mix) * A_sdpo`, for `clipped_policy_loss`.

    Known (arXiv 2604.02288): the formula, with mix = 0.9. Not known here, and so this project's reading:

    - A_sdpo of a token is the self-teacher's log-ratio, `log p_T(y_t) - log p_S(y_t)`, in nats. For tokens drawn from
      the student it makes the policy gradient that of the reverse KL(p_S || p_T), as `sampled_token_reverse_kl`.
    - It is not normalised: no mean is taken away, no standard deviation divides, no clamp. A_grpo keeps the scale that
      `group_advantages` gave it, so its `scale_rewards` decides how much 0.9 to 0.1 is.
    - The student's log-probabilities are the sampling policy's (`sampled_log_probs`), the self-teacher's those of the
      optimiser step that uses the rollout; both at the rollout temperature.
    - Rollouts without a self-teacher have A_sdpo = 0 and keep `mix * A_grpo`, as the formula reads: a group's only
      correct rollout, which has no sibling, is scaled like the failed ones that it is compared with.

    Args:
        advantages: (B,), A_grpo.
        teacher_log_probs: (B, T), the self-teacher's, of the sampled tokens (nats); anything where not scored.
        student_log_probs: (B, T), the student's (nats).
        scored: (B,), or (B, T) to leave out padding: where the self-teacher has scored; bool or number.
        mix: from 0 (the self-teacher alone) to 1 (GRPO).

    Returns:
        (B, T), without gradient.

    Raises:
        ValueError: shapes that do not fit together, or `mix` out of its range.

    """
    shape = tuple(student_log_probs.shape)
    same = len(shape) == 2 and tuple(teacher_log_probs.shape) == shape
    check(same, f"both log-probabilities must be (B, T), got {tuple(teacher_log_probs.shape)} and {shape}.")
    check(tuple(advantages.shape) == shape[:1], f"advantages must be {shape[:1]}, got {tuple(advantages.shape)}.")
    fits = tuple(scored.shape) in (shape, shape[:1])
    check(fits, f"scored must be {shape[:1]} or {shape}, got {tuple(scored.shape)}.")
    check(isinstance(mix, Real) and 0 <= mix <= 1, f"mix must be a number from 0 to 1, got {mix!r}.")
    scored = scored.reshape(*scored.shape, *(1,) * (2 - scored.dim())) != 0
    opinion = torch.where(scored, teacher_log_probs - student_log_probs, 0.0)
    return mix * advantages[:, None] + (1 - mix) * opinion
