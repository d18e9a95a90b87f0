"""Claims against results. A claim compares two selections, each an array of shape (seeds, units): a checkpoint's accuracies on a
set, or a moment of a method's training (paper B). Everything after that is shared (s2d_lib.claims.bootstrap).

A moment is where a share of a compute budget is spent: of the counted compute (s2d_lib.results.bundle.spent) that the cheapest of
all methods' runs on that benchmark spends in all. Accuracies are those on validation problems; between two measurements they are
interpolated, since a method whose steps are dearer has not come to its next one when another has. *Best within a budget*, the
paper's figure, is a maximum over noisy measurements and so too high. Here it is cross-fitted: one half of every problem's samples
says when a run was best, the other half says how good it was then; the two ways round are averaged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd

from s2d_lib.claims import fair
from s2d_lib.claims.bootstrap import SHARE, Compared, Estimate, Verdict, bootstrap, compare
from s2d_lib.claims.schema import Claims, Comparison, CurveClaim, Measure, Moment, known
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle, spent, steps_of
from s2d_lib.study.page import Study
from s2d_lib.study.profile import Profile

WINDOW = 0.2  # share of the budget over whose steps a length or an entropy is averaged, back from the moment
COLUMNS = {
    "length": "completions/mean_length",
    "entropy": "self_teacher/entropy",
    "student_entropy": "self_teacher/student_entropy",
    "routed": "routed/sdpo",
    "clipped": "completions/clipped_ratio",
    "formed": "formed",
    "scored": "self_teacher/tokens",
}


@dataclass(frozen=True)
class Results:
    """What one profile has measured."""

    name: str
    profile: Profile
    bundle: Bundle


@dataclass(frozen=True)
class Outcome:
    """One comparison of a claim, of two checkpoints on a set or of two moments of a course."""

    claim: str
    better: str | Moment
    than: str | Moment
    margin: float  # by which `better` may be worse: points, tokens or nats
    result: Compared | None = None  # in shares, tokens or nats; None when it can't be made yet
    # Of moments:
    measure: Measure = "accuracy"
    benchmark: str | None = None  # all by default
    # Of checkpoints:
    family: str = ""  # the paper's model family that it is about
    meant: str = ""  # what the paper evaluates on
    profile: str = ""  # that plays the family; empty when none does
    evaluation: str = ""  # the set that stands for `meant` there; empty when none does
    missing: str = ""  # why there is no result
    budgets: tuple[pd.Series, pd.Series] | None = None  # label budgets of both sides, when there is a result
    reason: str = ""  # why they may differ
    premises: tuple[fair.Measured, ...] = ()  # what it presupposes, measured

    @property
    def by_numbers(self) -> Verdict:
        """The verdict on this comparison, whatever it presupposes; without a result whether a set or a run is missing."""
        if self.result:
            return self.result.verdict
        return "no set" if self.profile and not self.evaluation else "not run"

    @property
    def verdict(self) -> Verdict:
        """Of this comparison: nothing is tested where a premise is missing."""
        return "premise absent" if any(p.state == "absent" for p in self.premises) else self.by_numbers


def evaluate(claims: Claims, study: Study, results: Mapping[str, Results]) -> list[Outcome]:
    """Every comparison of every claim, in the file's order; what can't be compared yet is there with the reason.

    `results`: the paper's family -> results of the profile that plays it. A StudyError is raised when a claim names a checkpoint
    that the study lacks, a profile gives a set a meaning that no claim knows, or a comparison would be unfair.
    """
    named = [(f"claim {n!r}", c) for n, one in claims.claims.items() for o in one.comparisons for c in o.better_first]
    for name, premise in claims.premises.items():
        minus = [condition.minus for condition in premise.conditions if condition.minus not in (None, "base")]
        named += [(f"premise {name!r}", checkpoint) for checkpoint in (*premise.of, *minus)]
    for who, checkpoint in named:
        known(f"{who} is about", checkpoint, study.checkpoints, "which study.yaml does not declare")
    for found in results.values():
        for meant in found.profile.stands_for:
            known(f"profile {found.name!r}: `stands_for` has", meant, claims.sets, "unknown in claims.yaml")
    premises = {f: fair.Premises(claims.premises, r.bundle, r.profile.stands_for) for f, r in results.items()}
    outcomes = []
    for name, claim in claims.claims.items():
        for comparison in claim.comparisons:
            for sides, meant in product(comparison.pairs(), comparison.sets):
                outcome = Outcome(name, *sides, comparison.margin, family=claim.family, meant=meant)
                found, asked = results.get(claim.family), premises.get(claim.family)
                outcomes.append(_compared(outcome, comparison, claims, found, asked))
    return outcomes


def _compared(
    outcome: Outcome, comparison: Comparison, claims: Claims, found: Results | None, premises: fair.Premises | None
) -> Outcome:
    """The outcome with its result, or with what it lacks."""
    if found is None:
        return replace(outcome, missing=f"no results of a profile that plays the {outcome.family} family")
    sides, on, bundle = (outcome.better, outcome.than), found.profile.stands_for.get(outcome.meant, ""), found.bundle
    outcome = replace(outcome, profile=found.name, evaluation=on)
    if not on:
        return replace(outcome, missing=f"no set stands for {outcome.meant} in profile {found.name}")
    if absent := [side for side in sides if not fair.seeds_of(bundle, side)]:
        return replace(outcome, missing=f"no run of {' and '.join(absent)} in the results of profile {found.name}")
    try:
        fair.check_together(bundle, sides)
        values = fair.paired_accuracies(bundle, *sides, on)
        budgets = fair.budget(bundle, outcome.better), fair.budget(bundle, outcome.than)
        reason = fair.unequal_budgets(*budgets, comparison, claims.gradings_tolerance)
        names = claims.claims[outcome.claim].premises if comparison.premises is None else comparison.premises
        asked = premises.of(names, sides, on)
    except StudyError as error:
        raise StudyError(f"claim {outcome.claim!r}, {' against '.join(sides)} on {on}: {error}") from None
    result = compare(*values, outcome.margin / 100)
    return replace(outcome, result=result, budgets=budgets, reason=reason, premises=asked)


def evaluate_curves(claims: Mapping[str, CurveClaim], course: "Course") -> list[Outcome]:
    """The same of claims about courses; a StudyError where one is about a method that was not run."""
    outcomes = []
    for name, claim in claims.items():
        for comparison in claim.comparisons:
            for method in (m for moment in comparison.better_first for m in (moment.checkpoint, moment.minus) if m):
                known(f"claim {name!r} is about", method, course.checkpoints, "which is none of the methods")
            measure, scale = comparison.measure, 100 if comparison.measure == "accuracy" else 1
            on = (None, *course.budgets) if comparison.each else (None,)
            for sides, benchmark in product(comparison.pairs(), on):
                values = [course.values(moment, measure, benchmark) for moment in sides]
                bounds = ((-1.0, 1.0) if sides[0].minus else SHARE) if measure == "accuracy" else None
                result = compare(*values, comparison.margin / scale, bounds)
                outcomes.append(Outcome(name, *sides, comparison.margin, result, measure, benchmark))
    return outcomes


@dataclass(frozen=True)
class Progress:
    """One run on the axis of its benchmark's budget."""

    shares: np.ndarray  # of the budget, at each measurement, shape (measurements,)
    correct: np.ndarray  # grades, shape (measurements, problems, samples)
    steps: pd.DataFrame  # a row an optimiser step: `share` of the budget, and COLUMNS (NaN where there is none)

    def accuracy(self, within: float, best: bool) -> np.ndarray:
        """Of every problem, shape (problems,): where the budget's share is spent, or where it was best until then."""
        if not best:
            return self._until(within, self.correct.mean(axis=2))[-1]
        halves = [self._until(within, self.correct[..., part::2].mean(axis=2)) for part in (0, 1)]
        return np.mean([told[seen.mean(axis=1).argmax()] for seen, told in (halves, halves[::-1])], axis=0)

    def _until(self, within: float, accuracy: np.ndarray) -> np.ndarray:
        """The measurements until the budget's share, and the value there between the two around it."""
        place = np.interp(within, self.shares, np.arange(len(self.shares)))
        before, after = accuracy[math.floor(place)], accuracy[math.ceil(place)]
        return np.concatenate([accuracy[: math.floor(place) + 1], [before + (place % 1) * (after - before)]])

    def mean(self, measure: Measure, within: float) -> float:
        """A length (tokens) or an entropy (nats, that of the mean scored token) over the last WINDOW of the budget before the
        moment. Where nothing has been scored for longer, since no answer was correct any more, the window ends with the last
        step that was; a StudyError where it was never measured until then."""
        rows = self.steps[(self.steps["share"] <= within + 1e-9) & self.steps[measure].notna()]
        if rows.empty:
            raise StudyError(f"no {measure} was measured within {within:.0%} of the budget.")
        rows = rows[rows["share"] > rows["share"].iloc[-1] - WINDOW + 1e-9]
        return float(np.average(rows[measure], weights=rows["scored"] if measure == "entropy" else None))


class Course:
    """All runs of some methods on all benchmarks (profile -> its results), each on its benchmark's budget. Raises StudyError when
    runs are missing or do not belong together, when benchmarks do not have the same seeds, and when a run was not validated while
    training, or by fewer than two samples a problem."""

    def __init__(self, benchmarks: Mapping[str, Bundle], checkpoints: Sequence[str]):
        self.checkpoints = list(checkpoints)
        seeds = {name: fair.seeds_of(bundle, self.checkpoints[0]) for name, bundle in benchmarks.items()}
        self.seeds = next(iter(seeds.values()))
        if any(own != self.seeds for own in seeds.values()):
            raise StudyError(f"benchmarks are averaged seed by seed; theirs differ ({seeds}): make the missing runs.")
        self.budgets: dict[str, float] = {}
        self.runs: dict[tuple[str, str, int], Progress] = {}
        for name, bundle in benchmarks.items():
            for checkpoint in self.checkpoints:
                fair.check_seeds(bundle, self.checkpoints[0], checkpoint)
                fair.check_settings(bundle, checkpoint)
            runs = [(checkpoint, seed) for checkpoint in self.checkpoints for seed in self.seeds]
            costs = {run: spent(bundle, *run).set_index("step")["compute"] for run in runs}
            self.budgets[name] = min(cost.iloc[-1] for cost in costs.values())
            self.runs |= {(name, *run): progress(bundle, *run, costs[run] / self.budgets[name]) for run in runs}

    def values(self, moment: Moment, measure: Measure, benchmark: str | None = None) -> np.ndarray:
        """What a moment is worth, on one benchmark or on all, shape (seeds, units): accuracies (shares) of the problems of all,
        side by side; a length (tokens) or an entropy (nats) is one number, the mean over the benchmarks."""
        if moment.minus:
            other = moment.model_copy(update={"checkpoint": moment.minus, "minus": None})
            own = moment.model_copy(update={"minus": None})
            return self.values(own, measure, benchmark) - self.values(other, measure, benchmark)
        rows = []
        for seed in self.seeds:
            runs = [self.runs[name, moment.checkpoint, seed] for name in ([benchmark] if benchmark else self.budgets)]
            if measure == "accuracy":
                rows.append(np.concatenate([run.accuracy(moment.within, moment.best) for run in runs]))
            else:
                rows.append([np.mean([run.mean(measure, moment.within) for run in runs])])
        return np.array(rows)

    def estimate(self, moment: Moment, measure: Measure = "accuracy", benchmark: str | None = None) -> Estimate:
        """Mean with its 95% interval over seeds and problems; of a length or an entropy over seeds."""
        return bootstrap(self.values(moment, measure, benchmark), bounds=SHARE if measure == "accuracy" else None)


def progress(bundle: Bundle, checkpoint: str, seed: int, shares: pd.Series) -> Progress:
    """A run, with the share of the budget that it had spent at every step."""
    validated, steps = (steps_of(rows, checkpoint, seed) for rows in (bundle.validation, bundle.curves))
    if validated.empty or "correct" not in validated:
        raise StudyError(f"{checkpoint!r}, seed {seed}, has no grades from while it trained: make it again.")
    correct = np.array([[[int(bit) for bit in problem] for problem in row.split("/")] for row in validated["correct"]])
    if correct.shape[2] < 2:
        raise StudyError(f"{checkpoint!r} was validated with one sample a problem: raise `validation.samples` to 2.")
    metrics = steps.reindex(columns=list(COLUMNS.values())).set_axis(list(COLUMNS), axis=1)
    metrics.insert(0, "share", shares.loc[steps["step"]].to_numpy())
    return Progress(shares.loc[validated["step"]].to_numpy(), correct, metrics.reset_index(drop=True))
