"""What a model says of sampled tokens, a divergence of one's own, and cheaper looks: the top tokens, or the sampled one alone.

A reader of Paper A (arXiv 2605.12483) can't settle whether its reverse KL is taken over the vocabulary or from the
sampled token's log-ratio; so the estimator is a parameter. All here still project to the whole vocabulary, chunk by chunk,
with the logits made again in the backward pass: to be compared, not to be fast.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s2d_lib.losses.divergence import Pair, TokenLoss, check_beta, divergence_of_log_probs, linear_divergence
from s2d_lib.losses.head import Head, Kept, aligned, check, check_positive


class TokenReadings(NamedTuple):
    """Of tokens, in their shape; 0 where masked."""

    log_probs: Tensor  # nats, with a gradient
    entropy: Tensor  # nats, without


def token_log_probs(
    hidden: Tensor, head: Head, tokens: Tensor, temperature: float = 1.0, mask: Tensor | None = None
) -> TokenReadings:
    """Log-probabilities of sampled tokens (...) after one model's hidden states (..., H), and their distributions' entropies.

    `temperature` and `mask` as in `Pair`; where masked, tokens may be anything.

    Raises:
        ValueError: As `Pair`; tokens that are no whole numbers, of another shape or outside the vocabulary.
    """
    check_positive("temperature", temperature)
    flat, head = aligned("the", hidden, head)
    kept = Kept(hidden, head, mask)
    ids = kept.ids(tokens, head)

    def of_chunk(hidden, sampled):
        log_p = head.log_probs(hidden, temperature)
        with torch.no_grad():
            entropy = _entropy(log_p)
        return _chosen(log_p, sampled), entropy

    with torch.autocast(hidden.device.type, enabled=False):
        parts = [checkpoint(of_chunk, flat[kept.places(p)], ids[p], use_reentrant=False) for p in kept.chunks()]
    log_probs, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenReadings(kept.spread(log_probs), kept.spread(entropy))


def own_divergence(pair: Pair, formula: Callable[[Tensor, Tensor], Tensor]) -> TokenLoss:
    """A divergence of one's own over the whole vocabulary, a chunk of logits at a time; autograd makes its gradient.

    `formula` gets the student's and the teacher's log-probabilities (n, V) and returns one value per token (n,), in nats; a token
    that a head forbids has -inf there. The loss is the weighted sum over the normalizer, as that of `linear_divergence` is.
    """
    return _estimate(pair, lambda log_p, log_q, _: (formula(log_p, log_q),) * 2)


def topk_tail_divergence(pair: Pair, beta: float = 1.0, *, top_k: int, top_k_of: str = "student") -> TokenLoss:
    """Divergence over k + 1 outcomes: one model's k most likely tokens, and all others together as one tail bucket.

    Merging tokens can only lower a divergence, so this is a lower bound of the full one: never negative, 0 for equal
    models, equal to it for k = V. The tail is what makes it so: without it the student may lower a truncated reverse KL
    by moving its mass out of the top tokens, and a truncated forward KL goes negative. The choice of the tokens is not
    differentiated. They are those of `top_k_of`, "student" or "teacher"; a `top_k` above the vocabulary means all of it.

    Raises:
        ValueError: A number out of its range, or an unknown `top_k_of`.
    """
    check_beta(beta)
    check(isinstance(top_k, int) and top_k >= 1, f"top_k must be a whole number above 0, got {top_k!r}.")
    check(top_k_of in ("student", "teacher"), f"top_k_of must be 'student' or 'teacher', got {top_k_of!r}.")

    def merged(log_p: Tensor, log_q: Tensor) -> Tensor:
        top = (log_p if top_k_of == "student" else log_q).detach().topk(min(top_k, log_p.shape[-1])).indices
        value = divergence_of_log_probs(_with_tail(log_p, top), _with_tail(log_q, top), beta)
        # Rounding may leave equal distributions a hair below zero
        return torch.where(value < 0, value - value.detach(), value)

    return own_divergence(pair, merged)


def sampled_token_reverse_kl(pair: Pair, beta: float = 1.0, *, tokens: Tensor) -> TokenLoss:
    """Reverse KL from the sampled token alone: policy gradient with the dense reward `log p_T(y) - log p_S(y)`.

    For a token y drawn from the student (at this temperature), `r = log p_S(y) - log p_T(y)` has the expectation
    KL(p_S || p_T), and `r.detach() * grad log p_S(y)` has the KL's gradient as its expectation, since the remaining
    term, E[grad log p_S(y)], is zero. (The gradient of `r` itself would be just that zero.) This is REINFORCE on the
    dense reward of Paper A's Eq. 2 with each state's own reward only, as in on-policy distillation with sampled
    log-ratios; MiniLLM (arXiv 2306.08543) adds the rewards of later states, which is not done here. The loss has the
    value mean(r), and `per_token` is r: single ones may be negative, and are noisy by design, without a baseline.

    `tokens` (...) are those sampled in each state, anything where masked; drawn from an older student they need their
    importance ratios in the pair's weights to stay unbiased. `beta` must be 1, as theirs is the only divergence they estimate.

    Raises:
        ValueError: Another `beta`, or tokens of the wrong shape or outside the vocabulary.
    """
    check(beta == 1, f"sampled_token estimates the reverse KL only: beta must be 1, got {beta!r}.")

    def of_chunk(log_p: Tensor, log_q: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
        log_p = _chosen(log_p, sampled)
        value = (log_p - _chosen(log_q, sampled)).detach()
        return value * (1 + log_p - log_p.detach()), value

    return _estimate(pair, of_chunk, pair.kept.ids(tokens, pair.student))


ESTIMATORS = {"full": linear_divergence, "topk_tail": topk_tail_divergence, "sampled_token": sampled_token_reverse_kl}


def estimator(name: str, **options) -> Callable[..., TokenLoss]:
    """The estimator "full", "topk_tail" or "sampled_token" with `options` (such as `beta`) set.

    It is called with a pair and `tokens=`, the sampled ones, which only "sampled_token" looks at: so a trainer can switch
    among the three by name alone.
    """
    chosen = functools.partial(ESTIMATORS[name], **options)
    return chosen if name == "sampled_token" else lambda pair, tokens=None: chosen(pair)


def _estimate(pair: Pair, of_chunk: Callable, sampled: Tensor | None = None) -> TokenLoss:
    """Sum what `of_chunk(log_p, log_q, sampled)` returns as (differentiable, reported) values over the kept tokens."""

    def body(hidden, teacher_hidden, sampled):
        log_p = pair.student.log_probs(hidden, pair.temperature)
        with torch.no_grad():
            log_q = pair.teacher.log_probs(teacher_hidden, pair.temperature)
            entropy, agreement = _entropy(log_p), log_p.argmax(-1) == log_q.argmax(-1)
        return *of_chunk(log_p, log_q, sampled), entropy, agreement

    parts = []
    with torch.autocast(pair.student_hidden.device.type, enabled=False):
        for part in pair.kept.chunks():
            states = (hidden[pair.kept.places(part)] for hidden in (pair.student_hidden, pair.teacher_hidden))
            parts.append(checkpoint(body, *states, None if sampled is None else sampled[part], use_reentrant=False))
        differentiable, value, entropy, agreement = (torch.cat(columns) for columns in zip(*parts, strict=True))
        if pair.weights is not None:
            differentiable = differentiable * pair.weights
        return pair.token_loss(differentiable.sum() / pair.normalizer, value, entropy, agreement)


def _chosen(log_probs: Tensor, tokens: Tensor) -> Tensor:
    return log_probs.gather(-1, tokens[:, None]).squeeze(-1)


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs.where(log_probs > -math.inf, 0.0)).sum(-1)


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
