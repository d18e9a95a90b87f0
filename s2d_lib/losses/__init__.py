"""Distillation losses as pure tensor functions: three estimators of one divergence, and the reference they must match.

`linear_divergence` is exact and the default; `topk_tail_divergence` and `sampled_token_reverse_kl` are what others use
in its place, for the ablation. All take hidden states and heads and return a `TokenLoss`. `topk_targets_forward_kl` is
`topk_tail_divergence` without a teacher, from what `topk_targets` kept of it. This room knows torch only.

For SDPO and SRPO, in the order in which a step asks for them: `route` the rollouts, `group_advantages`,
`token_log_probs` of both models, `entropy_weights` from their sums, `clipped_policy_loss` and `self_distillation`, and
`srpo_objective` of both.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

from s2d_lib.losses.advantage_mix import mixed_advantages
from s2d_lib.losses.entropy_weights import WeightSums, entropy_weights, merge_weight_sums, weight_sums
from s2d_lib.losses.inputs import TokenLoss
from s2d_lib.losses.linear_divergence import linear_divergence
from s2d_lib.losses.policy_gradient import clipped_policy_loss, group_advantages
from s2d_lib.losses.reference import divergence, kl_divergence
from s2d_lib.losses.routing import Routes, route
from s2d_lib.losses.sampled import sampled_token_reverse_kl, topk_tail_divergence
from s2d_lib.losses.self_distillation import clamped_ratio, self_distillation
from s2d_lib.losses.srpo_objective import routed_masks, srpo_objective
from s2d_lib.losses.token_log_probs import TokenReadings, token_log_probs
from s2d_lib.losses.topk_targets import topk_targets, topk_targets_forward_kl

__all__ = [
    "ESTIMATORS",
    "Routes",
    "TokenLoss",
    "TokenReadings",
    "WeightSums",
    "clamped_ratio",
    "clipped_policy_loss",
    "divergence",
    "entropy_weights",
    "estimator",
    "group_advantages",
    "kl_divergence",
    "linear_divergence",
    "merge_weight_sums",
    "mixed_advantages",
    "route",
    "routed_masks",
    "sampled_token_reverse_kl",
    "self_distillation",
    "srpo_objective",
    "token_log_probs",
    "topk_tail_divergence",
    "topk_targets",
    "topk_targets_forward_kl",
    "weight_sums",
]

ESTIMATORS = {
    "full": linear_divergence,
    "topk_tail": topk_tail_divergence,
    "sampled_token": sampled_token_reverse_kl,
}


def estimator(name: str, **options) -> Callable[..., TokenLoss]:
    """Return the estimator `name` ("full", "topk_tail" or "sampled_token") with `options` (such as `top_k`) set.

    The result is called like `linear_divergence`, always with `tokens=` (the sampled tokens) beside, which only
    "sampled_token" looks at: so a trainer can switch among the three by name alone.

    Raises:
        ValueError: an unknown name, or an option that this estimator does not have.

    """
    if name not in ESTIMATORS:
        raise ValueError(f"Unknown estimator {name!r}: choose one of {', '.join(ESTIMATORS)}.")
    chosen = ESTIMATORS[name]
    known = {*inspect.signature(linear_divergence).parameters, *inspect.signature(chosen).parameters} - {"options"}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"The estimator {name!r} has no option {', '.join(unknown)}.")

    @functools.wraps(chosen)
    def switched(*args, tokens=None, **kwargs):
        if "tokens" in known:
            kwargs["tokens"] = tokens
        return chosen(*args, **{**options, **kwargs})

    return switched
