"""The routes of Paper A in miniature: tabular students on a tree, trained on sampled rollouts.

A small picture, not a model of a network: the table shares nothing between states, so there is no generalisation and
no limit of capacity. What it does show exactly is where the gradient comes from: only states that the rollouts visit
get any. Leading dimension B: independent runs (tasks and seeds) trained side by side.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import StudyError
from .objectives import success, tilted_policy, token_kl
from .tree import Array, Tree, log_softmax, random_policy

OBJECTIVES = ("forward_kl", "opd", "opd_token", "grpo")
"""What an update can follow: Stage 2a, Stage 2b (full vocabulary or sampled token), cold or Stage 3 RL."""


@dataclass(frozen=True)
class Tasks:
    """B random tasks: a reference policy, a 0/1 reward, and the teacher that RL would end in."""

    log_ref: Array
    """[B, S, V] reference policy (normal logits of standard deviation 0.5)."""
    reward: Array
    """[B, N] 1 for the successful sequences, which all open with the same token."""
    log_teacher: Array
    """[B, S, V] p*: the reference tilted by exp(r / tau), so the optimum of the sparse end."""


def repeat(tasks: Tasks, times: int) -> Tasks:
    """The same tasks `times` times over: [B, ...] -> [times * B, ...], all tasks first, then all again."""
    return Tasks(
        *(np.tile(a, (times,) + (1,) * (a.ndim - 1)) for a in (tasks.log_ref, tasks.reward, tasks.log_teacher))
    )


def draw_tasks(tree: Tree, n_tasks: int, temperature: float, seed: int, n_success: int = 3) -> Tasks:
    """Draw tasks: `n_success` random sequences under one random first token succeed (fewer if there are fewer)."""
    rng = np.random.default_rng(seed)
    log_ref = random_policy(tree, rng, (n_tasks,), spread=0.5)
    under = tree.n_sequences // tree.vocabulary_size
    reward = np.zeros((n_tasks, tree.n_sequences))
    for row in reward:
        first = rng.integers(tree.vocabulary_size)
        row[first * under + rng.choice(under, size=min(n_success, under), replace=False)] = 1.0
    return Tasks(log_ref, reward, tilted_policy(tree, log_ref, reward, temperature))


def on_path(tree: Tree, reward: Array) -> NDArray[np.bool_]:
    """[B, S, V] tokens that keep a successful sequence in reach."""
    mask = np.zeros((len(reward), tree.n_states, tree.vocabulary_size), dtype=bool)
    for row, right in zip(mask, reward > 0, strict=True):
        row[tree.paths[right], tree.tokens[right]] = True
    return mask


def mismatched_student(tree: Tree, tasks: Tasks, mass: float | Array, where: str) -> Array:
    """[B, S, V] the reference with less (or more) probability on the teacher's way, until success is `mass`.

    One mass for all tasks, or one each ([B]).
    The logits of on-path tokens are lowered by one number per task, found by bisection. `where` says at which states:
    "first" token only (one wall at the start), or "every" token (the same total mass lost in small steps).
    """
    levels = {"first": 1, "every": tree.depth}
    if where not in levels:
        raise StudyError(f"unknown place {where!r}; choose one of {tuple(levels)}")
    mask = on_path(tree, tasks.reward) * (np.arange(tree.n_states) < tree.start(levels[where]))[:, None]
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
        here, token, below = p[rows + state], np.zeros_like(state), np.zeros_like(u)
        for a in range(tree.vocabulary_size - 1):  # the last token takes what rounding leaves
            below += here[..., a]
            token += u >= below
        states.append(state)
        tokens.append(token)
        state = state * tree.vocabulary_size + 1 + token
    return np.stack(states, -1), np.stack(tokens, -1)


def count(log_p: Array, states: NDArray, tokens: NDArray, weights: Array | None = None) -> Array:
    """[B, S, V] how often a token was chosen in a state, per rollout; weighted by [B, K] if given."""
    runs = np.arange(len(log_p))[:, None, None]
    index = np.ravel_multi_index((runs, states, tokens), log_p.shape)
    if weights is not None:
        weights = np.broadcast_to(weights[..., None], states.shape).ravel()
    return np.bincount(index.ravel(), weights, log_p.size).reshape(log_p.shape) / states.shape[1]


def sampled_gradient(
    tree: Tree, log_p: Array, tasks: Tasks, objective: str, rollouts: int, rng: np.random.Generator
) -> Array:
    """[B, S, V] the gradient to descend, from `rollouts` sequences per run; a loss sums over a sequence's tokens.

    forward_kl: KL(p_T || p) at the states of teacher rollouts. opd: KL(p || p_T) at the states of the student's own,
    over the full vocabulary; opd_token: the same from the sampled token's log-ratio. grpo: advantages (r - group mean)
    / group standard deviation, no KL term, zero where all rollouts of a group have the same reward.
    """
    p, teacher = np.exp(log_p), tasks.log_teacher
    states, tokens = sample(tree, teacher if objective == "forward_kl" else log_p, rollouts, rng)
    if objective == "grpo":
        reward = np.take_along_axis(tasks.reward, _sequence(tree, states, tokens), -1)
        advantage = (reward - reward.mean(-1, keepdims=True)) / (reward.std(-1, keepdims=True) + 1e-4)
        weighted = count(log_p, states, tokens, advantage)
        return p * weighted.sum(-1, keepdims=True) - weighted
    counts = count(log_p, states, tokens)
    visits = counts.sum(-1, keepdims=True)
    if objective == "forward_kl":
        return visits * (p - np.exp(teacher))
    ratio = log_p - teacher
    if objective == "opd":
        return visits * p * (ratio - token_kl(log_p, teacher)[..., None])
    if objective == "opd_token":
        weighted = counts * (ratio - token_kl(log_p, teacher)[..., None])
        return weighted - p * weighted.sum(-1, keepdims=True)
    raise StudyError(f"unknown objective {objective!r}; choose one of {OBJECTIVES}")


def _sequence(tree: Tree, states: NDArray, tokens: NDArray) -> NDArray:
    """[B, K] the number of the sequence in lexicographic order, from its last state and token."""
    return states[..., -1] * tree.vocabulary_size + 1 + tokens[..., -1] - tree.n_states
