"""Paper B's claims: what a method has reached by a share of a compute budget that all methods have, over benchmarks.

A budget is a benchmark's own: the counted compute (s2d_lib.results.spent) that the cheapest of its runs spends in all, so
that every run reaches it. Accuracies are those on validation problems, measured while training; between two measurements
they are interpolated, since a method whose steps are dearer has not come to its next one when another has.

*Best within a budget*, the paper's figure, is a maximum over noisy measurements and so too high, the more the noisier the
curve. Here it is cross-fitted: one half of every problem's samples says when a run was best, the other half says how good
it was then; the two ways round are averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from s2d_lib.claims.bootstrap import SHARE, Estimate, bootstrap
from s2d_lib.claims.fair import check_settings, seeds_of
from s2d_lib.claims.schema import CurveClaim, Measure, Moment
from s2d_lib.claims.verdict import Compared, compare
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle
from s2d_lib.results.spent import spent
from s2d_lib.study.load import did_you_mean

WINDOW = 0.2  # share of the budget over whose steps a length or an entropy is averaged, back from the moment
COLUMNS = {
    "length": "completions/mean_length",
    "entropy": "self_teacher/entropy",
    "student_entropy": "self_teacher/student_entropy",
    "routed": "routed/sdpo",
    "clipped": "completions/clipped_ratio",
    "seconds": "seconds/step",
    "scored": "self_teacher/tokens",
}
Axis = Literal["compute", "seconds"]
"""What a budget is of: counted compute or measured seconds (s2d_lib.results.spent)."""


@dataclass(frozen=True)
class Progress:
    """One run on the axis of its benchmark's budget.

    Attributes:
        shares: Of the budget, at each measurement, shape (measurements,).
        correct: Grades, shape (measurements, problems, samples).
        steps: One row an optimiser step: `share` of the budget and the metrics in COLUMNS (NaN where there is none).
    """

    shares: np.ndarray
    correct: np.ndarray
    steps: pd.DataFrame

    def accuracy(self, within: float, best: bool) -> np.ndarray:
        """Of every problem, shape (problems,): where the budget's share is spent, or where it was best until then."""
        if not best:
            return self._until(within, self.correct.mean(axis=2))[-1]
        halves = [self._until(within, self.correct[..., part::2].mean(axis=2)) for part in (0, 1)]
        crossed = [told[seen.mean(axis=1).argmax()] for seen, told in (halves, halves[::-1])]
        return np.mean(crossed, axis=0)

    def _until(self, within: float, accuracy: np.ndarray) -> np.ndarray:
        """The measurements until the budget's share, and the value there between the two around it."""
        known = int((self.shares <= within + 1e-9).sum())
        if known == len(self.shares) or within - self.shares[known - 1] < 1e-9:
            return accuracy[:known]
        first, second = self.shares[known - 1 : known + 1]
        place = (within - first) / (second - first)
        return np.concatenate([accuracy[:known], [(1 - place) * accuracy[known - 1] + place * accuracy[known]]])

    def mean(self, measure: str, within: float) -> float:
        """A length (tokens) or an entropy (nats) over the last `WINDOW` of the budget before the moment.

        An entropy is that of the mean scored token. Where nothing has been scored for longer than the window, since no
        answer was correct any more, the window ends with the last step that was.

        Raises:
            StudyError: When it was never measured until then.
        """
        rows = self.steps[(self.steps["share"] <= within + 1e-9) & self.steps[measure].notna()]
        if rows.empty:
            raise StudyError(f"no {measure} was measured within {within:.0%} of the budget.")
        rows = rows[rows["share"] > rows["share"].iloc[-1] - WINDOW + 1e-9]
        weights = rows["scored"] if measure == "entropy" else None
        return float(np.average(rows[measure], weights=weights))


Benchmarks = Mapping[str, Bundle]
"""Profile -> its results."""


def progress(bundle: Bundle, checkpoint: str, seed: int, budget: float, axis: Axis = "compute") -> Progress:
    """A run on its benchmark's budget.

    Raises:
        StudyError: When it was not validated while training, or by fewer than two samples a problem.
    """
    own = bundle.validation[(bundle.validation["checkpoint"] == checkpoint) & (bundle.validation["seed"] == seed)]
    if own.empty or "correct" not in own:
        raise StudyError(f"{checkpoint!r}, seed {seed}, has no grades from while it trained: make it again.")
    own = own.sort_values("step")
    correct = np.array([[[int(bit) for bit in problem] for problem in row.split("/")] for row in own["correct"]])
    if correct.shape[2] < 2:
        raise StudyError(
            f"{checkpoint!r} was validated with one sample a problem: raise `validation.samples` to 2 or more."
        )
    cost = spent(bundle, checkpoint, seed).set_index("step")[axis] / budget
    rows = bundle.curves[(bundle.curves["checkpoint"] == checkpoint) & (bundle.curves["seed"] == seed)].sort_values(
        "step"
    )
    steps = pd.DataFrame({"share": cost.loc[rows["step"]].to_numpy()})
    for name, column in COLUMNS.items():
        steps[name] = rows[column].to_numpy() if column in rows else np.nan
    return Progress(cost.loc[own["step"]].to_numpy(), correct, steps)


def budget_of(bundle: Bundle, checkpoints: Sequence[str], axis: Axis = "compute") -> float:
    """What the cheapest run of these checkpoints spends in all.

    Raises:
        StudyError: When one of them was not run, or not with the seeds of the others, or not with one setting.
    """
    seeds = seeds_of(bundle, checkpoints[0])
    for name in checkpoints:
        if seeds_of(bundle, name) != seeds or not seeds:
            raise StudyError(
                f"{name!r} was run with seeds {seeds_of(bundle, name)} and {checkpoints[0]!r} with {seeds}: make the missing "
                "runs."
            )
        check_settings(bundle, name)
    return min(spent(bundle, name, seed)[axis].iloc[-1] for name in checkpoints for seed in seeds)


class Course:
    """All runs of some methods on all benchmarks, each on its benchmark's budget."""

    def __init__(self, benchmarks: Benchmarks, checkpoints: Sequence[str], axis: Axis = "compute"):
        """Raises StudyError when runs are missing, do not belong together, or benchmarks do not have the same seeds."""
        self.checkpoints, self.axis = list(checkpoints), axis
        self.budgets = {name: budget_of(bundle, self.checkpoints, axis) for name, bundle in benchmarks.items()}
        seeds = {name: seeds_of(bundle, self.checkpoints[0]) for name, bundle in benchmarks.items()}
        if len({tuple(own) for own in seeds.values()}) > 1:
            raise StudyError(
                f"benchmarks are averaged seed by seed, but theirs differ ({seeds}): make the missing runs."
            )
        self.seeds = next(iter(seeds.values()))
        self.runs = {
            (name, checkpoint, seed): progress(bundle, checkpoint, seed, self.budgets[name], axis)
            for name, bundle in benchmarks.items()
            for checkpoint in self.checkpoints
            for seed in self.seeds
        }

    def values(self, moment: Moment, measure: Measure, benchmark: str | None = None) -> np.ndarray:
        """What a moment is worth.

        Args:
            moment: Whose and when.
            measure: `accuracy` (a share), `length` (tokens) or `entropy` (nats).
            benchmark: One of them; all by default, side by side.

        Returns:
            Shape (seeds, units): units are the problems for an accuracy; a length or an entropy is one number, the mean
            over the benchmarks.
        """
        if moment.minus:
            first, second = (
                moment.model_copy(update={"checkpoint": name, "minus": None})
                for name in (moment.checkpoint, moment.minus)
            )
            return self.values(first, measure, benchmark) - self.values(second, measure, benchmark)
        names = [benchmark] if benchmark else list(self.budgets)
        rows = []
        for seed in self.seeds:
            runs = [self.runs[name, moment.checkpoint, seed] for name in names]
            if measure == "accuracy":
                rows.append(np.concatenate([run.accuracy(moment.within, moment.best) for run in runs]))
            else:
                rows.append([np.mean([run.mean(measure, moment.within) for run in runs])])
        return np.array(rows)

    def estimate(self, moment: Moment, measure: Measure = "accuracy", benchmark: str | None = None) -> Estimate:
        """Mean with its 95% interval over seeds and problems; of a length or an entropy over seeds."""
        return bootstrap(self.values(moment, measure, benchmark), bounds=None if measure != "accuracy" else (0.0, 1.0))


@dataclass(frozen=True)
class CurveOutcome:
    """One comparison of two moments, for one claim; `result` is in shares, tokens or nats."""

    claim: str
    better: Moment
    than: Moment
    measure: Measure
    margin: float
    benchmark: str | None  # all by default
    result: Compared


def evaluate_curves(claims: Mapping[str, CurveClaim], course: Course) -> list[CurveOutcome]:
    """Every comparison of every claim, in the file's order.

    Raises:
        StudyError: When a claim is about a method that was not run.
    """
    found = []
    for name, claim in claims.items():
        pairs = [
            (comparison, *pair, benchmark)
            for comparison in claim.comparisons
            for pair in comparison.pairs()
            for benchmark in (None, *(course.budgets if comparison.each else ()))
        ]
        moments = [moment for comparison in claim.comparisons for moment in comparison.better_first]
        for method in filter(None, (m for moment in moments for m in (moment.checkpoint, moment.minus))):
            if method not in course.checkpoints:
                hint = did_you_mean(method, course.checkpoints)
                raise StudyError(f"claim {name!r} is about {method!r}, which is none of the methods; {hint}")
        for comparison, better, than, benchmark in pairs:
            measure = comparison.measure
            values = [course.values(moment, measure, benchmark) for moment in (better, than)]
            scale = 100 if measure == "accuracy" else 1
            bounds = ((-1.0, 1.0) if better.minus else SHARE) if measure == "accuracy" else None
            result = compare(*values, comparison.margin / scale, bounds)
            found.append(CurveOutcome(name, better, than, measure, comparison.margin, benchmark, result))
    return found
