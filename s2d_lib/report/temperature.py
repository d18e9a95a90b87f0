"""Is a gain more than a lower temperature? Gains over the untrained student, and the order of routes, by how they are sampled."""

from collections.abc import Iterable
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_lib.claims.bootstrap import Estimate, bootstrap
from s2d_lib.report.decodings import STUDENT
from s2d_lib.report.map import BEST, Chart, cell_page, read_cell
from s2d_lib.report.style import BLACK, GREY, entitle, interval, route_label, route_look, use_style
from s2d_lib.study.profile import Settings, settings_of, settings_text
from s2d_lib.study.settings import Evaluation

T1, GREEDY = "t1", "greedy"
"""What a profile must call these decodings under `evaluation.also`."""
SAMPLED = {T1: "all at T = 1", BEST: "untrained student at its best temperature, others at the main decoding"}
"""How models are sampled that are compared."""


def cells_at(chart: Chart, part: str, at: Settings) -> list[Settings]:
    """The cells of a part in which these dials have these values."""
    return [cell for cell in chart.parts[part].cells if at.items() <= cell.items()]


def gains(chart: Chart, part: str, cells: Iterable[Settings], name: str) -> pd.DataFrame:
    """What every trained route gains over the untrained student, which is first sampled as it is and then at its best.

    Args:
        chart: The map.
        part: Of it, with the untrained student among its routes.
        cells: Of the part.
        name: Of the evaluation set.

    Returns:
        A row a cell, route and `student`, how the untrained one is sampled: T1, as its rival then is too, or BEST, where its
        rival has the main decoding. `difference`, `low`, `high` are shares, paired by seed and problem.
    """
    rows = []
    for cell in cells:
        best = chart.accuracy(part, cell, STUDENT, name, BEST)
        for route in trained(chart, part):
            found = {
                T1: chart.difference(part, cell, route, STUDENT, name, T1),
                BEST: bootstrap(chart.accuracy(part, cell, route, name), best),
            }
            rows += [
                {"cell": settings_text(cell), "route": route, "student": at, "difference": e.mean, "low": e.low, "high": e.high}
                for at, e in found.items()
            ]  # fmt: skip
    return pd.DataFrame(rows)


def readable_gains(rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Gains on several sets for readers: a row a cell and route, points with their intervals.

    Args:
        rows: Set -> its `gains`.
    """
    columns = {}
    for name, own in rows.items():
        text = [interval(*found, signed=True) for found in own[["difference", "low", "high"]].to_numpy()]
        wide = own.assign(text=text, cell=own["cell"].map(read_cell), route=own["route"].map(route_label)).pivot(
            index=["cell", "route"], columns="student", values="text"
        )
        columns |= {(name, "at T = 1"): wide[T1], (name, "untrained at its best"): wide[BEST]}
    order = dict.fromkeys(zip(own["cell"].map(read_cell), own["route"].map(route_label), strict=True))
    return pd.DataFrame(columns).loc[list(order)]


def trained(chart: Chart, part: str) -> list[str]:
    """The routes of a part that are no base models."""
    return [route for route in chart.parts[part].routes if not chart.untrained(route)]


def orders(chart: Chart, part: str, cells: Iterable[Settings], name: str) -> pd.DataFrame:
    """Whether the order of trained routes at T = 1 survives greedy decoding, two by two.

    Args:
        chart: The map.
        part: Of it.
        cells: Of the part.
        name: Of the evaluation set.

    Returns:
        A row a cell and pair: the cell's dials; `of` and `over`; T1 and GREEDY, how far the first is ahead (Estimate);
        `greedily`, what becomes of it there: `the same`, `turned round`, `gone` (undecided there alone), `appears` (undecided
        at T = 1 alone) or `undecided`. An interval that holds zero decides nothing; none is corrected for their number.
    """
    rows = []
    for cell in cells:
        for of, over in combinations(trained(chart, part), 2):
            found = {at: chart.difference(part, cell, of, over, name, at) for at in (T1, GREEDY)}
            rows.append(cell | {"of": of, "over": over} | found | {"greedily": _verdict(*map(_sign, found.values()))})
    return pd.DataFrame(rows)


def _sign(found: Estimate) -> int:
    return int(found.low > 0) - int(found.high < 0)


def _verdict(sampled: int, greedy: int) -> str:
    if sampled and greedy:
        return "the same" if sampled == greedy else "turned round"
    return "gone" if sampled else "appears" if greedy else "undecided"


def readable_orders(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `orders` for readers: points with their intervals, routes by their labels."""
    points = {at: rows[at].map(lambda e: interval(e.mean, e.low, e.high, signed=True)) for at in (T1, GREEDY)}
    labels = {side: rows[side].map(route_label) for side in ("of", "over")}
    return rows.assign(**points, **labels).rename(columns={"of": "route", "over": "ahead of", T1: "at T = 1"})


def decodings_figure(
    chart: Chart, evaluation: Evaluation, cells: dict[str, tuple[str, Settings]], name: str, title: str
) -> Figure:
    """Accuracy by decoding, from hot to greedy, one panel a cell: the untrained student, dotted, and the trained routes, with
    95% intervals. Between them stands what the worst and the best of these gain at the same decoding.

    Args:
        chart: The map.
        evaluation: Its profile's, for what the decodings are.
        cells: Title of a panel -> part and cell.
        name: Of the evaluation set.
        title: Of the figure.
    """
    use_style()
    figure, panels = plt.subplots(1, len(cells), sharey=True, figsize=(3.5 * len(cells), 4.1), squeeze=False)
    at = sorted(evaluation.decodings, key=lambda key: -evaluation.decodings[key].temperature)
    for axes, (words, (part, cell)) in zip(panels[0], cells.items(), strict=True):
        means = {}
        for route in (STUDENT, *trained(chart, part)):
            there = at if route == STUDENT else [key for key in at if key in chart.decodings]
            found = [chart.estimate(part, cell, route, name, key) for key in there]
            mean, low, high = (100 * np.array([getattr(e, key) for e in found]) for key in ("mean", "low", "high"))
            color, marker = route_look(route)
            label, line = ("untrained student", ":") if route == STUDENT else (route_label(route), "-")
            axes.errorbar(
                [at.index(key) for key in there], mean, yerr=[mean - low, high - mean],
                color=color, marker=marker, linestyle=line, capsize=2, label=label, zorder=3,
            )  # fmt: skip
            means[route] = dict(zip(there, mean, strict=True))
        student = means.pop(STUDENT)
        for key in chart.decodings:
            _gain(axes, at.index(key), student[key], [own[key] for own in means.values()])
        axes.set_title(f"{words} ({_seeds(chart, part, cell)})").set_url(cell_page(part, settings_text(cell)))
        axes.set(ylim=(-3, 108), xlim=(-0.4, len(at) - 0.5))
        axes.set_xticks(range(len(at)), [evaluation.decodings[key].words.replace(", ", "\n") for key in at])
    panels[0][0].set_ylabel(f"{name}, accuracy, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels))
    entitle(figure, title)
    plt.close(figure)
    return figure


ROOM = 15  # points between two marks that a line of text needs


def _gain(axes: Axes, place: int, student: float, others: list[float]) -> None:
    """A bar from the untrained student to the nearest trained route, with what the worst and the best of them gain."""
    words = [f"{round(end(others) - student):+d}".replace("-", "\N{MINUS SIGN}") for end in (min, max)]
    text = " to\n".join(dict.fromkeys(words)).replace("+0", "\N{PLUS-MINUS SIGN}0")
    height = (student + min(others)) / 2
    if abs(min(others) - student) > ROOM:
        axes.plot([place, place], [student, min(others)], color=BLACK, linewidth=0.8, zorder=1)
    else:
        height += ROOM / 2 if student < 50 else -ROOM / 2
    box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
    axes.text(place, height, text, ha="center", va="center", fontsize=8.5, bbox=box)


def _seeds(chart: Chart, part: str, cell: Settings) -> str:
    count = len(chart.runs(part, cell, STUDENT)[1])
    return "1 seed" if count == 1 else f"{count} seeds"


def gains_figure(chart: Chart, rows: dict[str, pd.DataFrame], words: dict[str, str], title: str, xlabel: str) -> Figure:
    """Gains over the untrained student, one panel a part and one line a cell and route: hollow where both are sampled at T = 1,
    full where the untrained one is at its best decoding.

    Args:
        chart: The map.
        rows: Part -> its `gains`.
        words: Part -> what its dial is called.
        title: Of the figure.
        xlabel: Of the gains.
    """
    use_style()
    figure, panels = plt.subplots(1, len(rows), sharex=True, figsize=(4.9 * len(rows), 4.9), squeeze=False)
    for axes, (part, own) in zip(panels[0], rows.items(), strict=True):
        (dial,) = [name for name in chart.parts[part].across if not name.startswith("warmup")]
        cells, routes = list(dict.fromkeys(own["cell"])), trained(chart, part)
        for (cell, route), pair in own.groupby(["cell", "route"], sort=False):
            color, marker = route_look(route)
            place = cells.index(cell) + 0.24 * (routes.index(route) - (len(routes) - 1) / 2)
            axes.plot(100 * pair["difference"], [place, place], color=color, linewidth=1.0, alpha=0.5, zorder=2)
            for row in pair.to_dict("records"):
                mean, low, high = (100 * row[key] for key in ("difference", "low", "high"))
                bars = axes.errorbar(
                    mean, place, xerr=[[mean - low], [high - mean]], fmt=marker, color=color, elinewidth=1.2,
                    markerfacecolor="white" if row["student"] == T1 else color, markersize=5.5, zorder=3,
                )  # fmt: skip
                bars.lines[0].set_url(cell_page(part, cell))
        for place in range(0, len(cells), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", zorder=0)
        axes.axvline(0, color=BLACK, linewidth=0.8, zorder=1)
        axes.set_yticks(range(len(cells)), [settings_of(cell)[dial] for cell in cells])
        axes.set(xlabel=xlabel, ylim=(len(cells) - 0.5, -0.5))
        axes.set_title(f"{words[part]} ({_seeds(chart, part, settings_of(cells[0]))})")
        axes.grid(axis="y", visible=False)
    looks = {route_label(route): route_look(route) for route in routes}
    handles = [Line2D([], [], color=color, marker=marker, label=label) for label, (color, marker) in looks.items()]
    for face, label in zip(("white", GREY), SAMPLED.values(), strict=True):
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="none", markerfacecolor=face, label=label))
    figure.legend(handles=handles, loc="outside lower left", ncols=2)
    entitle(figure, title)
    plt.close(figure)
    return figure
