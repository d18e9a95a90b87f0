"""Losses as pure tensor functions of hidden states and heads; this room knows torch only.

`linear_divergence` is exact; `estimator` has what others use in its place, `own_divergence` takes any formula; paper B has
`s2d_lib.losses.srpo`.
"""

from s2d_lib.losses.divergence import Pair, TokenLoss, divergence, kl_divergence, linear_divergence
from s2d_lib.losses.head import Head
from s2d_lib.losses.sampled import estimator, own_divergence, token_log_probs

__all__ = [
    "Head",
    "Pair",
    "TokenLoss",
    "divergence",
    "estimator",
    "kl_divergence",
    "linear_divergence",
    "own_divergence",
    "token_log_probs",
]
