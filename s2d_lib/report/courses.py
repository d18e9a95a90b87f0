"""Paper B's methods over the course of training: tables and figures on budgets that all of them have."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.claims import Published
from s2d_lib.claims.bootstrap import Estimate
from s2d_lib.claims.claims import Course, Outcome, Progress
from s2d_lib.claims.printed import AVERAGE, printed_difference, printed_verdict
from s2d_lib.claims.schema import Claims, Courses, Moment
from s2d_lib.errors import StudyError
from s2d_lib.report.claims import SMALL, VERDICT_NOTE, chance_words, readable_claims, verdict_words
from s2d_lib.report.study_table import open_results
from s2d_lib.report.style import BLACK, entitle, route_label, route_look, use_style
from s2d_lib.report.tables import write_forms
from s2d_lib.results.bundle import Bundle
from s2d_lib.study import load_study, project_root
from s2d_lib.study.load import did_you_mean

UNITS = {"accuracy": ("points", 100), "length": ("tokens", 1), "entropy": ("nats", 1)}
"""Measure -> its unit for readers, and how many of it a value's one is."""


def spec_of(name: str, claims: Claims) -> Courses:
    """What claims.yaml says of a group of benchmarks.

    Raises:
        StudyError: There is no such group.
    """
    if name not in claims.courses:
        raise StudyError(f"claims.yaml has no courses {name!r}; {did_you_mean(name, claims.courses)}")
    return claims.courses[name]


def methods_of(spec: Courses, root: Path | None = None) -> list[str]:
    """The methods: what the group's table trains."""
    study = load_study(root)
    return [name for name in study.tables[spec.table].rows if study.checkpoints[name].stage != "base"]


def complete(spec: Courses, root: Path | None = None) -> bool:
    """Whether all benchmarks have results."""
    return all((root or project_root()).joinpath("figures", name, "results").is_dir() for name in spec.profiles)


def open_course(spec: Courses, axis: str = "compute", root: Path | None = None) -> Course:
    """The group's committed results, on budgets of counted compute or measured seconds.

    Raises:
        StudyError: Results are missing or do not belong together.
    """
    benchmarks: dict[str, Bundle] = {name: open_results(name, root).bundle for name in spec.profiles}
    return Course(benchmarks, methods_of(spec, root), axis)


def budgets_table(course: Course, budgets: Sequence[float]) -> pd.DataFrame:
    """What every method reaches within shares of the budget, over all benchmarks and on each.

    Returns:
        One row a method and benchmark (`all` first): `checkpoint`, `benchmark`, then for every share `best <share>` (the
        cross-fitted best until then) and for the whole budget `final`, each with `low` and `high` (shares).
    """
    rows = []
    for checkpoint in course.checkpoints:
        for benchmark in [None, *course.budgets]:
            row: dict = {"checkpoint": checkpoint, "benchmark": benchmark or "all"}
            for share in budgets:
                moment = Moment(checkpoint=checkpoint, within=share, best=True)
                row |= _columns(f"best {share:g}", course.estimate(moment, benchmark=benchmark))
            rows.append(row | _columns("final", course.estimate(Moment(checkpoint=checkpoint), benchmark=benchmark)))
    return pd.DataFrame(rows)


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.mean, f"{name} low": estimate.low, f"{name} high": estimate.high}


def readable_budgets(numbers: pd.DataFrame, benchmark: str = "all") -> pd.DataFrame:
    """One benchmark's rows for readers, percent with intervals."""
    own = numbers[numbers["benchmark"] == benchmark]
    shown = pd.DataFrame({"method": own["checkpoint"].map(route_label)})
    for name in [c for c in own if f"{c} low" in own]:
        title = "at the end" if name == "final" else f"best within {float(name.split()[1]):.0%} of the budget"
        cells = own[[name, f"{name} low", f"{name} high"]].to_numpy() * 100
        shown[f"{title}, %"] = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in cells]
    return shown


def write_budgets(numbers: pd.DataFrame, folder: Path, name: str, note: str) -> None:
    """Write the table: csv with all benchmarks, md and tex with a table each."""
    groups = {
        ("Over all benchmarks" if b == "all" else b): readable_budgets(numbers, b)
        for b in numbers["benchmark"].unique()
    }
    write_forms(numbers, groups, folder, name, note)


def curves(course: Course, checkpoint: str, benchmark: str | None = None) -> pd.DataFrame:
    """Accuracy over the budget and beyond it, as far as all of the method's runs go: a row a hundredth of the budget, a
    column a seed (mean over benchmarks unless one is named)."""
    names = [benchmark] if benchmark else list(course.budgets)
    runs = {seed: [course.runs[name, checkpoint, seed] for name in names] for seed in course.seeds}
    grid = np.arange(0, min(run.shares[-1] for own in runs.values() for run in own) + 1e-9, 0.01)
    return pd.DataFrame({seed: np.mean([_at(run, grid) for run in own], axis=0) for seed, own in runs.items()}, grid)


def _at(run: Progress, shares: np.ndarray) -> np.ndarray:
    return np.interp(shares, run.shares, run.correct.mean(axis=(1, 2)))


OF_SCORED = ("entropy", "student_entropy")
"""Metrics of the tokens that a self-teacher scores."""


def metric(course: Course, checkpoint: str, name: str) -> pd.DataFrame:
    """A metric of the steps over the budget, likewise: means of every twentieth of it, over all benchmarks.

    An entropy is that of the mean scored token; it is shown only where every benchmark has one, or its mean would jump when
    nothing is scored any more on one of them.
    """
    edges = np.linspace(0, 1, 21)
    table = {}
    for seed in course.seeds:
        parts = []
        for benchmark in course.budgets:
            steps = course.runs[benchmark, checkpoint, seed].steps
            bins = np.searchsorted(edges, steps["share"].to_numpy() - 1e-9)
            weights = steps[name].notna() * (steps["scored"].fillna(0.0) if name in OF_SCORED else 1.0)
            sums = pd.DataFrame({"value": (steps[name] * weights).fillna(0.0), "weight": weights})
            binned = sums.groupby(bins).sum()
            parts.append((binned["value"] / binned["weight"].where(binned["weight"] > 0)).reindex(range(1, 21)))
        table[seed] = pd.concat(parts, axis=1).mean(axis=1, skipna=name not in OF_SCORED).to_numpy()
    return pd.DataFrame(table, index=(edges[1:] + edges[:-1]) / 2)


def curves_figure(course: Course, checkpoints: Sequence[str], title: str, each: bool = False) -> Figure:
    """Accuracy over the budget, and beyond where methods have steps left: the mean over seeds as a line, their range as a band.

    Args:
        course: The runs.
        checkpoints: Which of its methods.
        title: Of the figure.
        each: A panel a benchmark instead of one for their mean.
    """
    panels = {name: name for name in course.budgets}
    if not each and len(panels) > 1:
        panels = {f"mean over the {len(panels)} benchmarks": None}
    ncols = 3 if each else 1
    figure, grid = _grid(len(panels), ncols, (3.4, 2.5) if each else (6.6, 3.6))
    for axes, (head, benchmark) in zip(grid.flat, panels.items(), strict=False):
        for checkpoint in checkpoints:
            draw_line(axes, 100 * curves(course, checkpoint, benchmark), checkpoint)
        axes.axvline(1, color=BLACK, linestyle=":", linewidth=1)
        axes.set(title=head, xlabel=f"share of the {course.axis} budget (dotted: all of it)")
        if axes.get_subplotspec().is_first_col():
            axes.set(ylabel="validation accuracy, %")
    return finished(figure, grid.flat[0], title)


METRICS = {
    "entropy": "self-teacher's entropy, nats",
    "student_entropy": "student's entropy there, nats",
    "length": "response length, tokens",
    "clipped": "cut off at the limit, share",
    "routed": "tokens routed to SDPO, share",
}


def metrics_figure(course: Course, checkpoints: Sequence[str], title: str) -> Figure:
    """The METRICS of the steps over the budget, likewise."""
    figure, grid = _grid(len(METRICS), 3, (3.5, 2.5))
    for axes, (name, label) in zip(grid.flat, METRICS.items(), strict=False):
        for checkpoint in checkpoints:
            table = metric(course, checkpoint, name)
            if table.notna().any(axis=None):
                draw_line(axes, table, checkpoint)
        axes.set(xlabel=f"share of the {course.axis} budget", title=label)
    return finished(figure, grid.flat[list(METRICS).index("length")], title)  # which every method has


def _grid(panels: int, ncols: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    use_style()
    nrows = -(-panels // ncols)
    figure, grid = plt.subplots(nrows, ncols, figsize=(size[0] * ncols, size[1] * nrows + 0.8), squeeze=False)
    for axes in grid.flat[panels:]:
        axes.set_visible(False)
    return figure, grid


VARIANTS = {"no_dw": "--", "failed_only": "--", "correct_only": ":"}
"""Lines of the controls, which have the colour of the method that they are cut from."""


def draw_line(axes: plt.Axes, table: pd.DataFrame, checkpoint: str) -> None:
    """A method's line: the mean over the table's columns, which are seeds, and their range."""
    color, marker = route_look(checkpoint)
    every = max(1, len(table) // 8)
    axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=color, alpha=0.15, linewidth=0)
    line = VARIANTS.get(checkpoint.rsplit(".", 1)[-1], "-")
    look = {"color": color, "marker": marker, "linestyle": line, "markevery": every}
    axes.plot(table.index, table.mean(axis=1), **look, label=route_label(checkpoint))


def finished(figure: Figure, legend_of: plt.Axes, title: str) -> Figure:
    """The figure with a legend below it and a title."""
    handles, labels = legend_of.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, title="line: mean over seeds, band: their range"
    )
    entitle(figure, title)
    plt.close(figure)
    return figure


def moment_label(moment: Moment, measure: str) -> str:
    """A moment in readers' words: `SDPO, best within 50%`."""
    words = [route_label(moment.checkpoint)]
    if moment.minus:
        words[0] += f" minus {route_label(moment.minus)}"
    if moment.best:
        words.append(f"best within {moment.within:.0%}")
    elif moment.within < 1:
        words.append(f"at {moment.within:.0%}")
    return ", ".join(words) + ("" if measure == "accuracy" else f" ({measure})")


METHODS = {
    "student.grpo": "GRPO",
    "student.sdpo": "SDPO",
    "student.srpo": "SRPO",
    "student.srpo.no_dw": "SRPO without dynamic weighting",
    "student.advantage_mix": "Advantage Mix (0.9)",
}
"""Checkpoint -> what paper B prints it as."""

HOURS = 10  # of training, the whole budget of paper B


def comparisons_table(outcomes: Sequence[Outcome], spec: Courses, published: Published) -> pd.DataFrame:
    """All numbers, one row a comparison, as `s2d_lib.report.claims_figure.claims_figure` wants them.

    Returns:
        `claim`, `better`, `than` (checkpoints), `benchmark` (`all`, or one), `meant` (empty), `label`, `measure`, `unit`;
        `seeds`, `units` (problems or benchmarks); `difference`, `low`, `high`, `detectable`, `margin` in that unit; `chance` of
        holding (percent, of accuracies); `published` with its `low`, `high` and `published verdict`: of two methods' best
        within as many hours; `verdict`, `refuted`, `missing` (nothing ever is).
    """
    rows, counted = [], Counter(outcome.claim for outcome in outcomes)
    for outcome in outcomes:
        unit, scale = UNITS[outcome.measure]
        result, what = outcome.result, _printed(outcome, spec)
        first, second = (moment_label(moment, outcome.measure) for moment in (outcome.better, outcome.than))
        known = what and published.difference(**what)
        printed = what and printed_difference(published, **what)
        rows.append(
            {
                "claim": outcome.claim,
                "better": outcome.better.checkpoint,
                "than": outcome.than.checkpoint,
                "benchmark": outcome.benchmark or "all",
                "meant": "",
                "label": f"{first} > {second}" + (f" · {outcome.benchmark}" if outcome.benchmark else ""),
                "measure": outcome.measure,
                "unit": unit,
                "seeds": result.seeds,
                "units": result.problems,
                "difference": scale * result.difference.mean,
                "low": scale * result.difference.low,
                "high": scale * result.difference.high,
                "detectable": scale * result.detectable,
                "margin": outcome.margin,
                "chance": 100 * result.chance((known.value if known else SMALL) / 100) if unit == "points" else np.nan,
                "published": known.value if known else np.nan,
                "published low": printed.low if printed else np.nan,
                "published high": printed.high if printed else np.nan,
                "published verdict": printed_verdict(published, **what, margin=outcome.margin)
                if what
                else "not printed",
                "verdict": result.verdict,
                "refuted": result.refuted(counted[outcome.claim]),
                "missing": "",
            }
        )
    return pd.DataFrame(rows)


def _printed(outcome: Outcome, spec: Courses) -> dict[str, Any]:
    """Which printed difference a comparison is beside: that of two methods after the same hours; empty where none is."""
    better, than = outcome.better, outcome.than
    name = spec.stands_for.get(outcome.benchmark, "") if outcome.benchmark else AVERAGE
    same = better.within == than.within and better.checkpoint != than.checkpoint and not better.minus
    if outcome.measure != "accuracy" or not spec.model or not name or not same:
        return {}
    routes = {side: METHODS.get(moment.checkpoint, "") for side, moment in (("better", better), ("than", than))}
    return {"family": spec.model, **routes, "name": name, "hours": HOURS * better.within}


def readable_comparisons(comparisons: pd.DataFrame) -> pd.DataFrame:
    """The comparisons for readers."""
    rows = []
    for row in comparisons.to_dict("records"):
        rows.append(
            {
                "claim": row["claim"],
                "comparison": row["label"] + (f", within {row['margin']:g} {row['unit']}" if row["margin"] else ""),
                "published": "not printed" if pd.isna(row["published"]) else f"{row['published']:+.1f}",
                "its tables support": verdict_words(
                    row["published verdict"], row["published low"], row["published high"]
                ),
                "difference": f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] {row['unit']}",
                "here": verdict_words(row["verdict"], row["low"], row["high"], row["unit"]),
                "chance to hold": chance_words(row["chance"]),
                "could see": f"{row['detectable']:.2f} {row['unit']}",
            }
        )
    return pd.DataFrame(rows)


def write_claims(claims: pd.DataFrame, comparisons: pd.DataFrame, folder: Path, note: str) -> None:
    """Write claims.csv, claims.md and claims.tex."""
    numbers = comparisons.assign(**{"claim verdict": comparisons["claim"].map(claims.set_index("claim")["verdict"])})
    shown = {"Claims": readable_claims(claims), "Comparisons": readable_comparisons(comparisons)}
    printed = "The paper prints the best within 1, 5 and 10 hours; its errors are over problems alone, unpaired."
    write_forms(numbers, shown, folder, "claims", f"{note} {VERDICT_NOTE} {printed}")
