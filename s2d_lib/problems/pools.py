"""Parts of problem sets: a label pool's random halves, fewer labels or prompts of it, train and test.

Which problems a part holds depends on their ids and the seed, not on their order in a file.
"""

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem
from s2d_lib.study.problem_sets import Half, LabelBudget
from s2d_lib.study.resolve import derive_seed


def cut(pool: list[Problem], part: Half | LabelBudget) -> list[Problem]:
    """The part of a whole pool, in the pool's order; a half of some labels is cut after these.

    Raises:
        StudyError: When the pool has too few problems for it.
    """
    if isinstance(part.of, LabelBudget):
        pool = cut(pool, part.of)
    chosen = _half(pool, part) if isinstance(part, Half) else _budget(pool, part)
    return [p for p in pool if p.id in chosen]


TEST_SHARE = 0.1
"""Of a benchmark that comes as one file, the share that is its test part (as SDPO's authors cut SciKnowEval)."""


def train_or_test(problems: list[Problem], part: str, seed: int) -> list[Problem]:
    """The part of a benchmark's problems: `train`, `test` (a tenth, at least one) or `all`, in their order."""
    if part == "all":
        return problems
    test = set(_shuffled(problems, "train and test", seed)[: max(1, round(TEST_SHARE * len(problems)))])
    return [p for p in problems if (p.id in test) == (part == "test")]


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
            f"`labels` or `prompts` ask for {part.labels} problems of the pool 'full', which has {len(pool)} in the end: leave "
            "it out of `problems`, or lower it."
        )
    return set(_shuffled(pool, "budgets", part.seed)[: part.labels])


def _shuffled(pool: list[Problem], purpose: str, seed: int) -> list[str]:
    ids = sorted(p.id for p in pool)
    return [ids[i] for i in np.random.default_rng(derive_seed(purpose, seed)).permutation(len(ids))]
