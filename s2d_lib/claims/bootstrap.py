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

Where few problems carry a mean (nearly all answers are wrong, or nearly all right), what was drawn says too little of what
was not, and the interval has no width when all answers are alike. Below EVENTS such problems, counted as Kish (1965) counts an
effective sample size, the bounds are nearly those of Clopper and Pearson instead, on the mean's own variance (Korn and Graubard
1998) and with one further problem added on the far side (Fay and Feuer 1997): at 0% of n problems exactly Clopper and
Pearson's 1 - (tail)^(1/n). At true rates of 0.2 to 5% they cover in 92 to 100% of the cases, 96 to 99% on average (60 and 200
problems, 1 to 5 seeds, intraclass correlations of 0.05 to 0.7), where resampling covers in 20 to 98%, 60 to 94% on average. A
difference is then that of its gains and its losses, two such rates (Newcombe 1998). Everything else keeps the interval above.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from s2d_lib.errors import StudyError

DRAWS = 4000
EVENTS = 10  # problems that carry a mean, or what it lacks, below which the exact bounds are used


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
        few: The number of problems, where few of them carry a rate and its bounds are exact; else 0.
        parts: Gains and losses of a difference that few problems carry, each a rate; else empty.
    """

    mean: float
    problems: np.ndarray
    scale: float
    freedom: int
    bounds: tuple[float, float] | None
    few: int = 0
    parts: tuple["Spread", ...] = ()

    def interval(self, level: float = 0.95) -> Estimate:
        """The central interval of this level, within the bounds."""
        low, high = np.clip(self._ends(level), *(self.bounds or (-math.inf, math.inf)))
        return Estimate(self.mean, float(low), float(high))

    def detectable(self, error: float, power: float) -> float:
        """The smallest true mean that a study of this size tells from zero, at a two-sided error, with this power.

        It must exceed the half width of the interval by the quantile of the mean's error at the power. From few seeds, a
        standard error comes out too small more often than too large, so its median is corrected before (that of
        chi-square by Wilson and Hilferty 1931).
        """
        usual = self._usual()
        return usual._half_width(1 - error) + usual._half_width(2 * power - 1)

    def power(self, true: float, error: float) -> float:
        """The chance that a study of this size finds a true mean to be above zero: what `detectable` inverts."""
        usual = self._usual()
        beyond = true - usual._half_width(1 - error)
        low, high = 0.0, 1.0
        for _ in range(30):
            level = (low + high) / 2
            low, high = (level, high) if usual._half_width(level) < abs(beyond) else (low, level)
        return (1 + math.copysign(low, beyond)) / 2

    def _usual(self) -> "Spread":
        median = (1 - 2 / (9 * self.freedom)) ** 1.5 if self.freedom else 1.0  # in units of the true error
        return replace(self, scale=self.scale / median, parts=tuple(part._usual() for part in self.parts))

    def _half_width(self, level: float) -> float:
        low, high = self._ends(level)
        return (high - low) / 2

    def _ends(self, level: float) -> tuple[float, float]:
        tail = (1 - level) / 2
        if self.parts:
            (gain, *gains), (loss, *losses) = ((part.mean, *part._ends(level)) for part in self.parts)
            below = math.hypot(gain - gains[0], losses[1] - loss)
            return self.mean - below, self.mean + math.hypot(gains[1] - gain, loss - losses[0])
        ends = self.mean + self._quantile(tail), self.mean + self._quantile(1 - tail)
        if not self.few:
            return ends
        largest = self.bounds[1]
        variance = ((ends[1] - ends[0]) / 2 / ndtri(1 - tail) / largest) ** 2 if tail < 0.5 else 0.0
        rate = self.mean / largest
        if rate > 0.5:
            low, high = (1 - end for end in _exact(1 - rate, variance, self.few, tail)[::-1])
        else:
            low, high = _exact(rate, variance, self.few, tail)
        return largest * low, largest * high

    def _quantile(self, share: float) -> float:
        """Quantile of the mean's error."""
        problem_error = float(self.problems.std())
        total = math.hypot(self.scale, problem_error)
        if not total:
            return 0.0
        of_problems = problem_error * float(np.quantile(self.problems, share))
        of_seeds = self.scale * self.scale * stdtrit(self.freedom, share) if self.scale else 0.0
        return (of_problems + of_seeds) / total


def _exact(rate: float, variance: float, problems: int, tail: float) -> tuple[float, float]:
    """Bounds of a small rate: beta quantiles with its moments, for the upper one those with a further solved problem."""

    def quantile(mean: float, variance: float, share: float) -> float:
        if not variance:
            return mean
        size = mean * (1 - mean) / variance - 1
        return float(betaincinv(mean * size, (1 - mean) * size, share)) if size > 0 else float(share > 0.5)

    variance = variance or rate * (1 - rate) / problems  # problems that are all alike are drawn alike, no more
    weight = 1 / (problems + 1)
    with_one = (1 - weight) ** 2 * variance + weight**2 * problems / (problems + 2)
    return quantile(rate, variance, tail), quantile((1 - weight) * rate + weight, with_one, 1 - tail)


SHARE = (0.0, 1.0)  # bounds of an accuracy


def bootstrap(
    accuracy: np.ndarray,
    against: np.ndarray | None = None,
    bounds: tuple[float, float] | None = SHARE,
) -> Estimate:
    """Mean accuracy, or mean paired difference, with its 95% interval over seeds and problems.

    Args:
        accuracy: Mean correctness, shape (seeds, problems), or what else there is one value of a seed and unit of.
        against: The same of what it is compared with, same seeds and problems in the same order.
        bounds: Of a value; None where there are none.

    Raises:
        StudyError: When the two do not have the same seeds and problems, or there is one problem and one seed.
    """
    return spread(accuracy, against, bounds).interval()


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
    if min(values.shape) < 1 or values.size < 2:
        raise StudyError("an interval needs at least two problems: evaluate on more.")
    if against is not None and bounds:
        bounds = (bounds[0] - bounds[1], bounds[1] - bounds[0])
    found = _ordinary(values, bounds)
    if not bounds or values.shape[1] < 2:
        return found
    carried = np.abs(values.mean(axis=0)) / bounds[1]
    if min(_effective(carried), _effective(1 - carried)) >= EVENTS:
        return found
    if bounds[0] == 0:
        return replace(found, few=values.shape[1])
    sides = (np.clip(sign * values, 0, None) for sign in (1, -1))
    return replace(
        found, parts=tuple(replace(_ordinary(side, (0.0, bounds[1])), few=values.shape[1]) for side in sides)
    )


def _effective(values: np.ndarray) -> float:
    """How many equal values would weigh as much (Kish 1965)."""
    return float(values.sum() ** 2 / (values**2).sum()) if values.any() else 0.0


def _ordinary(values: np.ndarray, bounds: tuple[float, float] | None) -> Spread:
    """From the variance components of shape (seeds, problems)."""
    seeds, problems = values.shape
    mean = values.mean()
    of_problem = values.mean(axis=0) - mean
    if seeds == 1:
        return Spread(float(mean), _problem_weights(problems) @ of_problem, 0.0, 0, bounds)
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
    draws = _problem_weights(problems) @ (own * of_problem)
    return Spread(float(mean), draws, float(np.sqrt(seed_square / (seeds * problems))), seeds - 1, bounds)


@lru_cache(maxsize=4)
def _problem_weights(problems: int) -> np.ndarray:
    """Weights of the problems in every draw, shape (draws, problems): problems - 1 of them drawn with replacement, so
    that the variance over draws is the unbiased one (McCarthy and Snowden 1985)."""
    generator = np.random.default_rng(0)
    return generator.multinomial(problems - 1, np.full(problems, 1 / problems), size=DRAWS) / (problems - 1)
