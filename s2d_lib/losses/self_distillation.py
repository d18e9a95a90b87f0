"""SDPO's token loss: the divergence between a student and its own informed self (arXiv 2601.20802).

The self-teacher is the same model, shown a correct sibling's solution or feedback, re-scoring the student's tokens. To
this room it is a teacher like any other, so the divergences are those of `linear_divergence` and
`topk_tail_divergence`; what SDPO adds, its settings and its importance ratio, is here. The ratio and SRPO's entropy
weights are constants to the gradient, so both go into `weights`, as a product, and the loss stays in one piece.
"""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from s2d_lib.losses.inputs import TokenLoss, check
from s2d_lib.losses.linear_divergence import linear_divergence
from s2d_lib.losses.sampled import topk_tail_divergence


def self_distillation(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    beta: float = 0.5,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    *,
    top_k: int | None = 100,
    **options,
) -> TokenLoss:
    """SDPO's divergence of student and self-teacher, with its known defaults: JSD over the student's top 100 and a tail.

    `beta` is SDPO's and TRL's alpha, without any change (TRL 1.16, `sdpo.loss_utils.compute_divergence`): 0 is the
    forward KL(p_T || p_S), 1 the reverse KL(p_S || p_T), between them `beta KL(p_T || m) + (1 - beta) KL(p_S || m)`
    with `m = (1 - beta) p_S + beta p_T`, see `reference.divergence`. TRL's own defaults are others: reverse KL from the
    sampled token; that one is `sampled_token_reverse_kl`, with the same gradient.

    The tail is exact here, also where it is nearly empty; TRL never lets it fall under 1e-7.

    Args:
        student_hidden: (..., Hs), the student's on its own rollout; this and the next three are those of
            `linear_divergence`.
        student_weight: (Vs, Hs).
        teacher_hidden: (..., Ht), the self-teacher's, of the same tokens behind its longer prompt. No gradient.
        teacher_weight: (Vt, Ht); no gradient, even if it is the student's own head.
        beta: which divergence, from 0 to 1.
        temperature: divides both models' logits: the rollout temperature.
        weights: (...), each token's factor in the loss: `clamped_ratio`, times `entropy_weights` for SRPO.
        top_k: how many of the student's most likely tokens stay apart; all others are one tail bucket. None: the whole
            vocabulary, which is also the cheaper one here.
        options: all other keywords of `linear_divergence`: mask (the tokens that are routed to SDPO), normalizer (1 for
            `srpo_objective`, which divides itself), biases, logit scales, softcaps, vocab_size, chunk_size.

    Returns:
        `TokenLoss`, in nats: `loss` is the weighted sum over `normalizer`, with a gradient; `per_token` is unweighted.

    Raises:
        ValueError: as `topk_tail_divergence`.

    """
    models = student_hidden, student_weight, teacher_hidden, teacher_weight
    if top_k is None:
        return linear_divergence(*models, beta, temperature, weights, **options)
    return topk_tail_divergence(*models, beta, temperature, weights, top_k=top_k, top_k_of="student", **options)


def clamped_ratio(log_probs: Tensor, sampled_log_probs: Tensor, clamp: float | None = 2.0) -> Tensor:
    """SDPO's importance ratio of the sampled tokens, from above at most `clamp`; no gradient flows through it.

    `min(exp(log_probs - sampled_log_probs), clamp)`. As in TRL 1.16 (`apply_importance_sampling_clipping`) the
    difference is detached, limited to +-20 before it is exponentiated, and clamped on one side only: the ratio scales
    a token's divergence, it does not switch it off. Both sides must be at the temperature of the divergence, as TRL's
    are. A rollout that is used once, before any update, has the ratio 1 and needs none of this.

    Args:
        log_probs: (...), the student's now, of the sampled tokens (nats).
        sampled_log_probs: (...), the student's when it sampled them (nats).
        clamp: highest ratio; None: no importance sampling, all ones.

    Returns:
        (...).

    Raises:
        ValueError: the shapes differ, or `clamp` is not above 0.

    """
    shapes = tuple(log_probs.shape), tuple(sampled_log_probs.shape)
    check(shapes[0] == shapes[1], f"both log-probabilities must have the same shape, got {shapes[0]} and {shapes[1]}.")
    good = clamp is None or (isinstance(clamp, Real) and clamp > 0)
    check(good, f"clamp must be a number above 0 or None, got {clamp!r}.")
    if clamp is None:
        return torch.ones_like(log_probs, requires_grad=False)
    gap = (log_probs - sampled_log_probs).detach().clamp(min=-20.0, max=20.0)
    return gap.exp().clamp(max=clamp)
