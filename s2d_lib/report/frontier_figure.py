"""The label frontier as a picture: accuracy over labels, and the labels that direct GRPO needs, one column a set."""

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_lib.report.frontier import Frontier, point_of
from s2d_lib.report.run_pages import run_page
from s2d_lib.report.style import BLACK, GREY, entitle, route_label, route_look, use_style

EDGE = 0.8  # octaves beyond the budgets: where numbers of labels stand that are only known to lie beyond
APART = 0.17  # octaves between the intervals of routes at the same budget, so that they can be told apart
RING = {"color": BLACK, "marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": ""}


def frontier_figure(numbers: pd.DataFrame, crossed: pd.DataFrame, frontier: Frontier) -> Figure:
    """Two rows of panels, one column a set, labels on log2 axes, with 95% intervals throughout.

    Above, accuracy of every route; a ring marks where one crosses direct GRPO, a bar through it the crossing's interval.
    Below, for every other route, the labels with which direct GRPO is as accurate; hollow marks beyond the budgets stand
    for numbers that are only known to lie there.

    Args:
        numbers: From `frontier_table`.
        crossed: From `crossings_table`.
        frontier: What both are of.
    """
    use_style()
    sets = list(frontier.curves)
    figure, panels = plt.subplots(2, len(sets), sharex=True, figsize=(max(6.5, 3.7 * len(sets)), 6.4), squeeze=False)
    looks = _looks(frontier.routes)
    for name, (above, below) in zip(sets, panels.T, strict=True):
        part = numbers[numbers["set"] == name]
        for route, look in looks.items():
            _accuracies(above, part[part["route"] == route], look, frontier)
            if route != frontier.direct:
                _matches(below, part[part["route"] == route], look, frontier.problems)
        own = crossed[(crossed["set"] == name) & crossed["labels"].notna()]
        # One that may lie anywhere says nothing; the table has it.
        known = (own["low"] >= frontier.problems[0]) | (own["high"] <= frontier.problems[-1])
        for crossing in own[known].to_dict("records"):
            _crossing(above, crossing, frontier)
        above.set(title=name, ylim=(0, None))
        _label_axis(below, frontier.problems)
        below.set_xlabel("labeled problems")
    panels[0][0].set_ylabel("accuracy, %")
    panels[1][0].set_ylabel("labels that direct GRPO needs")
    marks = [Line2D([], [], **look.line, label=route_label(route)) for route, look in looks.items()]
    marks.append(Line2D([], [], **RING | {"linestyle": "-"}, linewidth=0.8, label="crosses direct GRPO"))
    marks.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.2, label="as many labels"))
    entitle(figure, frontier.title)
    note = "Prompts and steps shrink with the labels; a raw teacher's bridge uses the prompts alone."
    figure.legend(handles=marks, loc="outside lower center", ncols=2 if len(sets) == 1 else 3, title=note)
    plt.close(figure)
    return figure


@dataclass(frozen=True)
class Look:
    """How a route is drawn: its line, and the octaves by which it stands beside the budgets."""

    line: dict[str, str]
    shift: float


def _looks(routes: list[str]) -> dict[str, Look]:
    """Of two routes with one colour the second is dashed."""
    looks: dict[str, Look] = {}
    for place, route in enumerate(routes):
        color, marker = route_look(route)
        taken = color in {look.line["color"] for look in looks.values()}
        line = {"color": color, "marker": marker, "linestyle": "--" if taken else "-"}
        looks[route] = Look(line, (place - (len(routes) - 1) / 2) * APART)
    return looks


def _accuracies(axes: plt.Axes, rows: pd.DataFrame, look: Look, frontier: Frontier) -> None:
    """The curve, its intervals beside it; in SVG a point leads to the page of its runs."""
    at = rows["problems"].to_numpy()
    mean, low, high = (100 * rows[key].to_numpy() for key in ("accuracy", "low", "high"))
    axes.plot(at, mean, **look.line | {"marker": ""}, linewidth=1.4)
    axes.vlines(at * 2**look.shift, low, high, color=look.line["color"], linewidth=0.9)
    for place, height, row in zip(at, mean, rows.to_dict("records"), strict=True):
        page = run_page(point_of(row, frontier))
        axes.plot(place, height, color=look.line["color"], marker=look.line["marker"], url=page)


def _crossing(axes: plt.Axes, crossing: dict, frontier: Frontier) -> None:
    """A ring at the crossing and its interval, whose ends are arrows where it goes on beyond the budgets."""
    curves, problems = frontier.curves[crossing["set"]], frontier.problems
    height = 100 * np.interp(np.log2(crossing["labels"]), np.log2(problems), curves.mean(frontier.direct))
    ends = np.clip([crossing["low"], crossing["high"]], problems[0], problems[-1])
    axes.plot(ends, [height, height], color=BLACK, linewidth=0.8, zorder=3)
    marks = ("<" if crossing["low"] < problems[0] else "|", ">" if crossing["high"] > problems[-1] else "|")
    for end, mark in zip(ends, marks, strict=True):
        axes.plot(end, height, mark, markersize=4, color=BLACK, zorder=3)
    axes.plot(crossing["labels"], height, **RING, zorder=4)


def _matches(axes: plt.Axes, rows: pd.DataFrame, look: Look, problems: list[int]) -> None:
    at = rows["problems"].to_numpy() * 2**look.shift
    needed, low, high = (_shown(rows[f"labels to match{bound}"], problems) for bound in ("", " low", " high"))
    axes.vlines(at, low, high, color=look.line["color"], linewidth=0.9)
    known = ~rows["labels to match"].isin([0, math.inf]).to_numpy()
    axes.plot(at, np.where(known, needed, np.nan), **{**look.line, "marker": ""}, linewidth=1.4)
    points = {**look.line, "linestyle": ""}
    axes.plot(at[known], needed[known], **points)
    axes.plot(at[~known], needed[~known], **points, markerfacecolor="white")


def _shown(labels: pd.Series, problems: list[int]) -> np.ndarray:
    """Where numbers of labels stand on the axis: those beyond the budgets at its edges."""
    return np.clip(labels.to_numpy(), problems[0] / 2**EDGE, problems[-1] * 2**EDGE)


def _label_axis(axes: plt.Axes, problems: list[int]) -> None:
    """Log2 axes with the budgets as ticks, as many labels as a diagonal, and what lies beyond in grey."""
    first, last = problems[0], problems[-1]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.plot([first, last], [first, last], ":", color=GREY, linewidth=1.2, zorder=1)
    ends = {f"< {first:,}": first / 2**EDGE, f"> {last:,}": last * 2**EDGE}
    ticks = {f"{n:,}": n for n in problems}
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.set_yticks([*ticks.values(), *ends.values()], [*ticks, *ends])
    axes.minorticks_off()
    low, high = first / 2 ** (2 * EDGE), last * 2 ** (2 * EDGE)
    axes.set_ylim(low, high)
    for start, end in ((low, first / math.sqrt(2**EDGE)), (last * math.sqrt(2**EDGE), high)):
        axes.axhspan(start, end, color="#F2F2F2", zorder=0)
