"""What a difference says of a comparison `a > b`, and several comparisons of a claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from s2d_lib.claims.bootstrap import SHARE, Estimate, Spread, spread

Verdict = Literal["holds", "contradicted", "undecided", "not run", "no set", "premise absent"]

ERROR = 0.05  # two-sided
POWER = 0.8


@dataclass(frozen=True)
class Compared:
    """One comparison of two checkpoints on the same problems; accuracies as shares.

    Attributes:
        difference: Accuracy of the one that should be better minus that of the other, with its 95% interval over seeds
            and problems.
        problem_error: Standard error of the difference over problems alone, as the paper gives it for accuracies.
        detectable: The smallest true difference that a study of this size finds with 80% power at two-sided 5%.
        verdict: Of this comparison alone.
        seeds: How many seeds both sides have; with one, nothing is known of another training run and nothing decided.
        problems: How many problems both sides answered.
        spread: The distribution behind the interval.
        margin: By how much `better` may be worse, a share.
    """

    difference: Estimate
    problem_error: float
    detectable: float
    verdict: Verdict
    seeds: int
    problems: int
    spread: Spread
    margin: float

    def chance(self, difference: float) -> float:
        """The chance that it comes out as `holds` in a study of this size, if the true difference is this (a share)."""
        return self.spread.power(difference + self.margin, ERROR) if self.seeds > 1 else 0.0

    def refuted(self, comparisons: int) -> bool:
        """Whether it is contradicted as one of so many comparisons, at 5% divided by their number (Bonferroni, which for the
        question whether any is contradicted is the same as Holm)."""
        corrected = self.spread.interval(1 - ERROR / comparisons)
        return self.seeds > 1 and _verdict(corrected, self.margin) == "contradicted"


def compare(
    better: np.ndarray,
    than: np.ndarray,
    margin: float = 0.0,
    bounds: tuple[float, float] | None = SHARE,
) -> Compared:
    """Whether `better` is above `than`.

    It holds when the 95% interval of the difference lies above -margin and is contradicted when it lies below, so a
    margin of 0 asks for superiority and a positive one only for not being worse by that much.

    Args:
        better: Mean correctness of what should be better, shape (seeds, problems).
        than: The same of what it is compared with.
        margin: How much worse it may be, a share.
        bounds: Of a value on either side; None where there are none.

    Raises:
        StudyError: When the two do not have the same seeds and problems.
    """
    seeds, problems = np.shape(better)
    distribution = spread(better, than, bounds)
    estimate = distribution.interval(1 - ERROR)
    by_problem = (np.asarray(better, float) - np.asarray(than, float)).mean(axis=0)
    spread_of_problems = by_problem.std(ddof=1) if problems > 1 else 0.0
    return Compared(
        difference=estimate,
        problem_error=float(spread_of_problems / np.sqrt(problems)),
        detectable=distribution.detectable(ERROR, POWER),
        verdict=_verdict(estimate, margin) if seeds > 1 else "undecided",
        seeds=seeds,
        problems=problems,
        spread=distribution,
        margin=margin,
    )


def _verdict(estimate: Estimate, margin: float) -> Verdict:
    if estimate.low > -margin:
        return "holds"
    return "contradicted" if estimate.high < -margin else "undecided"


def claim_verdict(results: Sequence[Compared | None], absent: Sequence[bool] | None = None) -> Verdict:
    """Verdict of a claim, or of one of its links, from all its comparisons; None is one whose runs do not exist. Comparisons on
    sets that nothing stands for are left out, and none that is left makes `no set`: whoever shows the verdict says which sets
    are missing.

    It holds when every comparison holds: an intersection-union test, whose error is at most that of one comparison
    (Berger 1982). It is contradicted when any comparison is, at a level corrected for their number, that has what the claim
    presupposes. While a comparison is missing, it can still be contradicted, but not hold; and else it is `premise absent` when
    one has not what is presupposed. Nothing is corrected for the number of claims.

    Args:
        results: Of the comparisons.
        absent: Of each, whether a premise is measurably missing; none by default.
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
