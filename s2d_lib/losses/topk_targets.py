r"""Forward KL to what was kept of a teacher: its k most likely tokens, and all others together as one tail bucket.

With K the kept tokens, p the student's distribution and q the teacher's,

    KL(q || p) = sum_{i in K} q_i (log q_i - log p_i) + q_tail (log q_tail - log p_tail)
    d/dz_i     = p_i - q_i  for i in K,    p_i - q_tail p_i / p_tail  for all others

which is the full divergence's gradient, p - q, with the unknown tail spread as the student itself spreads its own. So
neither the teacher's body nor its head is needed. The gradients of hidden states and head are made in the forward pass,
chunk by chunk, as in `linear_divergence`: three head-sized matmuls.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from s2d_lib.losses.blocks import block_rows
from s2d_lib.losses.inputs import Head, Inputs, TokenLoss, check, prepare, project
from s2d_lib.losses.linear_divergence import add_outer_
from s2d_lib.losses.reference import kl_divergence
from s2d_lib.losses.sampled import log_probs_of


def topk_targets(
    hidden: Tensor,
    weight: Tensor,
    top_k: int,
    temperature: float = 1.0,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What `topk_targets_forward_kl` needs to know of a teacher, from its hidden states and head; without gradients.

    Args:
        hidden: (..., H).
        weight: (V, H).
        top_k: how many tokens are kept; more than the vocabulary means all of it.
        temperature: divides the logits.
        bias: (V,); this and the next two are those of `linear_divergence`.
        logit_scale: multiplies the logits.
        softcap: c in `c tanh(logits / c)`.
        chunk_size: tokens at a time.

    Returns:
        The kept tokens, (..., k) int64, the most likely one first, and their log-probabilities with that of all others
        together behind them, (..., k + 1) in nats.

    Raises:
        ValueError: as `linear_divergence`; a `top_k` below 1.

    """
    check(isinstance(top_k, int) and top_k >= 1, f"top_k must be a whole number above 0, got {top_k!r}.")
    options = {"student_bias": bias, "student_logit_scale": logit_scale, "student_softcap": softcap}
    parts = []
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        inputs = prepare_alone(hidden, weight, temperature, None, chunk_size=chunk_size, **options)
        head = inputs.student
        for part in inputs.chunks():
            log_q = log_probs_of(inputs, head, head.hidden[part], head.weight, head.bias)
            tokens = log_q.topk(min(top_k, inputs.vocab)).indices
            parts.append((tokens, _outcomes(log_q, tokens)))
    tokens, log_probs = (torch.cat(column).unflatten(0, inputs.shape) for column in zip(*parts, strict=True))
    return tokens, log_probs


def topk_targets_forward_kl(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_tokens: Tensor,
    teacher_log_probs: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    **options,
) -> TokenLoss:
    """`topk_tail_divergence(beta=0, top_k_of="teacher")` from the teacher's kept tokens instead of the teacher.

    Args:
        student_hidden: (..., Hs).
        student_weight: (V, Hs), the student's head.
        teacher_tokens: (..., k), whole numbers, the most likely one first; anything where masked.
        teacher_log_probs: (..., k + 1), in nats: of the tokens, and of all others together (-inf if there are none).
            They must have been made at the same temperature, see `topk_targets`.
        temperature: divides the student's logits.
        weights: (...).
        options: those keywords of `linear_divergence` that do not concern the teacher: mask, student_bias,
            student_logit_scale, student_softcap, vocab_size, normalizer, chunk_size.

    Returns:
        `TokenLoss`, in nats; `entropy` and `agreement` are the exact ones.

    Raises:
        ValueError: as `linear_divergence`; tokens or log-probabilities of another shape, or outside the vocabulary.

    """
    inputs = prepare_alone(student_hidden, student_weight, temperature, weights, **options)
    k = teacher_tokens.shape[-1] if teacher_tokens.dim() else 0
    good = k >= 1 and not teacher_tokens.is_floating_point() and teacher_tokens.shape == (*inputs.shape, k)
    check(good, f"teacher_tokens must be whole numbers of shape {(*inputs.shape, 'k')}.")
    check(
        teacher_log_probs.shape == (*inputs.shape, k + 1),
        f"teacher_log_probs must have shape {(*inputs.shape, k + 1)}, got {tuple(teacher_log_probs.shape)}.",
    )
    tokens = teacher_tokens.reshape(-1, k)
    log_q = teacher_log_probs.detach().reshape(-1, k + 1)
    if inputs.rows is not None:
        tokens, log_q = tokens[inputs.rows], log_q[inputs.rows]
    tokens, log_q = tokens.long(), log_q.to(inputs.dtype)
    inside = inputs.n == 0 or bool(tokens.min() >= 0 and tokens.max() < inputs.vocab)
    check(inside, f"teacher_tokens must lie in the compared vocabulary, 0 to {inputs.vocab - 1}.")

    head = inputs.student
    leaves = head.hidden, head.weight, head.bias
    wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in leaves]
    with torch.no_grad(), torch.autocast(head.hidden.device.type, enabled=False):
        (loss, *of_tokens), gradients = _compute(inputs, tokens, log_q, wanted)
    return inputs.token_loss(_WithGradients.apply(loss, gradients, *leaves), *of_tokens)


def prepare_alone(hidden: Tensor, weight: Tensor, temperature: float, weights: Tensor | None, **options) -> Inputs:
    """`prepare` for one model: a second one of width 1 stands in for the one that is not there."""
    nobody = hidden.new_zeros(()).expand(*hidden.shape[:-1], 1), hidden.new_zeros(()).expand(weight.shape[0], 1)
    return prepare(hidden, weight, *nobody, temperature, weights, **options)


def _outcomes(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities (n, k + 1) of `tokens`, (n, k), and of all others together, -inf if there are none."""
    tail = log_probs.scatter(-1, tokens, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, tokens), tail], -1)


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients were made along with it."""

    @staticmethod
    def forward(ctx, loss, gradients, *leaves):
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        return None, None, *(None if gradient is None else gradient * upstream for gradient in ctx.gradients)


def _compute(inputs: Inputs, tokens: Tensor, log_q: Tensor, wanted: list[bool]):
    """Return (loss, per_token, entropy, agreement) over the kept tokens and the gradients of `wanted`, or Nones."""
    head, vocab = inputs.student, inputs.vocab
    hidden, weight = head.hidden, head.weight
    bias = None if head.bias is None else head.bias[:vocab]
    wants_hidden, wants_weight, wants_bias = wanted
    of_hidden = torch.zeros_like(hidden) if wants_hidden else None
    of_weight = torch.zeros_like(weight, dtype=inputs.dtype) if wants_weight else None
    of_bias = torch.zeros_like(head.bias, dtype=inputs.dtype) if wants_bias else None
    buffer = torch.empty(inputs.chunk, vocab, dtype=inputs.dtype, device=hidden.device)
    factor = torch.tensor(head.scale / inputs.temperature, dtype=inputs.dtype, device=hidden.device) / inputs.normalizer
    factor = factor.expand(inputs.n) if inputs.weights is None else inputs.weights * factor
    # Elementwise work goes by blocks of rows that fit in cache, as in `linear_divergence`
    block = block_rows(vocab, hidden.device.type)
    columns = []
    for part in inputs.chunks():
        where = inputs.select(part)
        rows = hidden[where]
        z = project(rows, weight[:vocab], bias, buffer[: rows.shape[0]])
        for pieces in zip(*(t.split(block) for t in (z, tokens[part], log_q[part], factor[part])), strict=True):
            columns.append(_divergence_(head, inputs.temperature, *pieces))
        # z now holds the gradient of the loss by the student's projection
        rounded = z.to(hidden.dtype)
        if wants_hidden:
            of_hidden[where] = torch.mm(rounded, weight[:vocab])
        if wants_weight:
            add_outer_(of_weight[:vocab], z, rounded, rows, first=part.start == 0)
        if wants_bias:
            of_bias[:vocab] += z.sum(0)

    per_token, entropy, agreement = (torch.cat(column) for column in zip(*columns, strict=True))
    loss = (per_token if inputs.weights is None else per_token * inputs.weights).sum() / inputs.normalizer
    of_weight = None if of_weight is None else of_weight.to(weight.dtype)
    of_bias = None if of_bias is None else of_bias.to(head.bias.dtype)
    return (loss, per_token, entropy, agreement), (of_hidden, of_weight, of_bias)


def _divergence_(head: Head, temperature: float, z: Tensor, tokens: Tensor, log_q: Tensor, factor: Tensor):
    """Return divergence, entropy and agreement of a block, (n,) each; turn its projection `z` (n, V) into the gradient.

    `factor` (n,) multiplies the gradient, beyond the divergence's own formula.
    """
    slope = None
    if head.softcap is None:
        z.mul_(head.scale / temperature)
    else:
        z.mul_(head.scale / head.softcap).tanh_()
        slope = 1 - z * z
        z.mul_(head.softcap / temperature)
    log_p = torch.log_softmax(z, -1)
    chosen = log_p.gather(-1, tokens)
    agreement = chosen[:, 0] == log_p.amax(-1)
    # The others relative to the highest of them, so that their shares of the tail outlive an underflow of the tail
    others = log_p.scatter(-1, tokens, -math.inf)
    highest = others.amax(-1, keepdim=True)
    others.sub_(highest.clamp(min=torch.finfo(z.dtype).min)).exp_()
    mass = others.sum(-1, keepdim=True)  # at least 1, or 0 where there are none
    value = kl_divergence(log_q, torch.cat([chosen, highest + mass.log()], -1))
    q = others.mul_(log_q[:, -1:].exp() / mass.clamp(min=1)).scatter_(-1, tokens, log_q[:, :-1].exp())
    p = torch.exp(log_p, out=z)
    if head.bias is not None:  # only a bias forbids tokens, and 0 * -inf is NaN
        log_p.masked_fill_(p == 0, 0)
    entropy = log_p.mul_(p).sum(-1).neg_()
    p.sub_(q).mul_(factor[:, None])
    if slope is not None:
        p.mul_(slope)
    return value.clamp_(min=0), entropy, agreement  # rounding may leave equal distributions a hair below zero
