"""Intervals for accuracies and their paired differences: problems are resampled, seeds enter as Student's t.

Seeds and problems are crossed (every seed answers the same problems), so a value is
`mean + seed effect + problem effect + rest`, the rest holding interaction and sampling noise. The variance of the mean
has two parts, estimated from the mean squares of the table (Searle, Casella and McCulloch 1992, chapter 4):

- problems: (MS_problems - MS_rest) / (seeds * problems), from a hundred problems: they are resampled;
- seeds and the rest: MS_seeds / (seeds * problems), known with seeds - 1 degrees of freedom only. Resampling three
  seeds gives far too narrow intervals (there are only 10 ways to do it), so this part is Student's t instead.

The parts' quantiles are added, each weighted by its share of the standard error (Cochran and Cox 1957, for the
Behrens-Fisher problem). So few seeds widen the interval as far as seeds matter, and nothing but the draws of problems is
random (with a fixed generator). On made-up results with the variance components of the committed ones, 3 to 8 seeds and
60 to 200 problems, the 95% interval covers the truth in 94 to 97% of the cases, where resampling seeds and problems alike
covers it in 77% (seeds differ much) to 99.8% (not at all: the rest is then counted three times).
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from s2d_lib.errors import StudyError

DRAWS = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval (95% unless another level was asked for)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Where the true mean may lie.

    Attributes:
        mean: The observed mean.
        problems: What resampling the problems adds to it, shape (draws,), mean about 0.
        scale: Standard error of the part that seeds contribute (0 with one seed, where it can't be known).
        freedom: Its degrees of freedom, seeds - 1.
        bounds: The smallest and largest value that a mean can have; None where there are none.
    """

    mean: float
    problems: np.ndarray
    scale: float
    freedom: int
    bounds: tuple[float, float] | None

    def interval(self, level: float = 0.95) -> Estimate:
        """The central interval of this level, within the bounds."""
        tail = (1 - level) / 2
        bounds = self.bounds or (-math.inf, math.inf)
        low, high = (np.clip(self.mean + self._quantile(share), *bounds) for share in (tail, 1 - tail))
        return Estimate(self.mean, float(low), float(high))

    def detectable(self, error: float, power: float) -> float:
        """The smallest true mean that a study of this size tells from zero, at a two-sided error, with this power.

        It must exceed the half width of the interval by the quantile of the mean's error at the power. From few seeds, a
        standard error comes out too small more often than too large, so its median is corrected before (that of
        chi-square by Wilson and Hilferty 1931).
        """
        median = (1 - 2 / (9 * self.freedom)) ** 1.5 if self.freedom else 1.0  # in units of the true error
        usual = replace(self, scale=self.scale / median)
        half_width = lambda level: (usual._quantile((1 + level) / 2) - usual._quantile((1 - level) / 2)) / 2  # noqa: E731
        return half_width(1 - error) + half_width(2 * power - 1)

    def _quantile(self, share: float) -> float:
        """Quantile of the mean's error."""
        problem_error = float(self.problems.std())
        total = math.hypot(self.scale, problem_error)
        if not total:
            return 0.0
        of_problems = problem_error * float(np.quantile(self.problems, share))
        of_seeds = self.scale * self.scale * student_t_quantile(share, self.freedom) if self.scale else 0.0
        return (of_problems + of_seeds) / total


SHARE = (0.0, 1.0)  # bounds of an accuracy


def bootstrap(
    accuracy: np.ndarray,
    against: np.ndarray | None = None,
    level: float = 0.95,
    bounds: tuple[float, float] | None = SHARE,
) -> Estimate:
    """Mean accuracy, or mean paired difference, with its interval over seeds and problems.

    Args:
        accuracy: Mean correctness, shape (seeds, problems), or what else there is one value of a seed and unit of.
        against: The same of what it is compared with, same seeds and problems in the same order.
        level: Of the interval.
        bounds: Of a value; None where there are none.

    Raises:
        StudyError: When the two do not have the same seeds and problems, or there is one problem and one seed.
    """
    return spread(accuracy, against, bounds).interval(level)


def spread(
    accuracy: np.ndarray, against: np.ndarray | None = None, bounds: tuple[float, float] | None = SHARE
) -> Spread:
    """The distribution behind `bootstrap`, for intervals of several levels; arguments and errors as there.

    With one seed the interval is over problems alone: it says nothing of another training run. With one unit, such as a
    mean over benchmarks, it is over seeds alone: it says nothing of other benchmarks.
    """
    values = np.asarray(accuracy, dtype=float)
    if against is not None:
        if values.shape != np.shape(against):
            raise StudyError(
                f"a paired comparison needs the same seeds and problems on both sides, given {values.shape} and "
                f"{np.shape(against)}."
            )
        values = values - np.asarray(against, dtype=float)
    seeds, problems = values.shape
    if problems < 2 and seeds < 2:
        raise StudyError("an interval needs at least two problems: evaluate on more.")
    mean = values.mean()
    if against is not None and bounds:
        bounds = (bounds[0] - bounds[1], bounds[1] - bounds[0])
    of_problem = values.mean(axis=0) - mean
    if seeds == 1:
        return Spread(float(mean), problem_weights(problems) @ of_problem, 0.0, 0, bounds)
    of_seed = values.mean(axis=1) - mean
    if problems == 1:
        scale = float(np.sqrt((of_seed**2).sum() / (seeds - 1) / seeds))
        return Spread(float(mean), np.zeros(DRAWS), scale, seeds - 1, bounds)
    rest = values - mean - of_seed[:, None] - of_problem
    seed_square = problems * (of_seed**2).sum() / (seeds - 1)
    problem_square = seeds * (of_problem**2).sum() / (problems - 1)
    rest_square = (rest**2).sum() / ((seeds - 1) * (problems - 1))
    # Observed problem effects contain their share of the rest, which the seeds' part already counts.
    own = np.sqrt(max(problem_square - rest_square, 0) / problem_square) if problem_square else 0.0
    draws = problem_weights(problems) @ (own * of_problem)
    return Spread(float(mean), draws, float(np.sqrt(seed_square / (seeds * problems))), seeds - 1, bounds)


@lru_cache(maxsize=4)
def problem_weights(problems: int) -> np.ndarray:
    """Weights of the problems in every draw, shape (draws, problems): problems - 1 of them drawn with replacement, so
    that the variance over draws is the unbiased one (McCarthy and Snowden 1985)."""
    generator = np.random.default_rng(0)
    return generator.multinomial(problems - 1, np.full(problems, 1 / problems), size=DRAWS) / (problems - 1)


@lru_cache
def student_t_quantile(share: float, freedom: int) -> float:
    """The value below which this share of Student's t distribution lies."""
    low, high = -1.0, 1.0
    while student_t(low, freedom) > share:
        low *= 2
    while student_t(high, freedom) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def student_t(value: float, freedom: int) -> float:
    """Student's t distribution function for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    ratio = value / math.sqrt(freedom)  # the tangent of the angle there
    cosine = 1 / math.hypot(1, ratio)
    odd = freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for n in range(1 + odd, freedom, 2):
        total += term
        term *= n / (n + 1) * cosine**2
    total *= ratio * cosine
    return 0.5 + (math.atan(ratio) + total) / math.pi if odd else 0.5 + total / 2
