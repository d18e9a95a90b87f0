"""How noisy is the gradient that one rollout gives? Computed exactly, by enumerating all rollouts.

Four estimators of how to lower KL(p || p*) from one rollout y of p, from sparse to dense. All are sums over t of a
vector on the logits of the state s_t, and the states of one rollout are all different, so the squared norm of the sum
is the sum of squared norms and no [N, S, V] array is needed. With l_t = log p/p*(y_t | s_t):

    sequence    (sum of all l - its mean) * (onehot(y_t) - p(.|s_t))       one number for the whole sequence
    to-go       (sum of l from t on - W(s_t)) * (onehot(y_t) - p(.|s_t))   the same expectation, credit from t on only
    token       (l_t - KL(s_t)) * (onehot(y_t) - p(.|s_t))                 OPD, sampled-token estimator
    vocabulary  p(.|s_t) * (l_t(.) - KL(s_t))                              OPD, full vocabulary: nothing sampled but s_t

The first two estimate `kl_gradient`, the last two `opd_gradient`. At p = p_ref the first is REINFORCE with the
0/1 reward and its mean as baseline, over tau: l sums to log Z - r(y)/tau.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import StudyError
from .objectives import token_kl
from .tree import Array, Tree, expected_return, sequence_log_probs

ESTIMATORS = ("sequence", "to-go", "token", "vocabulary")


@dataclass(frozen=True)
class Moments:
    """Exact first two moments of a one-rollout gradient estimate g."""

    mean: Array
    """[S, V] E[g]."""
    second: float
    """E[|g|^2]."""

    @property
    def signal(self) -> float:
        """|E[g]|^2."""
        return float((self.mean**2).sum())

    @property
    def variance(self) -> float:
        """tr Cov(g) = E[|g|^2] - |E[g]|^2."""
        return self.second - self.signal

    @property
    def rollouts_needed(self) -> float:
        """Rollouts to average until the noise is as large as the signal: tr Cov(g) / |E[g]|^2."""
        return self.variance / self.signal


def gradient_moments(tree: Tree, log_p: Array, log_target: Array, estimator: str) -> Moments:
    """Exact moments of one estimator (see the module) for one policy and one target, both [S, V]."""
    p, ratio = np.exp(log_p), log_p - log_target
    kl, paths, tokens = token_kl(log_p, log_target), tree.paths, tree.tokens
    taken = ratio[paths, tokens]
    score = np.eye(tree.vocabulary_size)[tokens] - p[paths]
    if estimator == "sequence":
        log_ratio = taken.sum(-1)
        mean = (np.exp(sequence_log_probs(tree, log_p)) * log_ratio).sum()
        rows = (log_ratio - mean)[:, None, None] * score
    elif estimator == "to-go":
        to_go = np.cumsum(taken[:, ::-1], -1)[:, ::-1]
        rows = (to_go - expected_return(tree, log_p, ratio)[paths])[..., None] * score
    elif estimator == "token":
        rows = (taken - kl[paths])[..., None] * score
    elif estimator == "vocabulary":
        rows = (p * (ratio - kl[:, None]))[paths]
    else:
        raise StudyError(f"unknown estimator {estimator!r}; choose one of {ESTIMATORS}")
    probability = np.exp(sequence_log_probs(tree, log_p))
    mean_row = np.zeros_like(log_p)
    np.add.at(mean_row, paths, probability[:, None, None] * rows)
    return Moments(mean_row, float((probability * (rows**2).sum((-1, -2))).sum()))


def chance_of_signal(success: Array, group: int) -> Array:
    """Probability that a group of rollouts holds both a right and a wrong one (else GRPO's advantages are all zero)."""
    return 1 - (1 - success) ** group - success**group
