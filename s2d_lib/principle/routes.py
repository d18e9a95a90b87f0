"""The routes of Paper A in miniature: tabular students on a tree, trained on sampled rollouts and measured exactly.

A small picture, not a model of a network: the table shares nothing between states, so there is no generalisation and
no limit of capacity; but only states that the rollouts visit get any gradient. Leading dimension B: independent runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from s2d_lib.errors import StudyError
from s2d_lib.principle import objectives as obj
from s2d_lib.principle.objectives import Array, Tree, log_softmax, success

# What an update can follow: Stage 2a, Stage 2b (full vocabulary or sampled token), cold or Stage 3 RL.
OBJECTIVES = ("forward_kl", "opd", "opd_token", "grpo")


class Tasks(NamedTuple):
    """B random tasks: a reference policy, a 0/1 reward, and the teacher that RL would end in."""

    log_ref: Array  # [B, S, V] normal logits of standard deviation 0.5
    reward: Array  # [B, N] 1 for the successful sequences, which all open with the same token
    log_teacher: Array  # [B, S, V] p*: the reference tilted by exp(r / tau), so the optimum of the sparse end


def draw_tasks(tree: Tree, n_tasks: int, temperature: float, seed: int, n_success: int = 3) -> Tasks:
    """Draw tasks: `n_success` random sequences under one random first token succeed (fewer if there are fewer)."""
    rng = np.random.default_rng(seed)
    log_ref = obj.random_policy(tree, rng, (n_tasks,), spread=0.5)
    under = tree.n_sequences // tree.vocabulary_size
    reward = np.zeros((n_tasks, tree.n_sequences))
    for row in reward:
        first = rng.integers(tree.vocabulary_size)
        row[first * under + rng.choice(under, size=min(n_success, under), replace=False)] = 1.0
    return Tasks(log_ref, reward, obj.tilted_policy(tree, log_ref, reward, temperature))


def repeat(tasks: Tasks, times: int) -> Tasks:
    """The same tasks `times` times over: [B, ...] -> [times * B, ...], all tasks first, then all again."""
    return Tasks(*(np.tile(a, (times,) + (1,) * (a.ndim - 1)) for a in tasks))


def on_path(tree: Tree, reward: Array) -> NDArray[np.bool_]:
    """[B, S, V] tokens that keep a successful sequence in reach."""
    mask = np.zeros((len(reward), tree.n_states, tree.vocabulary_size), dtype=bool)
    task, right = np.nonzero(reward)
    mask[task[:, None], tree.paths[right], tree.tokens[right]] = True
    return mask


def mismatched_student(tree: Tree, tasks: Tasks, mass: float | Array, where: str) -> Array:
    """[B, S, V] the reference with less (or more) probability on the teacher's way, until success is `mass` (or [B]).

    The logits of on-path tokens are lowered by one number per task, found by bisection. `where` says at which states:
    "first" token only (one wall at the start), or "every" token (the same total mass lost in small steps).
    """
    levels = {"first": 1, "every": tree.depth}[where]
    mask = on_path(tree, tasks.reward) * (np.arange(tree.n_states) < tree.start(levels))[:, None]
    low, high = np.full(len(mask), -30.0), np.full(len(mask), 30.0)
    for _ in range(60):
        middle = (low + high) / 2
        log_p = log_softmax(tasks.log_ref + middle[:, None, None] * mask)
        too_much = success(tree, log_p, tasks.reward) > mass
        low, high = np.where(too_much, low, middle), np.where(too_much, middle, high)
    if not np.allclose(success(tree, log_p, tasks.reward), mass, rtol=1e-6):
        raise StudyError(f"a mass of {mass} on the successful sequences is out of reach by changing {where} token(s)")
    return log_p


def sample(tree: Tree, log_p: Array, rollouts: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """[B, K, T] states and tokens of `rollouts` sequences per run."""
    p, rows = np.exp(log_p).reshape(-1, tree.vocabulary_size), np.arange(len(log_p))[:, None] * tree.n_states
    uniform = rng.random((tree.depth, len(log_p), rollouts))
    state = np.zeros(uniform.shape[1:], dtype=np.int64)
    states, tokens = [], []
    for u in uniform:
        # The last token takes what rounding leaves.
        below = p[rows + state][..., :-1].cumsum(-1)
        token = (u[..., None] >= below).sum(-1)
        states.append(state)
        tokens.append(token)
        state = state * tree.vocabulary_size + 1 + token
    return np.stack(states, -1), np.stack(tokens, -1)


def sampled_gradient(
    tree: Tree, log_p: Array, tasks: Tasks, objective: str, rollouts: int, rng: np.random.Generator
) -> Array:
    """[B, S, V] the gradient to descend, from `rollouts` sequences per run; a loss sums over a sequence's tokens.

    forward_kl: KL(p_T || p) at the states of teacher rollouts. opd: KL(p || p_T) at the states of the student's own,
    over the full vocabulary; opd_token: the same from the sampled token's log-ratio. grpo: advantages (r - group mean)
    / group standard deviation, no KL term, zero where all rollouts of a group have the same reward.
    """
    if objective not in OBJECTIVES:
        raise StudyError(f"unknown objective {objective!r}; choose one of {OBJECTIVES}")
    p, teacher = np.exp(log_p), tasks.log_teacher
    states, tokens = sample(tree, teacher if objective == "forward_kl" else log_p, rollouts, rng)
    where = np.ravel_multi_index((np.arange(len(p))[:, None, None], states, tokens), p.shape).ravel()

    def chosen(weights: Array | None = None) -> Array:
        """[B, S, V] how often a token was chosen in a state, per rollout; weighted by [B, K, T] if given."""
        return np.bincount(where, weights, p.size).reshape(p.shape) / rollouts

    if objective == "grpo":
        sequence = states[..., -1] * tree.vocabulary_size + 1 + tokens[..., -1] - tree.n_states
        reward = np.take_along_axis(tasks.reward, sequence, -1)
        advantage = (reward - reward.mean(-1, keepdims=True)) / (reward.std(-1, keepdims=True) + 1e-4)
        weighted = chosen(np.broadcast_to(advantage[..., None], states.shape).ravel())
        return p * weighted.sum(-1, keepdims=True) - weighted
    counts = chosen()
    visits = counts.sum(-1, keepdims=True)
    if objective == "forward_kl":
        return visits * (p - np.exp(teacher))
    surprise = log_p - teacher - obj.token_kl(log_p, teacher)[..., None]
    if objective == "opd":
        return visits * p * surprise
    weighted = counts * surprise
    return weighted - p * weighted.sum(-1, keepdims=True)


class Curve(NamedTuple):
    """What a route did, E measurements of B runs; every measurement is exact, not sampled."""

    updates: NDArray[np.int64]  # [E] updates done
    success: Array  # [E, B] probability of a successful sequence
    kl: Array  # [E, B] KL(student || teacher) over sequences, nats
    log_p: Array  # [E, B, S, V] the student itself


def train(
    tree: Tree,
    student: Array,
    tasks: Tasks,
    phases: Sequence[tuple[str, int]],
    *,
    rollouts: int,
    learning_rate: float | Array,
    seed: int,
    optimiser: str = "sgd",
    evaluate_every: int = 10,
) -> Curve:
    """Train B students ([B, S, V]) side by side along `phases`: (objective, updates), each with a fresh optimiser.

    The optimiser is "sgd" or "adam" (Kingma and Ba, 2015), with one learning rate for all runs, or one each ([B]). Raises
    FloatingPointError where a run leaves the finite numbers, instead of averaging over it.
    """
    logits, rng, done, measured = student.copy(), np.random.default_rng(seed), 0, []
    rate, adam = np.reshape(learning_rate, (-1, 1, 1)), {"sgd": False, "adam": True}[optimiser]

    def measure() -> None:
        log_p = log_softmax(logits)
        kl = obj.visited_kl(tree, log_p, tasks.log_teacher)
        measured.append((done, success(tree, log_p, tasks.reward), kl, log_p))

    measure()
    for objective, updates in phases:
        mean = square = 0.0
        for step in range(1, updates + 1):
            log_p = log_softmax(logits)
            gradient = sampled_gradient(tree, log_p, tasks, objective, rollouts, rng)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            usual = np.sqrt(square / (1 - 0.999**step)) + 1e-8
            logits = log_p - (rate * (mean / (1 - 0.9**step)) / usual if adam else rate * gradient)
            done += 1
            if done % evaluate_every == 0:
                if not np.isfinite(logits).all():
                    raise FloatingPointError(f"{objective} left the finite numbers by update {done}")
                measure()
    return Curve(*(np.array(column) for column in zip(*measured, strict=True)))


def mean_interval(values: Array, seed: int = 0, resamples: int = 2000) -> tuple[Array, Array, Array]:
    """[..., B] -> mean over the runs and its 95 % percentile-bootstrap interval, each [...]."""
    runs = values.shape[-1]
    drawn = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), resamples)
    means = values @ (drawn.T / runs)
    return values.mean(-1), *np.quantile(means, [0.025, 0.975], axis=-1)


def draw_tree(ax: Axes, tree: Tree, log_p: Array, reward: Array, color: str, widest: float = 5.0) -> None:
    """Draw one policy ([S, V]), the root in the middle and a ring per token; circles mark the successful sequences.

    Lines are `widest` points times the root of the edge's probability wide, in `color` if they keep a success in reach.
    """
    rings = [(np.arange(n) + 0.5) / n for n in tree.vocabulary_size ** np.arange(tree.depth + 1)]
    angle, radius = (np.pi / 2 - 2 * np.pi * np.concatenate(rings), np.repeat(range(len(rings)), [*map(len, rings)]))
    where = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)  # [S + N, 2], states then sequences
    state, token = np.divmod(np.arange(tree.n_states * tree.vocabulary_size), tree.vocabulary_size)
    lines = np.stack([where[state], where[state * tree.vocabulary_size + 1 + token]], 1)
    widths = widest * np.sqrt(obj.edge_mass(tree, log_p).ravel())
    good = on_path(tree, reward[None])[0].ravel()
    ax.add_collection(LineCollection(lines, colors="#E5E5E5", linewidths=0.4, zorder=1))
    for mask, shade, order in ((~good, "#8C8C8C", 2), (good, color, 3)):
        ax.add_collection(LineCollection(lines[mask], colors=shade, linewidths=widths[mask], zorder=order))
    leaves = where[tree.n_states :][reward > 0]
    ax.scatter(*leaves.T, s=22, facecolors="white", edgecolors=color, linewidths=1.2, zorder=4)
    ax.set(xlim=(-1.06 * tree.depth, 1.06 * tree.depth), ylim=(-1.06 * tree.depth, 1.06 * tree.depth), aspect="equal")
    ax.set_axis_off()
