"""Published figures: what the papers print, and the errors over problems that their means must have.

Of the variance p(1-p) of one graded answer a share rho lies between problems, whose true solve rates differ (the intraclass
correlation of 0/1 outcomes), the rest within them, so the mean over n problems of k samples each has the standard error
sqrt(p(1-p) / n * (rho + (1 - rho) / k)). With rho = 0, where all problems are equally hard, it is sqrt(p(1-p) / (k n)): no honest
error is expected below that floor. rho is measured on this study's own results (`share_between`) and varied over RHO_RANGE. For
two models on the same problems, `correlation` is that of their true solve rates: 0 gives the unpaired error, which is all that a
table of means supports; a positive one what pairing could gain. Another training run is in none of this: each row is one run.
"""

import math
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtri

from s2d_lib.claims.bootstrap import ERROR, POWER, Estimate, Verdict, mean_squares, verdict_of
from s2d_lib.claims.schema import known
from s2d_lib.study.load import load_study, project_root
from s2d_lib.study.strict import Strict, read_yaml, validated

AVERAGE = "average"  # of paper B's five benchmarks
SAMPLES = 16  # of every problem, in both papers
RHO_RANGE = (0.3, 0.95)
"""What is plausible: trained students of ours have medians of 0.87 to 0.95 at the papers' decoding, which makes answers alike,
SmolLM2 has 0.84 on tasks of many kinds (notebook 80), micro models at temperature 1 had 0.4 to 0.5, with tenths from 0.3."""
RHO = 0.6  # under all that was measured at the papers' decoding, so this is kind to the papers
CORRELATION = 0.7  # of two trained models' solve rates, for the gain of pairing; medians of ours: 0.79 to 0.93
RUN_SPREAD = 2.0  # points between training runs of one recipe; medians of ours: 0.2 to 3.7


@dataclass(frozen=True)
class Cell:
    """One printed number."""

    mean: float  # in percent (or seconds a step)
    error: float | None  # the printed standard error in points
    parts: tuple[tuple[float, int], ...]  # (percent, problems) of the sets that it is the mean of: mostly one
    source: str  # the table or tables that print it

    def standard_error(self, rho: float = RHO) -> float:
        """Of a printed accuracy over problems, in points; with rho = 0 the floor."""
        between, within = _variances([self], rho)
        return math.sqrt(between + within / SAMPLES)


Settled = namedtuple("Settled", ["problems", "samples", "seeds"])


@dataclass(frozen=True)
class Difference:
    """A published difference, `better` minus `than`: two cells of one set."""

    better: Cell
    than: Cell

    @property
    def value(self) -> float:
        """In points."""
        return round(self.better.mean - self.than.mean, 1)

    @property
    def source(self) -> str:
        """Where the cells are printed, and the cells."""
        tables = "; ".join(dict.fromkeys((self.better.source, self.than.source)))
        return f"{tables}: {self.better.mean} - {self.than.mean}"

    def interval(self, rho: float = RHO, correlation: float = 0.0) -> Estimate:
        """In points, with the 95% interval over problems that the printed means support; `correlation` 0: unpaired."""
        between, within = _variances([self.better, self.than], rho, correlation)
        half = ndtri(1 - ERROR / 2) * math.sqrt(between + within / SAMPLES)
        return Estimate(self.value, self.value - half, self.value + half)

    def verdict(self, margin: float = 0.0, paired: bool = False) -> Verdict:
        """What it supports, judged as a measured difference is; `paired`: as if the paper had compared problem by problem and the
        models' problems correlated by CORRELATION."""
        return verdict_of(self.interval(correlation=CORRELATION if paired else 0.0), margin)

    def settled_by(self, margin: float = 0.0, rho: float = RHO, correlation: float = 0.0) -> Settled:
        """What finds a difference of the printed size with 80% power at two-sided 5%: how many problems with 16 samples of each,
        how many samples of each of the paper's own problems, and how many training runs a side, however many problems there are,
        when runs differ by RUN_SPREAD; infinite where nothing of the kind does.

        The standard error that finds a difference d is d / (z(0.975) + z(0.8)). The part of the variance that lies between
        problems falls with their number only, the part within also with the samples, and 2 RUN_SPREAD^2 with the runs.
        """
        size = abs(self.better.mean - self.than.mean + margin)
        wanted = (size / (ndtri(1 - ERROR / 2) + ndtri(POWER))) ** 2
        between, within = _variances([self.better, self.than], rho, correlation)
        problems = sum(n for _, n in self.better.parts) * (between + within / SAMPLES)
        needed = (problems, wanted), (within, wanted - between), (2 * RUN_SPREAD**2, wanted)
        return Settled(*(math.ceil(part / of) if of > 0 else math.inf for part, of in needed))


class RowsOfA(Strict):
    """Rows of a table of paper A."""

    family: str  # of models, as in claims.yaml
    source: str
    rows: dict[str, dict[str, tuple[float, float]]]  # checkpoint of the study -> set -> mean in percent, printed error
    repeats: list[str] = Field(default_factory=list)  # rows of another table that this one prints again


class RowsOfB(Strict):
    """Rows of a table of paper B."""

    model: str
    source: str
    unit: Literal["percent", "seconds a step"] = "percent"
    rows: dict[str, dict[float, dict[str, float]]]  # method -> hours of training -> set -> value
    repeats: list[str] = Field(default_factory=list)


class Published(Strict):
    """params/published.yaml."""

    problems: dict[Literal["A", "B"], dict[str, int]]  # of every paper's sets
    paper_a: list[RowsOfA]
    paper_b: list[RowsOfB]

    @cached_property
    def accuracies(self) -> dict[tuple[str, str, str, float | None], Cell]:
        """Cells by (family, checkpoint, set, None) for paper A and (model, method, set, hours) for paper B."""
        found = {}
        for block in self.paper_a:
            cells = [(route, name, *cell) for route, of in block.rows.items() for name, cell in of.items()]
            for route, name, mean, error in cells:
                parts = ((mean, self.problems["A"][name]),)
                found[block.family, route, name, None] = Cell(mean, error, parts, block.source)
        for model, method, hours, source, cells in self.rows_of_b("percent"):
            parts = {name: (cells.get(name, cells.get(AVERAGE)), n) for name, n in self.problems["B"].items()}
            for name in parts if AVERAGE not in cells else ():
                found[model, method, name, hours] = Cell(cells[name], None, (parts[name],), source)
            mean = round(float(np.mean([mean for mean, _ in parts.values()])), 1)
            found[model, method, AVERAGE, hours] = Cell(mean, None, tuple(parts.values()), source)
        return found

    def rows_of_b(self, unit: str) -> Iterator[tuple[str, str, float, str, dict[str, float]]]:
        """Paper B's rows: model, method, hours, source and cells."""
        for block in (block for block in self.paper_b if block.unit == unit):
            for method, budgets in block.rows.items():
                for hours, cells in budgets.items():
                    yield block.model, method, hours, block.source, cells

    def cell(self, family: str, route: str, name: str, hours: float | None = None) -> Cell | None:
        """An accuracy of paper A, or with `hours` of paper B (then `family` is its model, `route` its method); None where it
        is not printed."""
        return self.accuracies.get((family, route, name, hours))

    def difference(
        self, family: str, better: str, than: str, name: str, hours: float | None = None
    ) -> Difference | None:
        """`better` minus `than` on a set, from the two cells; None where one is not printed."""
        high, low = (self.cell(family, route, name, hours) for route in (better, than))
        return Difference(high, low) if high and low else None


def load_published(root: Path | None = None) -> Published:
    """The validated params/published.yaml; a StudyError when a row of paper A is no checkpoint of the study."""
    path = (root or project_root()) / "params" / "published.yaml"
    published, study = validated(Published, read_yaml(path), path.name), load_study(root)
    for route in (route for block in published.paper_a for route in block.rows):
        known("published.yaml: the row", route, study.checkpoints, "no checkpoint of study.yaml")
    return published


def _variances(cells: list[Cell], rho: float, correlation: float = 0.0) -> tuple[float, float]:
    """Variance of a cell, or of a difference, in squared points: the part between problems, and the part within them for one
    sample of each."""
    between = within = 0.0
    for sides in zip(*(cell.parts for cell in cells), strict=True):
        answer = [mean * (100 - mean) for mean, _ in sides]
        shared = 2 * correlation * math.sqrt(math.prod(answer)) if len(cells) > 1 else 0.0
        weight = 1 / (sides[0][1] * len(cells[0].parts) ** 2)
        between += weight * rho * (sum(answer) - shared)
        within += weight * (1 - rho) * sum(answer)
    return between, within


def components(accuracy: np.ndarray, samples: int) -> tuple[float, float]:
    """Variance of one graded answer between problems and within them, unbiased (one-way analysis of variance in every run), from
    mean correctness of shape (seeds, problems) over at least two samples a problem."""
    within = float((accuracy * (1 - accuracy)).mean()) * samples / (samples - 1)
    return float(accuracy.var(axis=1, ddof=1).mean()) - within / samples, within


def share_between(accuracy: np.ndarray, samples: int) -> float:
    """rho of a model on a set; arguments as of `components`."""
    between, within = components(accuracy, samples)
    return between / (between + within)


def difficulty_correlation(first: np.ndarray, second: np.ndarray, samples: int) -> float:
    """Correlation of two models' true solve rates over the same problems, without the noise of samples, which is independent and
    so in the variances alone; arguments as of `components`."""
    covariance = np.mean([np.cov(*pair)[0, 1] for pair in zip(first, second, strict=True)])
    return float(covariance / math.sqrt(components(first, samples)[0] * components(second, samples)[0]))


def run_spread(accuracy: np.ndarray) -> float:
    """Standard deviation between training runs in points, without what problems and samples add (two-way analysis of
    variance; 0 where it is not above that); shape (seeds, problems)."""
    of_seeds, _, rest = mean_squares(accuracy)
    return 100 * math.sqrt(max(0.0, (of_seeds - rest) / accuracy.shape[1]))
