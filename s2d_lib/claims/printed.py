"""What printed accuracies can say: errors over problems that a table of single means with k samples a problem must have.

A problem's true solve rate differs from problem to problem. Of the variance p(1-p) of one graded answer a share rho lies
between problems (the intraclass correlation of 0/1 outcomes), the rest within them, so the mean over n problems of k samples
each has the standard error

    sqrt(p(1-p) / n * (rho + (1 - rho) / k)).

With rho = 0, where all problems are equally hard, it is sqrt(p(1-p) / (k n)): no honest error over problems is expected below
that floor. rho is the model's one free quantity. It is measured on this study's own per-problem results (`share_between`) and
varied over RHO_RANGE. For two models on the same problems, `correlation` is that of their problems' true solve rates: 0
gives the unpaired error, which is all that a table of means supports; a positive one what pairing by problem could gain.

Another training run is in none of this: each row of both papers is one run.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from s2d_lib.claims.bootstrap import Estimate
from s2d_lib.claims.published import Cell, Published
from s2d_lib.claims.verdict import ERROR, POWER

SAMPLES = 16  # of every problem, in both papers
RHO_RANGE = (0.3, 0.85)
"""Nine of ten trained models of ours lie in it: micro models on one kind of problem around 0.4, SmolLM2 on tasks of many
kinds, which real benchmarks resemble more, around 0.85."""
RHO = 0.6  # the middle of the range
CORRELATION = 0.7  # of two trained models' problems; ours: about 0.5 (micro), 0.85 (SmolLM2)
RUN_SPREAD = 2.0  # points between training runs of one recipe; ours: about 0.5 (micro-math) to 3.5 (micro-aime)

PrintedVerdict = Literal["holds", "contradicted", "undecided", "not printed"]


def standard_error(cell: Cell, rho: float = RHO, samples: int = SAMPLES) -> float:
    """Of a printed accuracy over problems, in points; with rho = 0 the floor."""
    return math.sqrt(_total(_variances(cell, None, rho, 0.0), samples))


def honest_difference(better: Cell, than: Cell, rho: float = RHO, correlation: float = 0.0) -> Estimate:
    """`better` minus `than` in points with its 95% interval over problems; `correlation` 0: unpaired."""
    difference = round(better.mean - than.mean, 1)
    half = NormalDist().inv_cdf(1 - ERROR / 2) * math.sqrt(_total(_variances(better, than, rho, correlation), SAMPLES))
    return Estimate(difference, difference - half, difference + half)


def printed_difference(
    published: Published, family: str, better: str, than: str, name: str, hours: float | None = None
) -> Estimate | None:
    """What the printed tables say of `better` minus `than`: points with an unpaired 95% interval; None where not printed.

    Arguments as of `Published.difference`.
    """
    cells = [published.cell(family, route, name, hours) for route in (better, than)]
    return None if None in cells else honest_difference(*cells)


def printed_verdict(
    published: Published,
    family: str,
    better: str,
    than: str,
    name: str,
    margin: float = 0.0,
    paired: bool = False,
    hours: float | None = None,
) -> PrintedVerdict:
    """Whether the printed tables support that `better` is above `than` (by no more than `margin` points below it).

    It holds when the 95% interval lies above -margin and is contradicted when it lies below. `paired`: as if the models'
    problems correlated by CORRELATION and the paper had compared problem by problem.
    """
    cells = [published.cell(family, route, name, hours) for route in (better, than)]
    if None in cells:
        return "not printed"
    return verdict_of(honest_difference(*cells, correlation=CORRELATION if paired else 0.0), margin)


def verdict_of(estimate: Estimate, margin: float = 0.0) -> PrintedVerdict:
    """Of an interval in points."""
    if estimate.low > -margin:
        return "holds"
    return "contradicted" if estimate.high < -margin else "undecided"


@dataclass(frozen=True)
class Settled:
    """What finds a difference of the printed size with 80% power at two-sided 5%; infinite where nothing of the kind does.

    Attributes:
        problems: With 16 samples of each and one training run a side.
        samples: Of each of the paper's own problems, with one training run a side.
        seeds: Training runs a side that are needed however many problems there are, when runs differ by RUN_SPREAD.
    """

    problems: float
    samples: float
    seeds: float


def settle(
    better: Cell,
    than: Cell,
    margin: float = 0.0,
    rho: float = RHO,
    correlation: float = 0.0,
    spread: float = RUN_SPREAD,
) -> Settled:
    """How many problems, samples or seeds settle the printed difference, each in closed form.

    The standard error that finds a difference d with 80% power is d / (z(0.975) + z(0.8)). The part of the variance that
    lies between problems falls with their number only, the part within also with the samples, and 2 spread^2 with the runs.
    """
    normal = NormalDist()
    wanted = (abs(better.mean - than.mean + margin) / (normal.inv_cdf(1 - ERROR / 2) + normal.inv_cdf(POWER))) ** 2
    between, within = _variances(better, than, rho, correlation)
    over = lambda part, of: math.ceil(part / of) if of > 0 else math.inf  # noqa: E731
    return Settled(
        problems=over(sum(n for _, n in better.parts) * _total((between, within), SAMPLES), wanted),
        samples=over(within, wanted - between),
        seeds=over(2 * spread**2, wanted),
    )


def _variances(better: Cell, than: Cell | None, rho: float, correlation: float) -> tuple[float, float]:
    """Variance of a cell, or of a difference, in squared points: the part between problems, and the part within them for one
    sample of each."""
    cells = [better] if than is None else [better, than]
    between = within = 0.0
    for sides in zip(*(cell.parts for cell in cells), strict=True):
        answer = [mean * (100 - mean) for mean, _ in sides]
        shared = 2 * correlation * math.sqrt(math.prod(answer)) if than else 0.0
        weight = 1 / (sides[0][1] * len(better.parts) ** 2)
        between += weight * rho * (sum(answer) - shared)
        within += weight * (1 - rho) * sum(answer)
    return between, within


def _total(variances: tuple[float, float], samples: int) -> float:
    return variances[0] + variances[1] / samples


def components(accuracy: np.ndarray, samples: int) -> tuple[float, float]:
    """Variance of one graded answer between problems and within them, unbiased (one-way analysis of variance in every run).

    Args:
        accuracy: Mean correctness, shape (seeds, problems).
        samples: Of each problem, at least two.
    """
    within = float((accuracy * (1 - accuracy)).mean()) * samples / (samples - 1)
    return float(accuracy.var(axis=1, ddof=1).mean()) - within / samples, within


def share_between(accuracy: np.ndarray, samples: int) -> float:
    """rho of a model on a set; arguments as of `components`."""
    between, within = components(accuracy, samples)
    return between / (between + within)


def difficulty_correlation(first: np.ndarray, second: np.ndarray, samples: int) -> float:
    """Correlation of two models' true solve rates over problems (samples are independent, so their noise is in the variances
    alone, from which it is taken out); arguments as of `components`, the same seeds and problems on both sides."""
    centred = [side - side.mean(axis=1, keepdims=True) for side in (first, second)]
    covariance = (centred[0] * centred[1]).sum(axis=1).mean() / (first.shape[1] - 1)
    return float(covariance / math.sqrt(components(first, samples)[0] * components(second, samples)[0]))


def run_spread(accuracy: np.ndarray) -> float:
    """Standard deviation between training runs in points, without what problems and samples add (two-way analysis of
    variance; 0 where it is not above that); shape (seeds, problems)."""
    seeds, problems = accuracy.shape
    of_seed = accuracy.mean(axis=1) - accuracy.mean()
    rest = accuracy - accuracy.mean(axis=0) - of_seed[:, None]
    squares = problems * (of_seed**2).sum() / (seeds - 1), (rest**2).sum() / ((seeds - 1) * (problems - 1))
    return 100 * math.sqrt(max(0.0, (squares[0] - squares[1]) / problems))
