"""The figures: points with intervals (`forest`), lines over steps or a dial (`lines`), and what goes into them.

In an SVG beside the run pages, every point and line leads to the page of its runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_lib.report.looks import load_report, route_labels, route_look
from s2d_lib.report.study_table import STUDENT
from s2d_lib.report.style import BLACK, BROWN, GREEN, GREY, ORANGE, PURPLE, SKY, entitle, use_style
from s2d_lib.report.tables import Sheet, contrast_label, ends, run_page
from s2d_lib.results.bundle import BEST, Bundle, ancestry, own_line, seeds_of, with_best

SPARE = (ORANGE, GREEN, PURPLE, SKY, BROWN, BLACK)  # without the colour of direct GRPO, which has a meaning
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)))
SEEDS = "line: mean over seeds, band: their range"


class Mark(NamedTuple):
    """A value at its place from above, with its interval if it has one."""

    place: float = 0
    mean: float = 0
    low: float = np.nan
    high: float = np.nan
    color: str = BLACK
    marker: str = "o"
    face: str | None = None  # of another colour than the edge
    page: str | None = None
    text: str = ""
    size: float = 5


PAPER = Mark(marker="D", face="none")
"""The look of what a paper printed."""


class Line(NamedTuple):
    """Values with their ranges along an axis."""

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: str
    marker: str = ""
    dashes: Any = "-"  # "none": points alone
    page: str | None = None


def over_seeds(table: pd.DataFrame, label: str, color: str, **look) -> Line:
    """A line of a table with a row a step and a column a seed: their mean, and their range."""
    return Line(label, table.index, table.mean(axis=1), table.min(axis=1), table.max(axis=1), color, **look)


def panel_grid(
    heads: Sequence[str], panel: tuple[float, float], margin: tuple[float, float] = (0, 0), ncols: int = 99, **shared
) -> tuple[Figure, list[Axes]]:
    """A figure in the project's style with a panel a head, at most `ncols` side by side; sizes of a panel and of what is around
    all of them in inches; `shared`: which axes they share, as matplotlib has it."""
    use_style()
    ncols = min(ncols, len(heads))
    nrows = -(-len(heads) // ncols)
    size = (panel[0] * ncols + margin[0], panel[1] * nrows + margin[1])
    figure, grid = plt.subplots(nrows, ncols, figsize=size, squeeze=False, **shared)
    for axes in grid.flat[len(heads) :]:
        axes.set_visible(False)
    panels = list(grid.flat[: len(heads)])
    for axes, head in zip(panels, heads, strict=True):
        axes.set_title(head)
    return figure, panels


def forest(
    panels: Mapping[str, Sequence[Mark]],
    labels: Sequence[str],
    title: str,
    xlabel: str,
    limits: tuple[float, float] | None = None,
    key: Mapping[str, Mark] | None = None,
    width: float = 3.2,
    height: float = 0.33,
    shared: bool = True,
) -> Figure:
    """Marks with their intervals: a column a panel, a row a label from above, `width` and `height` of them in inches; without
    limits zero is marked. `key`: words of the legend -> a mark of their look; `shared`: whether all panels have one axis."""
    size = (width, height * len(labels))
    figure, drawn = panel_grid(list(panels), size, (3.0, 1.5), sharex=shared, sharey=True)
    for axes, marks in zip(drawn, panels.values(), strict=True):
        for mark in marks:
            spread = None if np.isnan(mark.low) else [[mark.mean - mark.low], [mark.high - mark.mean]]
            look = {"color": mark.color, "mfc": mark.face or mark.color, "markersize": mark.size}
            bars = axes.errorbar(mark.mean, mark.place, xerr=spread, fmt=mark.marker, **look)
            bars.lines[0].set_url(mark.page)
            if mark.text:
                at = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "fontsize": 8}
                axes.annotate(mark.text, (mark.mean, mark.place), **at)
        axes.set(xlabel=xlabel, ylim=(len(labels) - 0.4, -0.6))
        if limits:  # else as wide as what all panels hold
            axes.set_xlim(limits)
        else:
            axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.grid(axis="y", visible=False)
    drawn[0].set_yticks(range(len(labels)), labels)
    looks = {word: {"color": m.color, "marker": m.marker, "mfc": m.face or m.color} for word, m in (key or {}).items()}
    return finished(figure, title, {word: Line2D([], [], linestyle="", **look) for word, look in looks.items()})


def lines(
    panels: Mapping[str, Sequence[Line]],
    title: str,
    xlabel: str,
    ylabel: str = "",
    band: bool = False,
    ticks: Sequence[str] = (),
    dotted: Mapping[str, Sequence[float]] | None = None,
    note: str = "",
    ncols: int = 3,
    size: tuple[float, float] = (3.6, 2.6),
    **axis,
) -> Figure:
    """Lines with their ranges, as bars or as a band, at most `ncols` panels side by side. They share the y axis if it has a
    label; else a panel's title says what it shows. `ticks`: names of the places 0, 1, ...; `dotted`: panel -> where dotted
    lines go up; `note`: above the legend; `size`: of a panel, in inches; `axis`: more of every panel, as matplotlib calls it."""
    figure, drawn = panel_grid(list(panels), size, (0.6, 1.0), ncols, sharey=bool(ylabel))
    known: dict[str, Any] = {}
    for axes, (head, own) in zip(drawn, panels.items(), strict=True):
        for line in own:
            known.setdefault(line.label, _drawn(axes, line, band))
        for place in (dotted or {}).get(head, ()):
            axes.axvline(place, color=GREY, linestyle=":", linewidth=0.9, zorder=0)
        if not own:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
        axes.set(xlabel=xlabel, ylabel=ylabel if axes.get_subplotspec().is_first_col() else "", **axis)
        if ticks:
            axes.set_xticks(range(len(ticks)), ticks)
    return finished(figure, title, {label: drawn for label, drawn in known.items() if label}, note)


def _drawn(axes: Axes, line: Line, band: bool):
    look = {"color": line.color, "marker": line.marker, "linestyle": line.dashes}
    if band:
        axes.fill_between(line.x, line.low, line.high, color=line.color, alpha=0.15, linewidth=0)
        return axes.plot(line.x, line.mean, markevery=max(1, len(line.x) // 8), url=line.page, **look)[0]
    mean, low, high = (np.asarray(values, float) for values in (line.mean, line.low, line.high))
    bars = axes.errorbar(line.x, mean, yerr=[mean - low, high - mean], **look)
    bars.lines[0].set_url(line.page)
    return bars


def finished(figure: Figure, title: str, key: Mapping[str, Any], note: str = "") -> Figure:
    """The figure with its title and, below it, a legend."""
    if key:
        look = {"ncols": min(3, len(key)), "title": note or None, "title_fontsize": "small"}
        figure.legend(key.values(), key.keys(), loc="outside lower center", **look)
    entitle(figure, title)
    plt.close(figure)
    return figure


def accuracy_figure(bundle: Bundle, sheet: Sheet) -> Figure:
    """Accuracy of every row of a table, one panel a set: the mean with its 95% interval, each seed as a dot; dotted the untrained
    student, at its best temperature if that is known."""
    numbers, bundle, panels = sheet.numbers, with_best(bundle), {}
    for name in bundle.sets:
        panels[name] = marks = []
        for place, row in enumerate(numbers.to_dict("records")):
            values, look = [100 * row[column] for column in ends(name)], route_look(row["checkpoint"])
            marks.append(Mark(place, *values, *look, page=run_page(row["checkpoint"]), text=f"{values[0]:.1f}"))
            seeds = 100 * bundle.accuracy(row["checkpoint"], name).mean(axis=1)
            marks += [Mark(place + 0.26, seed, color=look[0], marker=".", size=4) for seed in seeds]
    samples = len(bundle.evaluation["correct"].iloc[0])
    figure = forest(panels, list(numbers["route"]), sheet.title, f"avg@{samples}, %", (0, 100))
    for axes, name in zip(figure.axes, panels, strict=True):
        for share in numbers.set_index("checkpoint")[name].reindex([f"{STUDENT}{BEST}", STUDENT]).dropna()[:1]:
            axes.axvline(100 * share, color=GREY, linestyle=":", linewidth=1, zorder=0)
    return figure


def differences_figure(sheets: Sheet | Mapping[str, Sheet], title: str = "") -> Figure:
    """The differences of a table to its reference, or of `contrasts`, one panel a set, with 95% intervals and the paper's as
    hollow diamonds. Of several profiles, by name, the sets that stand for the paper's; the first's pages lie beside it."""
    named = {"": sheets} if isinstance(sheets, Sheet) else dict(sheets)
    first, panels, labels = next(iter(named)), {}, []
    for profile, sheet in named.items():
        rows, start = sheet.numbers, "" if profile == first else f"../{profile}/"
        if "first" in rows:
            pairs = zip(rows["first"], rows["second"], strict=True)
            rows = rows.assign(checkpoint=rows["first"], route=[contrast_label(*pair, " minus ") for pair in pairs])
        sets = [column.removesuffix(" difference") for column in rows if column.endswith(" difference")]
        sets = [name for name in sets if not profile or f"{name} published" in rows]
        rows = rows.dropna(subset=[f"{name} difference" for name in sets], how="all")
        labels += [route for route in rows["route"] if route not in labels]
        for name in sets:
            panels[f"{profile}: {name}" if profile else name] = marks = []
            for row in rows.to_dict("records"):
                values, place = [100 * row[c] for c in ends(f"{name} difference")], labels.index(row["route"])
                page = start + run_page(row["checkpoint"])
                marks.append(Mark(place, *values, *route_look(row["checkpoint"]), page=page, text=f"{values[0]:+.1f}"))
                marks.append(PAPER._replace(place=place, mean=row.get(f"{name} published", np.nan)))
    printed = any(mark.mean == mark.mean for marks in panels.values() for mark in marks if mark.face)
    key = {"published, on the paper's own scale": PAPER} if printed else {}
    return forest(panels, labels, title or named[first].title, "difference, points", key=key, width=2.9)


def step_curves(bundle: Bundle, stages: Sequence[str], routes: Sequence[str], metric: str) -> list[Line]:
    """A metric over the optimiser steps of these stages, of routes and what they are made from: means of five steps each."""
    needed = {run for name, seed in bundle.records if name in routes for run in ancestry(bundle, name, seed)}
    chosen = {n for (n, _), r in bundle.records.items() if n in needed and r["resolved"]["stage"] in stages}
    curves = bundle.curves.reindex(columns=["checkpoint", "seed", "step", metric])  # of no run at all it has no metric
    rows = curves[curves["checkpoint"].isin(chosen)].dropna(subset=metric)
    tables = {name: own.pivot(index="step", columns="seed", values=metric) for name, own in rows.groupby("checkpoint")}
    labels = route_labels([name for name in load_report().routes if name in tables])
    smooth = {name: tables[name].rolling(5, 1).mean().iloc[::-5][::-1] for name in labels}
    return [over_seeds(smooth[n], label, route_look(n)[0], page=run_page(n)) for n, label in labels.items()]


def path_of(bundle: Bundle, checkpoint: str, column: str) -> pd.DataFrame:
    """What was measured on validation problems while the weights of a checkpoint were trained, from their base model on:
    `stage` (the checkpoint being trained), `seed`, `step` (over all stages so far) and the column, where it was measured."""
    parts = [pd.DataFrame(columns=["stage", "seed", "step", column])]
    for seed in seeds_of(bundle, checkpoint):
        before = 0
        for name in reversed(own_line(bundle, checkpoint, seed)):
            own = bundle.validation[(bundle.validation["checkpoint"] == name) & (bundle.validation["seed"] == seed)]
            if column in own:
                moved = own.assign(stage=name, step=own["step"] + before)
                parts.append(moved[["stage", "seed", "step", column]].dropna())
            before += bundle.records[name, seed].get("optimizer_steps", 0)
    return pd.concat([part for part in parts if len(part)] or parts)


def paths_figure(
    bundle: Bundle, panels: Mapping[str, tuple[str, Mapping[str, str]]], title: str, ylabel: str, **how
) -> Figure:
    """Validation curves of whole routes: the stages of the deployed weights one after the other. `panels`: title -> column of
    the validation rows, and the routes, label -> checkpoint; a label looks the same in every panel. `how`: more for `lines`."""
    looks: dict[str, tuple[str, Any]] = {}
    for label, checkpoint in (pair for _, routes in panels.values() for pair in routes.items() if pair[0] not in looks):
        taken, own = {color for color, _ in looks.values()}, route_look(checkpoint)[0]
        color = own if own not in taken else next((c for c in SPARE if c not in taken), BLACK)
        looks[label] = color, DASHES[len(looks) % len(DASHES)]
    drawn, starts = ({head: [] for head in panels} for _ in range(2))
    for head, (column, routes) in panels.items():
        for label, checkpoint in routes.items():
            for stage, part in path_of(bundle, checkpoint, column).groupby("stage", sort=False):
                table, (color, dashes) = part.pivot(index="step", columns="seed", values=column), looks[label]
                drawn[head].append(over_seeds(table, label, color, dashes=dashes, page=run_page(stage)))
                starts[head] += [step for step in table.index[:1] if step]
    note = f"{SEEDS}, dotted: a stage ends"
    return lines(drawn, title, "optimiser steps of the weights", ylabel, True, dotted=starts, note=note, **how)
