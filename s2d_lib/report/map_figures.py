"""The map drawn: heat maps with a line around what is gained, and lines along one dial."""

import textwrap
from collections.abc import Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_lib.report.map import BEST, Chart, cell_page, cell_title
from s2d_lib.report.style import BLACK, GREY, entitle, route_label, route_look, use_style
from s2d_lib.study.profile import settings_text
from s2d_lib.study.settings import MAIN

DIVERGING = "PuOr_r"  # colour-blind safe; orange where the first of two is ahead
REACH = 30.0  # points at which the colours end
NOISE = 1.0  # points around zero that count as level, where a line would only follow noise


def heat_panel(
    axes: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    part: str,
    mark: tuple[str, str] | None = None,
    printed: float | None = None,
) -> None:
    """One heat map of differences in points, x and y in the order in which their values come.

    Numbers whose interval holds zero are grey; lines part cells where one is a point ahead from the others; every cell leads to
    its runs; a ring stands where `mark` says, a star where the interval holds what the paper prints.

    Args:
        axes: Where.
        rows: With columns x, y, `difference`, `low`, `high` (shares) and `cell`.
        x: Dial along the axis.
        y: The other.
        part: Of the map, for links.
        mark: Values of x and y.
        printed: The paper's own difference in points.
    """
    columns, lines = list(dict.fromkeys(rows[x])), list(dict.fromkeys(rows[y]))
    grid = 100 * rows.pivot(index=y, columns=x, values="difference").loc[lines, columns].to_numpy()
    norm = TwoSlopeNorm(0.0, -REACH, REACH)
    axes.imshow(np.clip(grid, -REACH, REACH), cmap=DIVERGING, norm=norm, aspect="auto", origin="lower")
    ahead = np.digitize(grid, [-NOISE, NOISE])
    for row, column in np.argwhere(ahead[1:] != ahead[:-1]):
        axes.plot([column - 0.5, column + 0.5], [row + 0.5, row + 0.5], color=BLACK, linewidth=1.4)
    for row, column in np.argwhere(ahead[:, 1:] != ahead[:, :-1]):
        axes.plot([column + 0.5, column + 0.5], [row - 0.5, row + 0.5], color=BLACK, linewidth=1.4)
    for row in rows.to_dict("records"):
        place = columns.index(row[x]), lines.index(row[y])
        clear = row["low"] > 0 or row["high"] < 0
        text = axes.annotate(
            f"{100 * row['difference']:+.0f}", place, ha="center", va="center", fontsize=8.5,
            color=("white" if abs(100 * row["difference"]) > 0.65 * REACH else BLACK) if clear else "#8A8A8A",
            fontweight="bold" if clear else "normal",
        )  # fmt: skip
        text.set_url(cell_page(part, row["cell"]))
        if printed is not None and 100 * row["low"] <= printed <= 100 * row["high"]:
            axes.plot(place[0] + 0.33, place[1] + 0.27, "*", color=BLACK, markersize=6)
    if mark:
        axes.plot(columns.index(mark[0]), lines.index(mark[1]), "o", markersize=22, markerfacecolor="none", color=BLACK)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(lines)), lines)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)


def dial_figure(
    chart: Chart, part: str, routes: Sequence[str], title: str, xlabel: str, at: dict[str, str] | None = None
) -> Figure:
    """Accuracy of routes along one dial, one panel a set: means with 95% intervals at the main decoding; dotted untrained models
    at their best decoding.

    Args:
        chart: The map.
        part: Which.
        routes: To be drawn.
        title: Of the figure.
        xlabel: Of the dial.
        at: The other dials' values, where the part turns several.
    """
    use_style()
    spec, sets = chart.parts[part], chart.main_sets
    (dial,) = [name for name in spec.across if name not in (at or {})]
    figure, panels = plt.subplots(1, len(sets), sharey=True, figsize=(3.6 * len(sets) + 1.6, 3.7), squeeze=False)
    places = np.arange(len(spec.across[dial]))
    for axes, name in zip(panels[0], sets, strict=True):
        for shift, route in zip(np.linspace(-0.12, 0.12, len(routes)), routes, strict=True):
            color, marker = route_look(route)
            cells = [(at or {}) | {dial: value} for value in spec.across[dial]]
            cells = [{key: cell[key] for key in spec.across} for cell in cells]
            untrained = chart.untrained(route)
            found = [chart.estimate(part, cell, route, name, BEST if untrained else MAIN) for cell in cells]
            mean, low, high = (100 * np.array([getattr(e, key) for e in found]) for key in ("mean", "low", "high"))
            label = route_label(route) + (", untrained, at its best temperature" if untrained else "")
            style = {"linestyle": ":", "linewidth": 1.4} if untrained else {"linestyle": "-"}
            axes.errorbar(
                places + shift,
                mean,
                yerr=[mean - low, high - mean],
                color=color,
                marker=marker,
                capsize=2,
                label=label,
                **style,
            )
        axes.set(title=name, xlabel=xlabel, ylim=(0, 100))
        axes.set_xticks(places, spec.across[dial])
    panels[0][0].set_ylabel("accuracy, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    entitle(figure, title)
    plt.close(figure)
    return figure


def cells_figure(chart: Chart, part: str, title: str) -> Figure:
    """Accuracy of every route of a part, a panel a cell: means with 95% intervals, filled on the set like the pool, open on the
    hard one; dotted where the untrained student is at its best temperature.

    Every mean leads to its cell's runs.

    Args:
        chart: The map.
        part: Which.
        title: Of the figure.
    """
    use_style()
    spec = chart.parts[part]
    routes = list(spec.routes)
    places = dict(zip(routes, range(len(routes) - 1, -1, -1), strict=True))
    figure, panels = plt.subplots(
        1, len(spec.cells), sharey=True, figsize=(3.4 * len(spec.cells) + 2.0, 0.42 * len(routes) + 1.6), squeeze=False
    )
    for axes, cell in zip(panels[0], spec.cells, strict=True):
        for (name, shift, face), route in product(
            zip(chart.main_sets, (0.13, -0.17), (None, "white"), strict=False), routes
        ):
            color, marker = route_look(route)
            found = chart.estimate(part, cell, route, name)
            mean, low, high = (100 * value for value in (found.mean, found.low, found.high))
            spread = [[mean - low], [high - mean]]
            bars = axes.errorbar(mean, places[route] + shift, None, spread, marker, color=color, capsize=2, mfc=face)
            bars.lines[0].set_url(cell_page(part, settings_text(cell)))
            if face is None:
                axes.annotate(
                    f"{mean:.0f}",
                    (mean, places[route] + shift),
                    (0, 4),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        best = chart.estimate(part, cell, "student", chart.main_sets[0], BEST).mean
        axes.axvline(100 * best, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
        axes.set(title=cell_title(cell), xlabel="accuracy, %", xlim=(0, 103), ylim=(-0.6, len(routes) - 0.4))
        axes.grid(axis="y", visible=False)
    panels[0][0].set_yticks(list(places.values()), [route_label(route) for route in routes])
    marks = [Line2D([], [], marker="o", linewidth=0, color=BLACK, mfc=face) for face in (BLACK, "white")][
        : len(chart.main_sets)
    ]
    marks.append(Line2D([], [], linestyle=":", color=GREY))
    labels = [*chart.main_sets, f"untrained student, at its best temperature on {chart.main_sets[0]}"]
    figure.legend(marks, labels, loc="outside lower right", ncols=3)
    entitle(figure, title)
    plt.close(figure)
    return figure


def warmup_figure(
    chart: Chart,
    surfaces: dict[str, pd.DataFrame],
    words: dict[str, str],
    title: str,
    default: dict[str, str],
    printed: float | None = None,
) -> Figure:
    """What a warmup brings over OPD alone, one heat map a part.

    Args:
        chart: The map.
        surfaces: Part -> its `surface`.
        words: Part -> what its other dial is called.
        title: Of the figure.
        default: Part -> the value of that dial in our default regime, whose bridge has half of its steps in the warmup.
        printed: The paper's own difference in points.
    """
    use_style()
    figure, panels = plt.subplots(1, len(surfaces), figsize=(4.4 * len(surfaces), 3.8), squeeze=False)
    for axes, (part, rows) in zip(panels[0], surfaces.items(), strict=True):
        (dial,) = [name for name in chart.parts[part].across if not name.startswith("warmup")]
        mark = ("1/2", default[part]) if default.get(part) in set(rows[dial]) else None
        heat_panel(axes, rows, "warmup", dial, part, mark, printed)
        axes.set(xlabel="share of warmup (1: forward KL only)", ylabel=words[part])
    note = (
        "points over OPD only; bold: interval without zero; lines: around more than a point; ring: the default regime"
    )
    if printed is not None:
        note += f"; star: the interval holds the paper's own {printed:+.1f}"
    figure.supxlabel(textwrap.fill(note, 62 * len(surfaces)), fontsize=8.5, color=GREY)
    entitle(figure, title)
    plt.close(figure)
    return figure
