"""The two ends of Paper A's objective, their gradients and the noise of these, exact on a tree small enough to enumerate.

Sparse end: E_y[r(y)] - tau * KL(p || p_ref), one number per sequence. Dense end: maximum-entropy RL with the token
reward log p_T(y_t | s_t). Paper A ("One objective, two ends", Eq. 2) says that the second is minus the reverse KL to the
teacher; with the tilted policy p* as the teacher both have the same optimum.

Shapes: V tokens, T levels (the length of every sequence), S = 1 + V + ... + V^(T-1) states (prefixes), N = V^T sequences.
States are numbered as in a heap: the root is 0, token `a` in state `s` leads to `s * V + 1 + a`. A policy `log_p` is
[..., S, V] log-probabilities (`...`: tasks, seeds), rewards are [..., N], tau is in units of reward per nat.
"""

from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from s2d_lib.errors import StudyError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tree:
    """All token sequences of length `depth` over `vocabulary_size` tokens, in lexicographic order."""

    vocabulary_size: int
    depth: int

    def start(self, level: int) -> int:
        """The first state of a level; `start(depth)` is the number of states."""
        return (self.vocabulary_size**level - 1) // (self.vocabulary_size - 1)

    def level(self, level: int) -> slice:
        """The states whose prefix has `level` tokens."""
        return slice(self.start(level), self.start(level + 1))

    @property
    def n_states(self) -> int:
        """S, the number of states in which a token is chosen."""
        return self.start(self.depth)

    @property
    def n_sequences(self) -> int:
        """N, the number of complete sequences."""
        return self.vocabulary_size**self.depth

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """[N, T] the token of every sequence at every step."""
        powers = self.vocabulary_size ** np.arange(self.depth)[::-1]
        return np.arange(self.n_sequences)[:, None] // powers % self.vocabulary_size

    @cached_property
    def paths(self) -> NDArray[np.int64]:
        """[N, T] the state in which that token is chosen."""
        states = np.zeros((self.n_sequences, self.depth), dtype=np.int64)
        for t in range(1, self.depth):
            states[:, t] = states[:, t - 1] * self.vocabulary_size + 1 + self.tokens[:, t - 1]
        return states

    def children(self, values: Array) -> Array:
        """[..., n * V] numbers of the nodes of a level -> [..., n, V] for each node of the level above."""
        return values.reshape(*values.shape[:-1], -1, self.vocabulary_size)


def log_sum_exp(x: Array) -> Array:
    """[..., V] -> [...] log(sum(exp(x))) over the last axis, without overflow."""
    top = reduce(np.maximum, np.moveaxis(x, -1, 0))  # 25 times faster than x.max(-1) over so few entries
    return top + np.log(np.einsum("...v->...", np.exp(x - top[..., None])))


def log_softmax(logits: Array) -> Array:
    """[..., V] logits -> normalised log-probabilities."""
    return logits - log_sum_exp(logits)[..., None]


def random_policy(tree: Tree, rng: np.random.Generator, batch: tuple[int, ...] = (), spread: float = 1.0) -> Array:
    """[*batch, S, V] log-probabilities with normal logits of standard deviation `spread` (nats)."""
    return log_softmax(spread * rng.standard_normal((*batch, tree.n_states, tree.vocabulary_size)))


def sequence_log_probs(tree: Tree, log_p: Array) -> Array:
    """[..., N] log p(y) = sum_t log p(y_t | s_t)."""
    return log_p[..., tree.paths, tree.tokens].sum(-1)


def visitation(tree: Tree, log_p: Array) -> Array:
    """[..., S] the probability that a rollout of the policy passes through each state (1 at the root)."""
    p, reached = np.exp(log_p), np.ones((*log_p.shape[:-2], tree.n_states))
    for t in range(tree.depth - 1):
        below = reached[..., tree.level(t), None] * p[..., tree.level(t), :]
        reached[..., tree.level(t + 1)] = below.reshape(*p.shape[:-2], -1)
    return reached


def edge_mass(tree: Tree, log_p: Array) -> Array:
    """[..., S, V] the probability that a rollout takes token `a` in state `s`."""
    return visitation(tree, log_p)[..., None] * np.exp(log_p)


def factorise(tree: Tree, log_weights: Array) -> Array:
    """[..., N] unnormalised sequence log-weights -> [..., S, V] the policy that samples sequences in that proportion."""
    mass, rows = log_weights, []
    for _ in range(tree.depth):
        rows.append(log_softmax(tree.children(mass)))
        mass = log_sum_exp(tree.children(mass))
    return np.concatenate(rows[::-1], -2)


def expected_return(tree: Tree, log_p: Array, cost: Array) -> Array:
    """[..., S] W(s): expected sum of `cost` ([..., S, V], paid when a token is chosen) from a state to the end."""
    p, values = np.exp(log_p), [np.zeros((*log_p.shape[:-2], tree.n_sequences))]
    for here in map(tree.level, reversed(range(tree.depth))):
        values.append((p[..., here, :] * (cost[..., here, :] + tree.children(values[-1]))).sum(-1))
    return np.concatenate(values[:0:-1], -1)


def soft_values(tree: Tree, log_ref: Array, reward: Array, temperature: float) -> list[Array]:
    """Level by level, [..., V^t]: V(s) = tau * log sum_a p_ref(a|s) exp(V(s a) / tau), with V(y) = r(y), which is the best
    reachable E[r] - tau * KL from s on."""
    values = [reward]
    for t in reversed(range(tree.depth)):
        below = tree.children(values[0])
        values.insert(0, temperature * log_sum_exp(log_ref[..., tree.level(t), :] + below / temperature))
    return values


def tilted_policy(tree: Tree, log_ref: Array, reward: Array, temperature: float) -> Array:
    """[..., S, V] the sparse end's optimum p*(y) ~ p_ref(y) exp(r(y) / tau), by log p_ref(a|s) + (V(s a) - V(s)) / tau."""
    values = soft_values(tree, log_ref, reward, temperature)
    gains = [tree.children(after) - before[..., None] for before, after in pairwise(values)]
    return log_ref + np.concatenate(gains, -2) / temperature


def success(tree: Tree, log_p: Array, reward: Array) -> Array:
    """[...] E_y[r(y)]; for a 0/1 reward the probability of success."""
    return (np.exp(sequence_log_probs(tree, log_p)) * reward).sum(-1)


def sequence_kl(tree: Tree, log_p: Array, log_q: Array) -> Array:
    """[...] KL(p || q) in nats, summed over all N sequences."""
    log_py = sequence_log_probs(tree, log_p)
    return (np.exp(log_py) * (log_py - sequence_log_probs(tree, log_q))).sum(-1)


def sparse_objective(tree: Tree, log_p: Array, log_ref: Array, reward: Array, temperature: float) -> Array:
    """[...] E_y[r(y)] - tau * KL(p || p_ref), in units of reward."""
    return success(tree, log_p, reward) - temperature * sequence_kl(tree, log_p, log_ref)


def token_kl(log_p: Array, log_q: Array) -> Array:
    """[..., S] KL(p(.|s) || q(.|s)) in nats over the full vocabulary, at every state."""
    return np.einsum("...v,...v->...", np.exp(log_p), log_p - log_q)


def visited_kl(tree: Tree, log_p: Array, log_q: Array) -> Array:
    """[...] E_{s~p}[sum_t KL(p(.|s_t) || q(.|s_t))] in nats: OPD's loss, the negative right side of Paper A's Eq. 2."""
    return (visitation(tree, log_p) * token_kl(log_p, log_q)).sum(-1)


def dense_objective(tree: Tree, log_p: Array, log_teacher: Array) -> Array:
    """[...] J(p) = E_y[sum_t log p_T(y_t|s_t) + H(p(.|s_t))] in nats, the left side of Paper A's Eq. 2, as it reads."""
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    rewards = sequence_log_probs(tree, log_teacher) + entropy[..., tree.paths].sum(-1)
    return (np.exp(sequence_log_probs(tree, log_p)) * rewards).sum(-1)


def kl_gradient(tree: Tree, log_p: Array, log_q: Array) -> Array:
    """[..., S, V] the exact gradient of KL(p || q) over sequences with respect to the logits of p.

    d(s) p(a|s) (log p/q(a|s) + W(s a) - W(s)), with d the visitation and W the KL that is still to come.
    """
    ratio = log_p - log_q
    to_come = expected_return(tree, log_p, ratio)
    ends = np.zeros((*ratio.shape[:-2], tree.n_sequences))  # behind the last token nothing is to come
    below = tree.children(np.concatenate([to_come[..., 1:], ends], -1))
    return edge_mass(tree, log_p) * (ratio + below - to_come[..., None])


def opd_gradient(tree: Tree, log_p: Array, log_q: Array) -> Array:
    """[..., S, V] what OPD follows: d(s) p(a|s) (log p/q(a|s) - KL(s)).

    `kl_gradient` without the states still to come, as trainers don't differentiate through sampling; 0 at p = q too.
    """
    return edge_mass(tree, log_p) * (log_p - log_q - token_kl(log_p, log_q)[..., None])


ESTIMATORS = ("sequence", "to-go", "token", "vocabulary")
"""Estimators of how to lower KL(p || p*) from one rollout of p, from sparse to dense (see `gradient_moments`)."""


class Moments(NamedTuple):
    """Exact moments of a one-rollout gradient estimate g: E[g], [S, V], and tr Cov(g) = E[|g|^2] - |E[g]|^2."""

    mean: Array
    variance: float

    @property
    def rollouts_needed(self) -> float:
        """Rollouts to average until the noise is as large as the signal: tr Cov(g) / |E[g]|^2."""
        return self.variance / float((self.mean**2).sum())


def gradient_moments(tree: Tree, log_p: Array, log_target: Array, estimator: str) -> Moments:
    """Exact moments of one estimator for one policy and one target, both [S, V], by enumerating all rollouts.

    "vocabulary" (OPD, full vocabulary) samples only states; the others credit every token of a rollout with log p/p*
    less its expectation: of the whole "sequence" (at p = p_ref REINFORCE with the 0/1 reward and its mean as baseline, over
    tau), of what is "to-go", or of the "token" itself (OPD, sampled token). The first two have `kl_gradient` as their
    mean, the last two `opd_gradient`.
    """
    if estimator not in ESTIMATORS:
        raise StudyError(f"unknown estimator {estimator!r}; choose one of {ESTIMATORS}")
    p, ratio, paths, kl = np.exp(log_p), log_p - log_target, tree.paths, token_kl(log_p, log_target)
    taken = ratio[paths, tree.tokens]
    probability = np.exp(sequence_log_probs(tree, log_p))
    if estimator == "sequence":
        total = taken.sum(-1)
        credit = (total - (probability * total).sum())[:, None]
    elif estimator == "to-go":
        credit = np.cumsum(taken[:, ::-1], -1)[:, ::-1] - expected_return(tree, log_p, ratio)[paths]
    else:
        credit = taken - kl[paths]
    rows = credit[..., None] * (np.eye(tree.vocabulary_size)[tree.tokens] - p[paths])
    if estimator == "vocabulary":
        rows = (p * (ratio - kl[:, None]))[paths]
    mean = np.zeros_like(log_p)
    np.add.at(mean, paths, probability[:, None, None] * rows)
    # The states of one rollout are all different, so the squared norm of its sum is the sum of squared norms.
    second = float((probability * (rows**2).sum((-1, -2))).sum())
    return Moments(mean, second - float((mean**2).sum()))


def chance_of_signal(success: Array, group: int) -> Array:
    """Probability that a group of rollouts holds both a right and a wrong one (else GRPO's advantages are all zero)."""
    return 1 - (1 - success) ** group - success**group
