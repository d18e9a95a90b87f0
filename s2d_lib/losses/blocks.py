"""One block of tokens: from both models' projections to divergence, entropy and gradient, in place.

A trailing underscore means, as in torch, that arguments are overwritten.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s2d_lib.losses.inputs import Head, Inputs


def block_rows(vocab: int, device: str) -> int:
    """Tokens per block: a few buffers of it should fit a core's second-level cache; a GPU wants more to do at once."""
    return max(1, (2**16 if device == "cpu" else 2**24) // vocab)


def spare_buffers(student: Head, beta: float) -> int:
    """How many buffers of a block's size `block_divergence_` needs beside the two projections."""
    return (3 if 0 < beta < 1 else 1) + (student.softcap is not None)


def block_divergence_(
    inputs: Inputs, beta: float, z_s: Tensor, z_t: Tensor, spare: list[Tensor], factor: Tensor | None
):
    """Return a block's divergence, entropy and agreement; leave the gradient in `z_s` (and nothing useful in `z_t`)."""
    student, teacher = inputs.student, inputs.teacher
    slope = None
    if student.softcap is not None:
        *spare, slope = spare
    # Scales, caps and temperature keep the order. A second argmax would cost as much as all exponentials.
    agreement = z_t.gather(-1, z_s.argmax(-1, keepdim=True)).squeeze(-1) == z_t.amax(-1)
    _transform_(z_s, student, inputs.temperature, slope)
    _transform_(z_t, teacher, inputs.temperature)
    # Without a bias logits are finite, and so is every log-probability
    infinite = student.bias is not None or teacher.bias is not None
    log_p = torch.log_softmax(z_s, -1, out=spare[0])
    log_q = torch.log_softmax(z_t, -1, out=z_s)
    formula = _forward_kl_ if beta == 0 else _reverse_kl_ if beta == 1 else _jsd_
    value, entropy = formula(log_p, log_q, z_t, *spare[1:], beta=beta, infinite=infinite)
    if factor is not None:
        if slope is not None:
            z_s.mul_(slope)
        z_s.mul_(factor)
    return value, entropy, agreement


def _transform_(z: Tensor, head: Head, temperature: float, slope: Tensor | None = None) -> None:
    """Turn a projection into logits in place; write the softcap's derivative to `slope` where it is wanted."""
    if head.softcap is None:
        if head.scale != temperature:
            z.mul_(head.scale / temperature)
        return
    z.mul_(head.scale / head.softcap).tanh_()
    if slope is not None:
        torch.mul(z, z, out=slope).neg_().add_(1)
    z.mul_(head.softcap / temperature)


# Each formula overwrites its buffers, returns the divergence and the student's entropy, and leaves the gradient (by the
# student's logits, see the top of the file) in log_q's. Where a probability is 0 because its logarithm is -inf, the
# logarithm must not meet it: 0 * inf is NaN. A probability that merely underflowed is harmless.


def _forward_kl_(log_p: Tensor, log_q: Tensor, free: Tensor, *, beta: float, infinite: bool):
    q = torch.exp(log_q, out=free)
    gap = log_q.sub_(log_p)
    if infinite:
        gap.masked_fill_(q == 0, 0)
    value = gap.mul_(q).sum(-1)
    p = torch.exp(log_p, out=gap)
    if infinite:
        log_p.masked_fill_(p == 0, 0)
    entropy = log_p.mul_(p).sum(-1).neg_()
    p.sub_(q)
    return value, entropy


def _reverse_kl_(log_p: Tensor, log_q: Tensor, free: Tensor, *, beta: float, infinite: bool):
    p = torch.exp(log_p, out=free)
    gap = torch.sub(log_p, log_q, out=log_q)
    if infinite:
        gap.masked_fill_(p == 0, 0)
        log_p.masked_fill_(p == 0, 0)
    entropy = log_p.mul_(p).sum(-1).neg_()
    value = gap.mul_(p).sum(-1)
    gap.addcmul_(p, value[:, None], value=-1)
    return value, entropy


def _jsd_(log_p: Tensor, log_q: Tensor, free: Tensor, free2: Tensor, free3: Tensor, *, beta: float, infinite: bool):
    p, q = torch.exp(log_p, out=free), torch.exp(log_q, out=free2)
    # Where both underflow the mixture's logarithm has no say, but must be finite
    log_m = torch.lerp(p, q, beta, out=free3).clamp_(min=torch.finfo(p.dtype).tiny).log_()
    if infinite:
        log_p.masked_fill_(p == 0, 0)
        log_q.masked_fill_(q == 0, 0)
    kl_teacher = log_q.sub_(log_m).mul_(q).sum(-1)
    entropy = torch.mul(log_p, p, out=log_q).sum(-1).neg_()
    gap = torch.sub(log_p, log_m, out=log_q)
    kl_student = gap.mul_(p).sum(-1)
    gap.addcmul_(p, kl_student[:, None], value=-1)
    return beta * kl_teacher + (1 - beta) * kl_student, entropy
