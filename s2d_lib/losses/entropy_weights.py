"""SRPO's entropy-aware weights (DW, arXiv 2604.02288): where the self-teacher is unsure, its word counts less.

With H the self-teacher's entropy (nats) at a token, and means over all valid SDPO tokens of an optimiser batch,

    w~ = exp(-beta H),    w = w~ / mean(w~)

The mean needs a pass over the whole batch before the first loss: `weight_sums` of each micro-batch, `merge_weight_sums`
over micro-batches and processes, then `entropy_weights`. Sums are kept as logarithms: w~ itself may underflow
everywhere, as 0 / 0, though its shares are well defined.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from s2d_lib.losses.inputs import check


class WeightSums(NamedTuple):
    """Of some SDPO tokens: `log_total`, log of the sum of exp(-beta H), fp64, -inf for none; `count`, int64.

    Scalars; or (P,), as gathered from P processes, to be merged.
    """

    log_total: Tensor
    count: Tensor


@torch.no_grad()
def weight_sums(entropy: Tensor, mask: Tensor, beta: float = 1.0) -> WeightSums:
    """Sum up the unnormalised weights of the masked-in tokens.

    Args:
        entropy: (...), the self-teacher's (nats), at the rollout temperature; anything where masked.
        mask: (...), bool or number: the valid tokens of SDPO-routed rollouts.
        beta: 0 or more, per nat.

    Returns:
        `WeightSums`, scalars.

    Raises:
        ValueError: the shapes differ, or `beta` is negative or not finite.

    """
    log_weights, kept = _log_weights(entropy, mask, beta)
    return WeightSums(log_weights.reshape(-1).logsumexp(0), kept.sum())


@torch.no_grad()
def merge_weight_sums(parts: Iterable[WeightSums]) -> WeightSums:
    """One `WeightSums` of all tokens from those of micro-batches, or of processes (gathered, as scalars or vectors).

    Raises:
        ValueError: there are no parts.

    """
    parts = list(parts)
    check(len(parts) > 0, "there are no weight sums to merge.")
    log_totals, counts = (torch.cat([value.reshape(-1) for value in column]) for column in zip(*parts, strict=True))
    return WeightSums(log_totals.logsumexp(0), counts.sum())


@torch.no_grad()
def entropy_weights(entropy: Tensor, mask: Tensor, sums: WeightSums, beta: float = 1.0) -> Tensor:
    """Weights that average 1 over all tokens behind `sums`: exp(-beta H) over its mean there; 0 where masked.

    Without gradient. With `beta` 0 they are exactly 1.

    Args:
        entropy: (...), the self-teacher's (nats); anything where masked.
        mask: (...), bool or number: the valid tokens of SDPO-routed rollouts.
        sums: of the whole optimiser batch, these tokens included, made with the same `beta`.
        beta: 0 or more, per nat.

    Returns:
        (...), fp32, or fp64 for fp64 entropies.

    Raises:
        ValueError: as `weight_sums`; sums of fewer tokens than the mask has.

    """
    log_weights, kept = _log_weights(entropy, mask, beta)
    here, there = int(kept.sum()), int(sums.count)
    check(
        here <= there, f"the sums are of {there} tokens, but these are {here}: sum up the whole optimiser batch first."
    )
    dtype = torch.promote_types(entropy.dtype, torch.float32)
    if beta == 0:
        return kept.to(dtype)
    shift = math.log(max(there, 1)) - sums.log_total.to(entropy.device)
    return torch.where(kept, (log_weights + shift).exp(), 0.0).to(dtype)


def _log_weights(entropy: Tensor, mask: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """-beta H in fp64, -inf where masked, and the mask as bool."""
    shapes = tuple(entropy.shape), tuple(mask.shape)
    check(shapes[0] == shapes[1], f"entropy and mask must have the same shape, got {shapes[0]} and {shapes[1]}.")
    good = isinstance(beta, Real) and math.isfinite(beta) and beta >= 0
    check(good, f"beta must be a finite number from 0 on, got {beta!r}.")
    kept = mask != 0
    return torch.where(kept, -beta * entropy.double(), -math.inf), kept
