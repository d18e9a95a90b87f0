"""Parts of a label pool: its random halves, and fewer labels for the label frontier.

Which problems a part holds depends on their ids and the seed, not on their order in a file.
"""

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem
from s2d_lib.study.problem_sets import Half, LabelBudget
from s2d_lib.study.resolve import derive_seed


def cut(pool: list[Problem], part: Half | LabelBudget) -> list[Problem]:
    """The part of a pool, in the pool's order.

    Raises:
        StudyError: When the pool has too few problems for it.
    """
    chosen = _half(pool, part) if isinstance(part, Half) else _budget(pool, part)
    return [p for p in pool if p.id in chosen]


def _half(pool: list[Problem], part: Half) -> set[str]:
    """Disjoint, together the whole pool; of an odd number 1H gets one problem more."""
    if len(pool) < 2:
        raise StudyError(
            f"the label pool 'full' has {len(pool)} problem(s), too few for the halves 1H and 2H: enlarge it."
        )
    order, middle = _shuffled(pool, "halves", part.seed), (len(pool) + 1) // 2
    return set(order[:middle] if part.half == "1H" else order[middle:])


def _budget(pool: list[Problem], part: LabelBudget) -> set[str]:
    """The first problems of one random order, so that a smaller budget lies inside a larger one."""
    if part.labels >= len(pool):
        raise StudyError(
            f"the label budget {part.labels} is not below the {len(pool)} problems of the pool 'full': drop it from the "
            "profile's frontier, whose last point is the whole pool in any case."
        )
    return set(_shuffled(pool, "budgets", part.seed)[: part.labels])


def _shuffled(pool: list[Problem], purpose: str, seed: int) -> list[str]:
    ids = sorted(p.id for p in pool)
    return [ids[i] for i in np.random.default_rng(derive_seed(purpose, seed)).permutation(len(ids))]
