"""One block of tokens: from both models' projections to divergence, entropy and gradient, in place.

A trailing underscore means, as in torch, that arguments are overwritten.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s2d_lib.losses.inputs import Head, Inputs


def block_rows(vocab: int, device: str) -> int:
    """Tokens per block: a few buffers of it should fit a core's second-level cache; a GPU wants more to do at once."""
    return max(1, (2**17 if device == "cpu" else 2**24) // vocab)


def spare_buffers(student: Head, beta: float) -> int:
    """How many buffers of a block's size `block_divergence_` needs beside the two projections."""
    return (3 if 0 < beta < 1 else 2) + (student.softcap is not None)


def block_divergence_(
    inputs: Inputs, beta: float, z_s: Tensor, z_t: Tensor, spare: list[Tensor], factor: Tensor | None
):
    """Return a block's divergence, entropy and agreement; leave the gradient in `z_s` (and nothing useful in `z_t`)."""
    student, teacher = inputs.student, inputs.teacher
    slope = None
    if student.softcap is not None:
        *spare, slope = spare
    # Both are largest at one token: then, and only then, their sum is as large as the sum of both maxima. (Scales, caps
    # and temperature keep the order. Two argmaxes would cost as much as all exponentials.)
    highest = torch.add(z_s, z_t, out=spare[0]).amax(-1)
    agreement = highest == z_s.amax(-1) + z_t.amax(-1)
    _transform_(z_s, student, inputs.temperature, slope)
    _transform_(z_t, teacher, inputs.temperature)
    # Without a bias logits are finite, and so is every log-probability
    infinite = student.bias is not None or teacher.bias is not None
    formula = _forward_kl_ if beta == 0 else _reverse_kl_ if beta == 1 else _jsd_
    value, entropy = formula(z_s, z_t, *spare, beta=beta, infinite=infinite)
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


def _log_and_probs_(z: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into log-probabilities in place, and write the probabilities to `out`, with one exponential a token.

    The largest probability is exp(0) over the sum of the exponentials, so its logarithm gives the normaliser.
    """
    probs = torch.softmax(z, -1, out=out)
    return z.sub_(z.amax(-1, keepdim=True) - probs.amax(-1, keepdim=True).log_()), probs


# Each formula gets logits, overwrites its buffers, returns the divergence and the student's entropy, and leaves the
# gradient (by the student's logits, see linear_divergence.py) in `z_s`. Where a probability is 0 because its logarithm
# is -inf, the logarithm must not meet it: 0 * inf is NaN. A probability that merely underflowed is harmless.


def _forward_kl_(z_s: Tensor, z_t: Tensor, free: Tensor, free2: Tensor, *, beta: float, infinite: bool):
    log_p, p = _log_and_probs_(z_s, free)
    log_q, q = _log_and_probs_(z_t, free2)
    gap = log_q.sub_(log_p)
    if infinite:
        gap.masked_fill_(q == 0, 0)
        log_p.masked_fill_(p == 0, 0)
    value = gap.mul_(q).sum(-1)
    entropy = log_p.mul_(p).sum(-1).neg_()
    torch.sub(p, q, out=z_s)
    return value, entropy


def _reverse_kl_(z_s: Tensor, z_t: Tensor, free: Tensor, free2: Tensor, *, beta: float, infinite: bool):
    log_p, p = _log_and_probs_(z_s, free)
    log_q = torch.log_softmax(z_t, -1, out=free2)
    if infinite:
        log_p.masked_fill_(p == 0, 0)
        log_q.masked_fill_(p == 0, 0)
    entropy = torch.mul(log_p, p, out=z_t).sum(-1).neg_()
    gap = log_p.sub_(log_q)
    value = gap.mul_(p).sum(-1)
    gap.addcmul_(p, value[:, None], value=-1)
    return value, entropy


def _jsd_(z_s: Tensor, z_t: Tensor, free: Tensor, free2: Tensor, free3: Tensor, *, beta: float, infinite: bool):
    log_p, p = _log_and_probs_(z_s, free)
    log_q, q = _log_and_probs_(z_t, free2)
    if infinite:
        log_p.masked_fill_(p == 0, 0)
        log_q.masked_fill_(q == 0, 0)
    # Where both underflow the mixture's logarithm has no say, but must be finite
    log_m = torch.lerp(p, q, beta, out=free3).clamp_(min=torch.finfo(p.dtype).tiny).log_()
    kl_teacher = log_q.sub_(log_m).mul_(q).sum(-1)
    entropy = torch.mul(log_p, p, out=log_q).sum(-1).neg_()
    gap = log_p.sub_(log_m)
    kl_student = gap.mul_(p).sum(-1)
    gap.addcmul_(p, kl_student[:, None], value=-1)
    return beta * kl_teacher + (1 - beta) * kl_student, entropy
