"""What paper B's verdicts rest on: who set the budget, how sharp the late changes are, and which rates were tried."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.claims.bootstrap import bootstrap
from s2d_lib.claims.claims import WINDOW, Course
from s2d_lib.claims.schema import Courses, Moment
from s2d_lib.report.courses import draw_line, finished
from s2d_lib.report.study_table import open_results
from s2d_lib.report.style import route_label, use_style

EARLY, MIDDLE = 20, 100  # optimiser steps at which tried rates are compared


def budget_steps(course: Course) -> pd.DataFrame:
    """How many optimiser steps of each method the budget pays for: the fewest and most of its runs, a column a benchmark.

    The budget is what the cheapest run spends in all; `sets it` names the benchmarks where that is one of the method's.
    """
    rows = []
    for checkpoint in course.checkpoints:
        row, sets = {"method": route_label(checkpoint)}, []
        for benchmark in course.budgets:
            shares = [course.runs[benchmark, checkpoint, seed].steps["share"] for seed in course.seeds]
            paid = [int((share <= 1 + 1e-9).sum()) for share in shares]
            row[benchmark] = str(paid[0]) if len(set(paid)) == 1 else f"{min(paid)} to {max(paid)}"
            sets += [benchmark] if any(abs(share.iloc[-1] - 1) < 1e-9 for share in shares) else []
        rows.append(row | {"sets it": ", ".join(sets)})
    return pd.DataFrame(rows)


def steps_figure(spec: Courses, checkpoints: Sequence[str], title: str, root: Path | None = None) -> Figure:
    """Validation accuracy over optimiser steps, all of them, means over the benchmarks: what lies beyond the budget too.

    Where the budget ends, methods with a self-teacher have steps left.
    """
    parts = [open_results(name, root).bundle.validation for name in spec.profiles]
    rows = pd.concat(parts).groupby(["checkpoint", "step", "seed"])["accuracy"].mean().mul(100)
    use_style()
    head = spec.profiles[0] if len(parts) == 1 else f"mean over the {len(parts)} benchmarks"
    figure, axes = plt.subplots(figsize=(6.6, 3.6))
    for checkpoint in checkpoints:
        draw_line(axes, rows.loc[checkpoint].unstack("seed"), checkpoint)
    axes.set(xlabel="optimiser step", ylabel="validation accuracy, %", title=head)
    return finished(figure, axes, title)


def late_changes(course: Course, within: float = 0.5) -> pd.DataFrame:
    """What the rest of the budget brought each method, measured in two ways, so that saturation is seen as one's own or
    everybody's.

    `end - best`: the end less the cross-fitted best until `within`; a best of a course that wobbles lies above the course,
    so this leans towards a fall. `mean - mean`: the mean of the last measurements (the last fifth of the budget) less the
    mean of those in the fifth before `within`, which does not lean.

    Returns:
        One row a method: `checkpoint` and both, each with `low` and `high` (shares).
    """
    rows = []
    for checkpoint in course.checkpoints:
        best, end = Moment(checkpoint=checkpoint, within=within, best=True), Moment(checkpoint=checkpoint)
        changes = {
            "end - best": course.values(end, "accuracy") - course.values(best, "accuracy"),
            "mean - mean": _mean_around(course, checkpoint, 1.0) - _mean_around(course, checkpoint, within),
        }
        row: dict[str, object] = {"checkpoint": checkpoint}
        for name, values in changes.items():
            found = bootstrap(values, bounds=(-1.0, 1.0))
            row |= {name: found.mean, f"{name} low": found.low, f"{name} high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_around(course: Course, checkpoint: str, until: float) -> np.ndarray:
    """Accuracy of every problem over the measurements in the WINDOW before a share, shape (seeds, problems)."""
    rows = []
    for seed in course.seeds:
        parts = []
        for benchmark in course.budgets:
            run = course.runs[benchmark, checkpoint, seed]
            chosen = (run.shares > until - WINDOW + 1e-9) & (run.shares <= until + 1e-9)
            chosen[int(np.abs(run.shares - until).argmin())] |= not chosen.any()
            parts.append(run.correct[chosen].mean(axis=(0, 2)))
        rows.append(np.concatenate(parts))
    return np.array(rows)


def readable_changes(numbers: pd.DataFrame) -> pd.DataFrame:
    """`late_changes` in points with intervals."""
    shown = pd.DataFrame({"method": numbers["checkpoint"].map(route_label)})
    for name in ("end - best", "mean - mean"):
        cells = 100 * numbers[[name, f"{name} low", f"{name} high"]].to_numpy()
        shown[f"{name}, points"] = [f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" for mean, low, high in cells]
    return shown


def rates_table(trials: pd.DataFrame, stages: Mapping[str, str]) -> pd.DataFrame:
    """What each tried rate gave early, later, at best and at the end: percent, means over the benchmarks it was tried on.

    Args:
        trials: As `s2d_lib.report.trials.read_trials` gives them.
        stages: What a reader calls a method -> its stage in the trials.
    """
    rows = []
    for method, stage in stages.items():
        for rate, part in trials[trials["stage"] == stage].groupby("learning_rate"):
            curve = part.groupby("step")["accuracy"].mean()
            at = {f"at step {step}": curve.get(step, np.nan) for step in (EARLY, MIDDLE)}
            values = at | {"mean": curve.mean(), "best": curve.max(), "at the end": curve.iloc[-1]}
            rows.append({"method": method, "rate": f"{rate:g}"} | {k: round(100 * v, 1) for k, v in values.items()})
    return pd.DataFrame(rows)
