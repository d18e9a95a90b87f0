"""Cheaper looks at the same divergence, as options of on-policy distillation: the top tokens, or the sampled one.

What a reader of Paper A (arXiv 2605.12483) can't settle is whether its reverse KL is taken over the vocabulary or from
the sampled token's log-ratio; so the estimator is a parameter, and these two stand beside `linear_divergence` with its
signature and its result. Both still project to the whole vocabulary (they need the normalisers), chunk by chunk, with
the logits recomputed in the backward pass: they are here to be compared, not to be fast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s2d_lib.losses.inputs import Head, Inputs, TokenLoss, check, check_beta, prepare, project
from s2d_lib.losses.reference import divergence_of_log_probs


def topk_tail_divergence(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    beta: float = 1.0,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    *,
    top_k: int = 64,
    top_k_of: str = "student",
    **options,
) -> TokenLoss:
    """Divergence over k + 1 outcomes: one model's k most likely tokens, and all others together as one tail bucket.

    Merging tokens can only lower a divergence, so this is a lower bound of the full one: never negative, 0 for equal
    models, equal to it for k = V. The tail is what makes it so: without it the student may lower a truncated reverse KL
    by moving its mass out of the top tokens, and a truncated forward KL goes negative. The choice of the tokens is not
    differentiated.

    Args:
        student_hidden: (..., Hs); this and the next six are those of `linear_divergence`.
        student_weight: (Vs, Hs).
        teacher_hidden: (..., Ht).
        teacher_weight: (Vt, Ht).
        beta: 0 forward KL, 1 reverse KL, between them the generalised JSD (GKD, arXiv 2306.13649).
        temperature: divides both models' logits.
        weights: (...).
        top_k: how many tokens stay apart; more than the vocabulary means all of it.
        top_k_of: whose most likely tokens: "student" or "teacher".
        options: all other keywords of `linear_divergence`: mask, biases, logit scales, softcaps, vocab_size, normalizer,
            chunk_size.

    Returns:
        `TokenLoss`, in nats; `entropy` and `agreement` are the exact ones.

    Raises:
        ValueError: as `linear_divergence`; a `top_k` below 1 or an unknown `top_k_of`.

    """
    check_beta(beta)
    check(isinstance(top_k, int) and top_k >= 1, f"top_k must be a whole number above 0, got {top_k!r}.")
    check(top_k_of in ("student", "teacher"), f"top_k_of must be 'student' or 'teacher', got {top_k_of!r}.")
    inputs = prepare(student_hidden, student_weight, teacher_hidden, teacher_weight, temperature, weights, **options)

    def of_chunk(log_p: Tensor, log_q: Tensor, _: None) -> tuple[Tensor, Tensor]:
        k = min(top_k, inputs.vocab)
        top = (log_p if top_k_of == "student" else log_q).detach().topk(k).indices
        value = divergence_of_log_probs(_with_tail(log_p, top), _with_tail(log_q, top), beta)
        # Rounding may leave equal distributions a hair below zero
        value = torch.where(value < 0, value - value.detach(), value)
        return value, value

    return _estimate(inputs, of_chunk)


def sampled_token_reverse_kl(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    beta: float = 1.0,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    *,
    tokens: Tensor,
    **options,
) -> TokenLoss:
    """Reverse KL from the sampled token alone: policy gradient with the dense reward `log p_T(y) - log p_S(y)`.

    For a token y drawn from the student (at this temperature), `r = log p_S(y) - log p_T(y)` has the expectation
    KL(p_S || p_T), and `r.detach() * grad log p_S(y)` has the KL's gradient as its expectation, since the remaining
    term, E[grad log p_S(y)], is zero. (The gradient of `r` itself would be just that zero.) This is REINFORCE on the
    dense reward of Paper A's Eq. 2 with each state's own reward only, as in on-policy distillation with sampled
    log-ratios; MiniLLM (arXiv 2306.08543) adds the rewards of later states, which is not done here. The loss has the
    value mean(r) and that gradient. Single samples may be negative, and are noisy by design: there is no baseline.

    Tokens drawn from an older student need their importance ratios in `weights` to stay unbiased.

    Args:
        student_hidden: (..., Hs); this and the next six are those of `linear_divergence`.
        student_weight: (Vs, Hs).
        teacher_hidden: (..., Ht).
        teacher_weight: (Vt, Ht).
        beta: must be 1: the tokens are the student's, and so is the only divergence they estimate.
        temperature: divides both models' logits.
        weights: (...).
        tokens: (...), whole numbers: the token sampled in each state; anything where masked.
        options: all other keywords of `linear_divergence`: mask, biases, logit scales, softcaps, vocab_size, normalizer,
            chunk_size.

    Returns:
        `TokenLoss`, in nats; `per_token` is `r`, `entropy` and `agreement` are the exact ones.

    Raises:
        ValueError: as `linear_divergence`; another `beta`, or tokens of the wrong shape or outside the vocabulary.

    """
    check(beta == 1, f"sampled_token estimates the reverse KL only: beta must be 1, got {beta!r}.")
    inputs = prepare(student_hidden, student_weight, teacher_hidden, teacher_weight, temperature, weights, **options)
    good = isinstance(tokens, Tensor) and not tokens.is_floating_point() and tokens.shape == inputs.shape
    check(good, f"tokens must be whole numbers of the tokens' shape {tuple(inputs.shape)}.")
    kept = tokens.reshape(-1).long()
    kept = kept if inputs.rows is None else kept[inputs.rows]
    inside = inputs.n == 0 or bool(kept.min() >= 0 and kept.max() < inputs.vocab)
    check(inside, f"tokens must lie in the compared vocabulary, 0 to {inputs.vocab - 1}.")

    def of_chunk(log_p: Tensor, log_q: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
        log_p = log_p.gather(-1, sampled[:, None]).squeeze(-1)
        value = (log_p - log_q.gather(-1, sampled[:, None]).squeeze(-1)).detach()
        return value * (1 + log_p - log_p.detach()), value

    return _estimate(inputs, of_chunk, kept)


def _with_tail(log_probs: Tensor, top: Tensor) -> Tensor:
    """Log-probabilities (n, k + 1) of the tokens `top`, (n, k), and of all others together; (n, V) if top is all."""
    chosen = log_probs.gather(-1, top)
    if top.shape[-1] == log_probs.shape[-1]:
        return chosen
    others = log_probs.scatter(-1, top, -math.inf)
    # The gradient of a sum that is empty in probability would be NaN: -inf stands for it without a gradient
    empty = others.detach().amax(-1, keepdim=True) == -math.inf
    tail = torch.where(empty, 0.0, others).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, torch.where(empty, -math.inf, tail)], -1)


def _estimate(inputs: Inputs, of_chunk, extra: Tensor | None = None) -> TokenLoss:
    """Sum what `of_chunk(log_p, log_q, extra)` returns as (differentiable, reported) values over the kept tokens."""
    student, teacher = inputs.student, inputs.teacher

    def body(hidden, weight, bias, teacher_hidden, extra):
        log_p = log_probs_of(inputs, student, hidden, weight, bias)
        with torch.no_grad():
            log_q = log_probs_of(inputs, teacher, teacher_hidden, teacher.weight, teacher.bias)
            entropy = -(log_p.exp() * log_p.where(log_p > -math.inf, 0.0)).sum(-1)
            agreement = log_p.argmax(-1) == log_q.argmax(-1)
        return *of_chunk(log_p, log_q, extra), entropy, agreement

    parts = []
    with torch.autocast(student.hidden.device.type, enabled=False):
        for part in inputs.chunks():
            where = inputs.select(part)
            arguments = student.hidden[where], student.weight, student.bias, teacher.hidden[where]
            arguments = *arguments, None if extra is None else extra[part]
            parts.append(checkpoint(body, *arguments, use_reentrant=False))
        differentiable, value, entropy, agreement = (torch.cat(columns) for columns in zip(*parts, strict=True))
        if inputs.weights is not None:
            differentiable = differentiable * inputs.weights
        return inputs.token_loss(differentiable.sum() / inputs.normalizer, value, entropy, agreement)


def log_probs_of(inputs: Inputs, head: Head, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Log-probabilities (n, V) of one of the two models for some of its tokens; differentiable."""
    logits = _Projection.apply(hidden, weight, bias, inputs.vocab, inputs.dtype) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return (logits / inputs.temperature).log_softmax(-1)


class _Projection(torch.autograd.Function):
    """`project` for autograd: logits wider than the inputs, gradient matmuls in the inputs' dtype."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, vocab, dtype):
        ctx.save_for_backward(hidden, weight)
        ctx.bias = None if bias is None else bias.new_empty(0)
        ctx.padding = weight.shape[0] - vocab
        out = torch.empty(hidden.shape[0], vocab, dtype=dtype, device=hidden.device)
        return project(hidden, weight[:vocab], None if bias is None else bias[:vocab], out)

    @staticmethod
    def backward(ctx, grad):
        hidden, weight = ctx.saved_tensors
        rounded = grad.to(hidden.dtype)
        pad = torch.nn.functional.pad
        of_hidden = rounded @ weight[: grad.shape[1]] if ctx.needs_input_grad[0] else None
        of_weight = pad(rounded.t() @ hidden, (0, 0, 0, ctx.padding)) if ctx.needs_input_grad[1] else None
        of_bias = pad(grad.sum(0), (0, ctx.padding)).to(ctx.bias.dtype) if ctx.needs_input_grad[2] else None
        return of_hidden, of_weight, of_bias, None, None
