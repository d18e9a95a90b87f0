"""Intervals for accuracies and their differences: a paired bootstrap over seeds and problems. Knows no torch."""

from dataclasses import dataclass

import numpy as np

from s2d_lib.errors import StudyError

DRAWS = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float


def bootstrap(accuracy: np.ndarray, against: np.ndarray | None = None, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean accuracy, or mean paired difference, with a percentile interval.

    Seeds and problems are crossed (every seed answers the same problems), so each draw resamples seeds with
    replacement and, independently, problems with replacement. With few seeds the interval is too narrow by about
    sqrt(1 - 1 / seeds) in its seed part.

    Args:
        accuracy: Mean correctness, shape (seeds, problems).
        against: The same of what it is compared with, same seeds and problems in the same order.
        draws: Bootstrap draws.
        seed: Of the draws, fixed so that tables can be reproduced.

    Raises:
        StudyError: When the two do not have the same seeds and problems.
    """
    values = np.asarray(accuracy, dtype=float)
    if against is not None:
        if values.shape != np.shape(against):
            raise StudyError(
                f"a paired comparison needs the same seeds and problems on both sides, given {values.shape} and "
                f"{np.shape(against)}."
            )
        values = values - np.asarray(against, dtype=float)
    rng = np.random.default_rng(seed)
    seeds, problems = values.shape
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    problem_weights = rng.multinomial(problems, np.full(problems, 1 / problems), size=draws) / problems
    means = np.einsum("ds,sp,dp->d", seed_weights, values, problem_weights, optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))
