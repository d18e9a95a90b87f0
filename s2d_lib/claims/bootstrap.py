"""Intervals for accuracies and their paired differences, and what a difference says of a comparison `a > b`.

Seeds and problems are crossed, so a value is `mean + seed effect + problem effect + rest`, the rest holding interaction and
sampling noise. The mean's variance has two parts, from mean squares (Searle, Casella and McCulloch 1992, chapter 4):

- problems: (MS_problems - MS_rest) / (seeds * problems), from a hundred problems: they are resampled;
- seeds and the rest: MS_seeds / (seeds * problems), known with seeds - 1 degrees of freedom only. Resampling three
  seeds gives far too narrow intervals (there are only 10 ways to do it), so this part is Student's t instead.

The parts' quantiles are added, each weighted by its share of the standard error (Cochran and Cox 1957, for the Behrens-Fisher
problem). With the committed results' variance components, 3 to 8 seeds and 60 to 200 problems, the 95% interval covers the truth
in 94 to 97% of the cases; resampling seeds and problems alike covers it in 77% (seeds differ much) to 99.8% (not at all).

Where fewer than EVENTS problems carry a mean, or what it lacks (counted as Kish (1965) counts an effective sample size), its
bounds are nearly those of Clopper and Pearson, on its own variance (Korn and Graubard 1998), with one further problem on the far
side (Fay and Feuer 1997): at 0% of n problems exactly 1 - tail^(1/n). At true rates of 0.2 to 5% they cover in 96 to 99% of the
cases, where resampling covers in 60 to 94%. A difference is then that of its gains and losses, two such rates (Newcombe 1998).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from s2d_lib.errors import StudyError

DRAWS = 4000
EVENTS = 10
SHARE = (0.0, 1.0)  # bounds of an accuracy
ERROR, POWER = 0.05, 0.8  # two-sided

Table = np.ndarray  # mean correctness, shape (seeds, problems), or what else there is one value of a seed and unit of
Bounds = tuple[float, float] | None
Verdict = Literal["holds", "contradicted", "undecided", "not run", "no set", "premise absent"]


class Estimate(NamedTuple):
    """A mean with its interval (95% unless another level was asked for)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """Where a true mean may lie, mostly that of a difference, and what this says of it; in shares, tokens or nats."""

    mean: float
    seeds: int  # with one, nothing is known of another training run and nothing decided
    problems: int
    problem_error: float  # standard error over problems alone, as the papers give it for accuracies
    draws: np.ndarray  # what resampling the problems adds to the mean, shape (draws,), mean about 0
    scale: float  # standard error of the part that seeds contribute (0 with one seed, where it can't be known)
    bounds: Bounds  # the smallest and largest value that a mean can have
    margin: float = 0.0  # by how much the difference may be below zero
    few: bool = False  # whether few problems carry it, a rate
    parts: tuple["Compared", ...] = ()  # gains and losses of a difference that few problems carry, each a rate

    @cached_property
    def difference(self) -> Estimate:
        """The mean with its 95% interval over seeds and problems."""
        return self.interval()

    @property
    def verdict(self) -> Verdict:
        """Of this comparison alone."""
        return self._judged(self.difference)

    def refuted(self, comparisons: int) -> bool:
        """Whether it is contradicted as one of so many comparisons, at 5% divided by their number (Bonferroni, which for the
        question whether any is contradicted is the same as Holm)."""
        return self._judged(self.interval(1 - ERROR / comparisons)) == "contradicted"

    def _judged(self, interval: Estimate) -> Verdict:
        return verdict_of(interval, self.margin) if self.seeds > 1 else "undecided"

    def interval(self, level: float = 1 - ERROR) -> Estimate:
        """The central interval of this level, within the bounds."""
        low, high = np.clip(self._ends(level), *(self.bounds or (-math.inf, math.inf)))
        return Estimate(self.mean, float(low), float(high))

    @property
    def detectable(self) -> float:
        """The smallest true difference that a study of this size finds with 80% power at two-sided 5%: it must exceed the half
        width of the interval by the quantile of the mean's error at the power."""
        return self._half_width(1 - ERROR) + self._half_width(2 * POWER - 1)

    def chance(self, true: float) -> float:
        """The chance to come out as `holds` in a study of this size, if this is the true difference: inverts `detectable`."""
        if self.seeds == 1:
            return 0.0
        beyond = true + self.margin - self._half_width(1 - ERROR)
        low, high = 0.0, 1.0
        for _ in range(30):
            level = (low + high) / 2
            low, high = (level, high) if self._half_width(level) < abs(beyond) else (low, level)
        return (1 + math.copysign(low, beyond)) / 2

    def _half_width(self, level: float) -> float:
        low, high = self._usual._ends(level)
        return (high - low) / 2

    @cached_property
    def _usual(self) -> "Compared":
        """With the median of the standard error, which from few seeds is mostly too small (chi-square's by Wilson and Hilferty
        1931), as the true one."""
        median = (1 - 2 / (9 * (self.seeds - 1))) ** 1.5 if self.seeds > 1 else 1.0
        return replace(self, scale=self.scale / median, parts=tuple(part._usual for part in self.parts))

    def _ends(self, level: float) -> tuple[float, float]:
        tail = (1 - level) / 2
        if self.parts:
            gain, loss = self.parts
            gains, losses = gain._ends(level), loss._ends(level)
            below = math.hypot(gain.mean - gains[0], losses[1] - loss.mean)
            return self.mean - below, self.mean + math.hypot(gains[1] - gain.mean, loss.mean - losses[0])
        low, high = self.mean + self._error(tail), self.mean + self._error(1 - tail)
        if not self.few:
            return low, high
        largest = self.bounds[1]
        variance = ((high - low) / 2 / ndtri(1 - tail) / largest) ** 2 if tail < 0.5 else 0.0
        rate = self.mean / largest
        if rate > 0.5:
            low, high = (1 - end for end in _exact(1 - rate, variance, self.problems, tail)[::-1])
        else:
            low, high = _exact(rate, variance, self.problems, tail)
        return largest * low, largest * high

    def _error(self, share: float) -> float:
        """Quantile of the mean's error."""
        of_problems = float(self.draws.std())
        total = math.hypot(self.scale, of_problems)
        if not total:
            return 0.0
        of_seeds = self.scale * self.scale * stdtrit(self.seeds - 1, share) if self.scale else 0.0
        return (of_problems * float(np.quantile(self.draws, share)) + of_seeds) / total


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


def bootstrap(accuracy: Table, against: Table | None = None, bounds: Bounds = SHARE) -> Estimate:
    """Mean accuracy, or mean paired difference, with its 95% interval over seeds and problems."""
    return compare(accuracy, against, bounds=bounds).difference


def compare(better: Table, than: Table | None = None, margin: float = 0.0, bounds: Bounds = SHARE) -> Compared:
    """Whether `better` is above `than`, or zero, with values within `bounds` on either side; with a margin, not worse by more.
    StudyErrors where the shapes differ and where there is one value only.

    With one seed the interval is over problems alone: it says nothing of another training run. With one unit, such as a
    mean over benchmarks, it is over seeds alone: it says nothing of other benchmarks.
    """
    values = np.asarray(better, dtype=float)
    if than is not None:
        if values.shape != np.shape(than):
            sides = f"{values.shape} and {np.shape(than)}"
            raise StudyError(f"a paired comparison needs the same seeds and problems on both sides, given {sides}.")
        values = values - np.asarray(than, dtype=float)
        bounds = bounds and (bounds[0] - bounds[1], bounds[1] - bounds[0])
    if values.size < 2:
        raise StudyError("an interval needs at least two problems: evaluate on more.")
    found = replace(_ordinary(values, bounds), margin=margin)
    if not bounds or found.problems < 2:
        return found
    carried = np.abs(values.mean(axis=0)) / bounds[1]
    effective = [of.sum() ** 2 / (of**2).sum() if of.any() else 0.0 for of in (carried, 1 - carried)]
    if min(effective) >= EVENTS:
        return found
    if bounds[0] == 0:
        return replace(found, few=True)
    sides = (_ordinary(np.clip(sign * values, 0, None), (0.0, bounds[1])) for sign in (1, -1))
    return replace(found, parts=tuple(replace(side, few=True) for side in sides))


def mean_squares(values: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, of problems and of the rest, for shape (seeds, problems); 0 where there is one alone."""
    seeds, problems = values.shape
    of_seed, of_problem = (values.mean(axis=axis, keepdims=True) - values.mean() for axis in (1, 0))
    rest = values - values.mean() - of_seed - of_problem
    squares = problems * (of_seed**2).sum(), seeds * (of_problem**2).sum(), (rest**2).sum()
    freedom = seeds - 1, problems - 1, (seeds - 1) * (problems - 1)
    return tuple(float(square) / max(free, 1) for square, free in zip(squares, freedom, strict=True))


def _ordinary(values: np.ndarray, bounds: Bounds) -> Compared:
    """From the variance components of shape (seeds, problems)."""
    seeds, problems = values.shape
    of_seeds, of_problems, rest = mean_squares(values)
    # Observed problem effects contain their share of the rest, which the seeds' part already counts.
    own = math.sqrt(max(of_problems - rest, 0) / of_problems) if of_problems else 0.0
    draws = _problem_weights(problems) @ (own * (values.mean(axis=0) - values.mean()))
    scale, error = (math.sqrt(square / values.size) for square in (of_seeds if seeds > 1 else 0.0, of_problems))
    return Compared(float(values.mean()), seeds, problems, error, draws, scale, bounds)


@lru_cache(maxsize=4)
def _problem_weights(problems: int) -> np.ndarray:
    """Weights of the problems in every draw, shape (draws, problems): problems - 1 of them drawn with replacement, so
    that the variance over draws is the unbiased one (McCarthy and Snowden 1985)."""
    drawn = np.random.default_rng(0).multinomial(problems - 1, np.full(problems, 1 / problems), size=DRAWS)
    return drawn / max(problems - 1, 1)


def verdict_of(interval: Estimate, margin: float = 0.0) -> Verdict:
    """A difference holds when its interval lies above -margin and is contradicted when it lies below."""
    if interval.low > -margin:
        return "holds"
    return "contradicted" if interval.high < -margin else "undecided"


def claim_verdict(results: Sequence[Compared | None], absent: Sequence[bool] | None = None) -> Verdict:
    """Verdict of a claim, or of one of its links, from its comparisons on all sets that something stands for; None is one whose
    runs do not exist, `absent` says of each whether a premise is measurably missing.

    It holds when every comparison holds: an intersection-union test, whose error is at most that of one comparison (Berger 1982).
    It is contradicted when any that has its premises is, at a level corrected for the number of comparisons; nothing is corrected
    for the number of claims. While a comparison is missing, it can be contradicted, but not hold.
    """
    if not results:
        return "no set"
    absent = absent or [False] * len(results)
    if any(r.refuted(len(results)) for r, lacking in zip(results, absent, strict=True) if r and not lacking):
        return "contradicted"
    if None in results:
        return "not run"
    if any(absent):
        return "premise absent"
    return "holds" if all(result.verdict == "holds" for result in results) else "undecided"
