"""Train tabular students along a route and measure them exactly after every few updates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .objectives import success, visited_kl
from .routes import Tasks, sampled_gradient
from .tree import Array, Tree, log_softmax

Phases = Sequence[tuple[str, int]]
"""A route: (objective, number of updates), one after the other."""


@dataclass(frozen=True)
class Curve:
    """What a route did, E measurements of B runs; every measurement is exact, not sampled."""

    updates: NDArray[np.int64]
    """[E] updates done."""
    success: Array
    """[E, B] probability of a successful sequence."""
    kl: Array
    """[E, B] KL(student || teacher) over sequences, nats."""
    log_p: Array
    """[E, B, S, V] the student itself."""


class Sgd:
    """Plain gradient descent; one learning rate for all runs, or one each ([B])."""

    def __init__(self, learning_rate: float | Array) -> None:
        self.learning_rate = np.reshape(learning_rate, (-1, 1, 1))

    def step(self, gradient: Array) -> Array:
        """The change of the logits, same shape as the gradient."""
        return -self.learning_rate * gradient


class Adam(Sgd):
    """Adam without weight decay (Kingma and Ba, 2015), with its usual constants."""

    def __init__(self, learning_rate: float | Array) -> None:
        super().__init__(learning_rate)
        self.first: Array | float = 0.0
        self.second: Array | float = 0.0
        self.steps = 0

    def step(self, gradient: Array) -> Array:
        """The change of the logits: each entry's mean gradient over its root mean square."""
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean, square = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        return -self.learning_rate * mean / (np.sqrt(square) + 1e-8)


OPTIMISERS = {"sgd": Sgd, "adam": Adam}


def train(
    tree: Tree,
    student: Array,
    tasks: Tasks,
    phases: Phases,
    *,
    rollouts: int,
    learning_rate: float | Array,
    seed: int,
    optimiser: str = "sgd",
    evaluate_every: int = 10,
) -> Curve:
    """Train B students ([B, S, V]) side by side; each phase starts its optimiser afresh.

    Raises FloatingPointError where a run leaves the finite numbers, instead of averaging over it.
    """
    logits, rng, done, measured = student.copy(), np.random.default_rng(seed), 0, []

    def measure() -> None:
        log_p = log_softmax(logits)
        measured.append((done, success(tree, log_p, tasks.reward), visited_kl(tree, log_p, tasks.log_teacher), log_p))

    measure()
    for objective, updates in phases:
        steps = OPTIMISERS[optimiser](learning_rate)
        for _ in range(updates):
            log_p = log_softmax(logits)
            logits = log_p + steps.step(sampled_gradient(tree, log_p, tasks, objective, rollouts, rng))
            done += 1
            if done % evaluate_every == 0:
                if not np.isfinite(logits).all():
                    raise FloatingPointError(f"{objective} left the finite numbers by update {done}")
                measure()
    return Curve(*(np.array(column) for column in zip(*measured, strict=True)))


def descend(
    tree: Tree, start: Array, target: Array, gradient: Callable[[Tree, Array, Array], Array], rate: float, updates: int
) -> tuple[Array, Array]:
    """Exact gradient descent (nothing sampled) from `start` [B, S, V] towards `target` with `objectives.*_gradient`.

    Returns the policy [B, S, V] and its KL(p || target) in nats before every update and after the last, [updates+1, B].
    """
    log_p, kl = start, [visited_kl(tree, start, target)]
    for _ in range(updates):
        log_p = log_softmax(log_p - rate * gradient(tree, log_p, target))
        kl.append(visited_kl(tree, log_p, target))
    return log_p, np.array(kl)


def updates_to_reach(curve: Curve, level: float) -> Array:
    """[B] the first measured update with success >= level; inf where it never came."""
    reached = curve.success >= level
    return np.where(reached.any(0), curve.updates[reached.argmax(0)], np.inf)


def mean_interval(values: Array, seed: int = 0, resamples: int = 2000) -> tuple[Array, Array, Array]:
    """[..., B] -> mean over the runs and its 95 % percentile-bootstrap interval, each [...]."""
    runs = values.shape[-1]
    drawn = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), resamples)
    means = values @ (drawn.T / runs)
    low, high = np.quantile(means, [0.025, 0.975], axis=-1)
    return values.mean(-1), low, high
