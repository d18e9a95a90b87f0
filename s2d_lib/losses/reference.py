"""The divergences in plain torch, from logits: to read, and to test the fast ones against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from s2d_lib.losses.inputs import check, check_beta


def kl_divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) in nats over the last dimension, from log-probabilities.

    0 log 0 is 0, so -inf in `log_a` contributes nothing (also where both are -inf), and has no gradient.
    Where a > 0 and b = 0 the divergence is +inf.
    """
    present = log_a > -math.inf
    gap = log_a.where(present, 0.0) - log_b.where(present, 0.0)
    return (log_a.exp() * gap).sum(-1)


def divergence_of_log_probs(log_p_student: Tensor, log_p_teacher: Tensor, beta: float) -> Tensor:
    """Like `divergence`, from normalised log-probabilities."""
    if beta == 0:
        return kl_divergence(log_p_teacher, log_p_student)
    if beta == 1:
        return kl_divergence(log_p_student, log_p_teacher)
    # A token that neither model allows has no mixture probability and no part in either sum; 0 keeps autograd finite
    present = torch.maximum(log_p_student, log_p_teacher) > -math.inf
    log_p, log_q = log_p_student.where(present, 0.0), log_p_teacher.where(present, 0.0)
    log_m = torch.logaddexp(log_p + math.log1p(-beta), log_q + math.log(beta))
    return beta * kl_divergence(log_p_teacher, log_m) + (1 - beta) * kl_divergence(log_p_student, log_m)


def divergence(student_logits: Tensor, teacher_logits: Tensor, beta: float = 1.0) -> Tensor:
    """Divergence between the two models' next-token distributions, per token.

    `beta` 0 is the forward KL(p_T || p_S), 1 the reverse KL(p_S || p_T) (Eq. 2 of arXiv 2605.12483), and between them
    the generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649) in TRL's convention:
    `beta KL(p_T || m) + (1 - beta) KL(p_S || m)` with `m = (1 - beta) p_S + beta p_T`. (It vanishes towards both ends:
    the two KLs are cases of their own, not its limits.)

    Args:
        student_logits: (..., V).
        teacher_logits: (..., V), the same vocabulary.
        beta: from 0 to 1.

    Returns:
        (...,), in nats.

    Raises:
        ValueError: the shapes differ or `beta` is out of range.

    """
    check_beta(beta)
    shapes = tuple(student_logits.shape), tuple(teacher_logits.shape)
    check(shapes[0] == shapes[1], f"student and teacher logits must have the same shape, got {shapes[0]}, {shapes[1]}.")
    return divergence_of_log_probs(student_logits.log_softmax(-1), teacher_logits.log_softmax(-1), beta)
