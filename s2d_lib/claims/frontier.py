"""The label frontier: accuracy against labeled problems, where two curves cross, and how many labels match a route.

One joint bootstrap serves all curves of an evaluation set, which have the same seeds and problems. A draw is a vector with
a value for every route at every budget, so that what follows from several points (a crossing, an inverted curve) is
computed on each draw and gets an interval that knows how the points err together. Problems and seeds enter as in
s2d_lib.claims.bootstrap, whose two variances become covariance matrices over the points:

- problems: the same resampled problems at every point; their effects are shrunk by what the rest explains of them;
- seeds and the rest: multivariate Student's t with seeds - 1 degrees of freedom in the directions in which seeds differ,
  so that every difference of points that is fixed beforehand has that module's Student's t.

The two parts are added within a draw instead of quantile by quantile (the Behrens-Fisher distribution instead of Cochran's
approximation of it), which makes intervals up to about a tenth wider. On made-up results with 3 or 5 seeds and 60 problems
the 95% intervals of matches and crossings cover the truth in 95 to 100% of the cases. Single points and their paired
differences keep the intervals of `bootstrap`: they are those of the tables. With one seed all intervals are over problems
alone.

Labels are on a log2 axis and accuracy is linear in it between two budgets.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from s2d_lib.claims.bootstrap import DRAWS, Estimate, bootstrap, problem_weights
from s2d_lib.errors import StudyError

LEVEL = 0.95
GRID = 32  # places an octave at which two curves are compared: a crossing's bounds are good to 2%
SAME = 1e-9  # accuracies nearer than this are equal: rounding must not put a level above the curve it lies on


@dataclass(frozen=True, eq=False)
class Curves:
    """Accuracy of several routes at the same label budgets, on one evaluation set.

    Attributes:
        labels: The budgets, increasing, shape (points,).
        values: Route -> mean correctness, shape (points, seeds, problems).
        draws: Route -> where its true accuracies may lie, shape (draws, points); a row is one draw of all routes.
    """

    labels: np.ndarray
    values: Mapping[str, np.ndarray]
    draws: Mapping[str, np.ndarray]

    def mean(self, route: str) -> np.ndarray:
        """Observed accuracies of a route, shape (points,)."""
        return self.values[route].mean(axis=(1, 2))

    def estimates(self, route: str, against: str | None = None) -> list[Estimate]:
        """Accuracy of a route at every budget, or its paired difference to another one there, with 95% intervals."""
        others = self.values[against] if against else [None] * len(self.labels)
        return [bootstrap(own, other, LEVEL) for own, other in zip(self.values[route], others, strict=True)]


@dataclass(frozen=True)
class Crossing:
    """Where two curves cross.

    Attributes:
        labels: At how many labels.
        low: The smallest number of labels at which the 95% interval of the difference holds zero, or from which it does
            without a break where another crossing comes before; 0 when that is the smallest budget.
        high: The same upwards; infinite when that is the largest budget.
        leads: The route that is ahead with more labels than that.
    """

    labels: float
    low: float
    high: float
    leads: str


@dataclass(frozen=True)
class Crossings:
    """All crossings of two curves.

    Attributes:
        found: With rising numbers of labels; none when one route is ahead throughout.
        leads: The route that is ahead at the fewest labels where they differ; None when the curves are the same.
        clear: At how many budgets the 95% interval of the paired difference excludes zero.
    """

    found: tuple[Crossing, ...]
    leads: str | None
    clear: int


@dataclass(frozen=True)
class Match:
    """How many labels one route needs to be as accurate as another one with `labels` of them.

    Attributes:
        labels: The other route's number of problems.
        needed: Labels that match it: infinite when the largest budget does not suffice, 0 when the smallest is already
            better.
        low: Lower end of the 95% interval, likewise.
        high: Upper end, likewise.
    """

    labels: float
    needed: float
    low: float
    high: float


def curves_of(labels: np.ndarray, accuracies: Mapping[str, np.ndarray]) -> Curves:
    """Curves with their joint bootstrap.

    Args:
        labels: Label budgets, increasing, shape (points,).
        accuracies: Route -> mean correctness, shape (points, seeds, problems), all with the same seeds and problems.

    Raises:
        StudyError: When budgets do not increase, or routes differ in budgets, seeds or problems.
    """
    labels = np.asarray(labels, dtype=float)
    if len(labels) < 2 or labels[0] <= 0 or (np.diff(labels) <= 0).any():
        raise StudyError(f"a label frontier needs two or more increasing label budgets, given {labels.tolist()}.")
    values = {route: np.asarray(accuracy, dtype=float) for route, accuracy in accuracies.items()}
    shapes = {route: value.shape for route, value in values.items()}
    if len(set(shapes.values())) > 1 or any(shape[0] != len(labels) for shape in shapes.values()):
        raise StudyError(
            f"the frontier compares routes at the same {len(labels)} budgets, seeds and problems, given (budgets, seeds, "
            f"problems) {shapes}: make the missing runs."
        )
    drawn = np.split(_joint_draws(np.concatenate(list(values.values()))), len(values), axis=1)
    return Curves(labels, values, dict(zip(values, drawn, strict=True)))


def _joint_draws(values: np.ndarray) -> np.ndarray:
    """Draws of the true means of all points (routes times budgets).

    Args:
        values: Mean correctness, shape (points, seeds, problems).

    Returns:
        Shape (draws, points).

    Raises:
        StudyError: When there are fewer than two problems.
    """
    points, seeds, problems = values.shape
    if problems < 2:
        raise StudyError("an interval needs at least two problems: evaluate on more.")
    # The draws' weights belong to places: sorted, the same problems in another order give the same draws.
    values = values[:, :, np.lexsort(values.reshape(-1, problems))]
    mean = values.mean(axis=(1, 2))
    of_problem = values.mean(axis=1) - mean[:, None]
    weights = problem_weights(problems)
    if seeds == 1:
        return mean + weights @ of_problem.T
    of_seed = values.mean(axis=2) - mean[:, None]
    rest = (values - mean[:, None, None] - of_seed[:, :, None] - of_problem[:, None, :]).reshape(points, -1)
    problem_square = seeds * of_problem @ of_problem.T / (problems - 1)
    rest_square = rest @ rest.T / ((seeds - 1) * (problems - 1))
    by_problem = weights @ (_own_share(problem_square, rest_square) @ of_problem).T
    generator = np.random.default_rng(0)
    normal = generator.normal(size=(DRAWS, seeds))
    scale = np.sqrt(generator.chisquare(seeds - 1, size=DRAWS) / (seeds - 1))  # one a draw: all points vary together
    return mean + by_problem + (normal / scale[:, None]) @ of_seed.T / math.sqrt(seeds * (seeds - 1))


def _own_share(problem_square: np.ndarray, rest_square: np.ndarray) -> np.ndarray:
    """The map that takes observed problem effects to ones without their share of the rest, shape (points, points).

    Its image has the covariance problem_square - rest_square, where that is negative zero. With one point it is the
    factor of s2d_lib.claims.bootstrap.
    """
    size, axes = np.linalg.eigh(problem_square)
    kept = size > size.max(initial=0) * 1e-12
    root = axes[:, kept] * np.sqrt(size[kept])
    inverse = axes[:, kept] / np.sqrt(size[kept])
    left, directions = np.linalg.eigh(np.eye(kept.sum()) - inverse.T @ rest_square @ inverse)
    shrink = (directions * np.sqrt(np.clip(left, 0, None))) @ directions.T
    return root @ shrink @ inverse.T


def crossings(curves: Curves, first: str, second: str) -> Crossings:
    """Where the accuracies of two routes cross.

    Curves that only touch do not cross; where they are the same between a change of sides, the middle counts.
    """
    place = np.log2(curves.labels)
    gap = curves.mean(first) - curves.mean(second)
    sides = np.where(np.abs(gap) < SAME, 0, np.sign(gap)).astype(int)
    name = {1: first, -1: second}
    off = np.flatnonzero(sides)
    if not len(off):
        return Crossings((), None, 0)
    grid = np.linspace(place[0], place[-1], round((place[-1] - place[0]) * GRID) + 1)
    weights = np.array([np.interp(grid, place, point) for point in np.eye(len(place))])
    drawn = weights.T @ (curves.draws[first] - curves.draws[second]).T
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    places = []
    for before, after in pairwise(off):
        if sides[before] == sides[after]:
            continue
        if after == before + 1:
            share = gap[before] / (gap[before] - gap[after])
            at = place[before] + share * (place[after] - place[before])
        else:
            at = (place[before + 1] + place[after - 1]) / 2
        places.append((at, name[sides[after]]))
    bounds = _bounds([at for at, _ in places], grid, (low <= 0) & (high >= 0))
    found = [Crossing(float(2**at), *ends, leads) for (at, leads), ends in zip(places, bounds, strict=True)]
    clear = sum(not estimate.low <= 0 <= estimate.high for estimate in curves.estimates(first, second))
    return Crossings(tuple(found), name[sides[off[0]]], clear)


def _bounds(places: list[float], grid: np.ndarray, undecided: np.ndarray) -> list[tuple[float, float]]:
    """Labels down to and up to which each crossing may be; see Crossing.

    With few seeds the interval of the difference is too narrow here and there by chance. Such a gap must not cut off what
    is undecided beyond the outermost crossings; between two crossings any gap parts them.
    """
    bounds = []
    for number, at in enumerate(places):
        below, above = undecided & (grid < at), undecided & (grid > at)
        if number:
            below &= grid > max(grid[~undecided & (grid < at)], default=-math.inf)
        if number + 1 < len(places):
            above &= grid < min(grid[~undecided & (grid > at)], default=math.inf)
        low = 0.0 if below[0] else 2 ** min(grid[below], default=at)
        high = math.inf if above[-1] else 2 ** max(grid[above], default=at)
        bounds.append((float(low), float(high)))
    return bounds


def labels_to_match(curves: Curves, direct: str, route: str) -> list[Match]:
    """For every budget of `route`, how many labels `direct` needs to reach the same accuracy.

    The curve of `direct` is made monotone by isotonic regression before it is inverted, on the observed means and on every
    draw: labels never hurt in truth, and of points that fall, pooling takes the mean, where a running maximum takes the
    luckiest, and so needs too few labels. Of a flat stretch its beginning counts.
    """
    matched = _inverse(curves.labels, curves.mean(direct)[None], curves.mean(route)[None])[0]
    drawn = _inverse(curves.labels, curves.draws[direct], curves.draws[route])
    # Order statistics: between a number and infinity there is nothing to interpolate.
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="inverted_cdf")
    return [Match(*map(float, row)) for row in zip(curves.labels, matched, low, high, strict=True)]


def _inverse(labels: np.ndarray, curve: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Labels at which each monotone curve reaches the levels; 0 below its beginning, infinity above its end.

    Args:
        labels: Shape (points,).
        curve: Shape (draws, points).
        levels: Shape (draws, levels).

    Returns:
        Shape (draws, levels).
    """
    monotone = isotonic(curve)
    last = len(labels) - 1
    reached = (monotone[:, None, :] < levels[:, :, None] - SAME).sum(axis=2)  # index of the first point that is as good
    right = np.clip(reached, 1, last)
    of = lambda index: np.take_along_axis(monotone, index, axis=1)  # noqa: E731
    lower, upper = of(right - 1), of(right)
    rise = np.where(upper > lower, upper - lower, 1.0)
    place, share = np.log2(labels), np.clip((levels - lower) / rise, 0, 1)
    found = 2 ** (place[right - 1] + share * (place[right] - place[right - 1]))
    found = np.where(reached > last, math.inf, found)
    return np.where(levels < monotone[:, :1] - SAME, 0.0, found)


def isotonic(curve: np.ndarray) -> np.ndarray:
    """The closest non-decreasing sequence by least squares, each row its own (min-max formula: Barlow et al. 1972).

    Args:
        curve: Shape (rows, points).
    """
    points = curve.shape[1]
    upto = np.full(
        (points, *curve.shape), -math.inf
    )  # [start, row, point]: the smallest mean from start to point or later
    for start in range(points):
        smallest = np.full(len(curve), math.inf)
        for end in range(points - 1, start - 1, -1):
            smallest = np.minimum(smallest, curve[:, start : end + 1].mean(axis=1))
            upto[start, :, end] = smallest
    return upto.max(axis=0)
