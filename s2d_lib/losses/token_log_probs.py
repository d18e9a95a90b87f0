"""What a model says of sampled tokens, from hidden states and head: their log-probabilities, and its entropies.

SRPO asks this of both models: the student's log-probabilities carry GRPO's gradient and the importance ratios, the
self-teacher's entropies its weights, and its log-probabilities the mixed advantages. No logits outlive their chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s2d_lib.losses.inputs import check
from s2d_lib.losses.sampled import log_probs_of
from s2d_lib.losses.topk_targets import prepare_alone


class TokenReadings(NamedTuple):
    """`log_probs` (nats) of the tokens, with a gradient, and `entropy` (nats), without; 0 where masked.

    Both have the tokens' shape.
    """

    log_probs: Tensor
    entropy: Tensor


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    temperature: float = 1.0,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    vocab_size: int | None = None,
    chunk_size: int | None = None,
) -> TokenReadings:
    """Log-probabilities of the sampled tokens and entropies of their distributions, over the whole vocabulary.

    Logits are fp32 or wider and are made again in the backward pass, chunk by chunk. Call it under `torch.no_grad()`
    for a teacher, or where only the numbers matter.

    Args:
        hidden: (..., H), one model's.
        weight: (V, H), its head.
        tokens: (...), whole numbers; anything where masked.
        temperature: divides the logits.
        mask: (...), bool or number; tokens where it is 0 are dropped before anything is computed.
        bias: (V,); this and the next two are those of `linear_divergence`.
        logit_scale: multiplies the logits.
        softcap: c in `c tanh(logits / c)`.
        vocab_size: only the first so many columns.
        chunk_size: tokens at a time.

    Returns:
        `TokenReadings(log_probs, entropy)`, both (...), in nats.

    Raises:
        ValueError: as `linear_divergence`; tokens of the wrong shape or outside the vocabulary.

    """
    options = {"student_bias": bias, "student_logit_scale": logit_scale, "student_softcap": softcap}
    options |= {"mask": mask, "vocab_size": vocab_size, "chunk_size": chunk_size}
    inputs = prepare_alone(hidden, weight, temperature, None, **options)
    good = not tokens.is_floating_point() and tokens.shape == inputs.shape
    check(good, f"tokens must be whole numbers of the hidden states' leading shape {tuple(inputs.shape)}.")
    kept = tokens.reshape(-1).long()
    kept = kept if inputs.rows is None else kept[inputs.rows]
    inside = inputs.n == 0 or bool(kept.min() >= 0 and kept.max() < inputs.vocab)
    check(inside, f"tokens must lie in the compared vocabulary, 0 to {inputs.vocab - 1}.")
    head = inputs.student

    def of_chunk(hidden, weight, bias, sampled):
        log_p = log_probs_of(inputs, head, hidden, weight, bias)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p.where(log_p > -torch.inf, 0.0)).sum(-1)
        return log_p.gather(-1, sampled[:, None]).squeeze(-1), entropy

    parts = []
    with torch.autocast(head.hidden.device.type, enabled=False):
        for part in inputs.chunks():
            arguments = head.hidden[inputs.select(part)], head.weight, head.bias, kept[part]
            parts.append(checkpoint(of_chunk, *arguments, use_reentrant=False))
    log_probs, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenReadings(inputs.spread(log_probs), inputs.spread(entropy))
