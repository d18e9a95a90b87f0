"""The map: every cell's routes at their best trial, differences between them, and what becomes of these at other temperatures."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from s2d_lib.claims import Estimate, bootstrap
from s2d_lib.report.figures import Line, Mark, finished, forest, lines, panel_grid
from s2d_lib.report.looks import route_label, route_look
from s2d_lib.report.style import BLACK, GREY
from s2d_lib.report.tables import columns, ends, intervals, markdown, pivoted
from s2d_lib.results.map import MapResults, read_map
from s2d_lib.study import load_profile, load_study, project_root
from s2d_lib.study.page import Study
from s2d_lib.study.profile import Map, Part, Settings, settings_of, settings_text
from s2d_lib.study.settings import MAIN

STUDENT, GRPO = "student", "student.grpo"
OPD, BRIDGE, FORWARD = "student.opd_only.rl_teacher", "student.bridge.rl_teacher", "student.forward_kl_only.rl_teacher"
BEST = "best"
"""In the place of a decoding: trained models at the main one, base models at that at which they are most often right on a set."""
T1, GREEDY = "t1", "greedy"
"""What a profile must call these decodings under `evaluation.also`, where gains are compared by temperature."""


@dataclass(frozen=True)
class Chart:
    """A map, its results, and the study's page, which says what is a base model."""

    map: Map
    results: MapResults
    study: Study

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that there are results of."""
        there = set(self.results.points["part"])
        return {name: part for name, part in self.map.parts.items() if name in there}

    @property
    def sets(self) -> list[str]:
        """Names of the evaluation sets."""
        return list(self.results.cells["set"].unique())

    @property
    def main_sets(self) -> list[str]:
        """Those that are like the pool, easy and hard; the others ask what has been forgotten."""
        return [name for name in self.sets if not name.startswith("known-")]

    @property
    def decodings(self) -> list[str]:
        """Names of the decodings of all runs, the main one first; untrained models have more."""
        counts = self.results.cells.groupby("decoding", sort=False).size()
        return list(counts[counts == counts[MAIN]].index)

    def runs(self, part: str, cell: Settings, route: str) -> tuple[str, list[tuple[str, int]]]:
        """A route's best trial in a cell, and its runs (see MapResults.best_trial)."""
        return self.results.best_trial(part, settings_text(cell), route)

    def accuracy(self, part: str, cell: Settings, route: str, name: str, decoding: str = MAIN) -> np.ndarray:
        """Accuracies of a route's best trial, shape (seeds, problems)."""
        _, runs = self.runs(part, cell, route)
        if decoding == BEST and self.untrained(route):
            at = self.results.cells.loc[self.results.cells["run"] == runs[0][0], "decoding"].unique()
            return max((self.results.accuracy(runs, name, one) for one in at), key=np.mean)
        return self.results.accuracy(runs, name, MAIN if decoding == BEST else decoding)

    def estimate(self, part: str, cell: Settings, route: str, name: str, decoding: str = MAIN) -> Estimate:
        """The mean of `accuracy` with its 95% interval over seeds and problems."""
        return bootstrap(self.accuracy(part, cell, route, name, decoding))

    def untrained(self, route: str) -> bool:
        """Whether a route is a base model."""
        return self.study.checkpoints[route].stage == "base"

    def trained(self, part: str) -> list[str]:
        """The routes of a part that are no base models."""
        return [route for route in self.parts[part].routes if not self.untrained(route)]


def open_chart(profile: str) -> Chart:
    """The map of a profile with its committed results; a StudyError where there are none, or they are broken."""
    return Chart(load_profile(profile).map, read_map(project_root() / "figures" / profile / "results"), load_study())


def read_cell(text: str) -> str:
    """A cell for readers: `opening 1e-4, warmup 1/4`."""
    return ", ".join(f"{dial} {value}" for dial, value in settings_of(text).items())


def cell_title(cell: Settings) -> str:
    """A cell for a heading: `hard end`, of several dials as `read_cell` has them."""
    ((dial, value), *more) = cell.items()
    return read_cell(settings_text(cell)) if more else f"{value} {dial}"


def cell_page(part: str, cell: str) -> str:
    """Where a cell's runs are listed, as seen from the figures beside it."""
    return f"cells/{part}.md#{''.join(c if c.isalnum() else '-' for c in cell)}"


def cells_table(chart: Chart) -> pd.DataFrame:
    """All of the map: a row a part, cell, route, set and decoding, with the mean accuracy and its 95% interval, the trial that
    was chosen, and what the route's own last stage took. Untrained models have one more row a set, at their best decoding."""
    rows, facts = [], chart.results.runs.set_index(["run", "seed"])
    for part, spec in chart.parts.items():
        for cell, route in product(spec.cells, spec.routes):
            trial, runs = chart.runs(part, cell, route)
            own = facts.loc[runs].mean(numeric_only=True)
            common = {"part": part, "cell": settings_text(cell), "route": route, "trial": trial, "seeds": len(runs)}
            common |= {"runs": " ".join(f"{run}#{seed}" for run, seed in runs), "seconds": round(own["seconds"], 1)}
            common |= {"steps": int(own["steps"]), "gradings": int(own["gradings"]), "validation": own["validation"]}
            for name, at in product(chart.sets, [*chart.decodings, *([BEST] if chart.untrained(route) else [])]):
                found = columns("accuracy", chart.estimate(part, cell, route, name, at))
                rows.append(common | {"set": name, "decoding": at, **found})
    return pd.DataFrame(rows).rename(columns=lambda name: name.removeprefix("accuracy "))


def write_pages(chart: Chart, numbers: pd.DataFrame, folder: Path) -> None:
    """Write `cells/<part>.md` from `cells_table` into figures/<profile>: every cell's routes at all decodings, and their runs."""
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    numbers = numbers.assign(text=intervals(numbers, "accuracy"), route=numbers["route"].map(route_label))
    for part, rows in numbers.groupby("part", sort=False):
        said = [f"# {chart.map.parts[part].title}\n"]
        for cell, own in rows.groupby("cell", sort=False):
            wide = own.pivot(index=["route", "decoding"], columns="set", values="text")[list(own["set"].unique())]
            anchor = cell_page(part, cell).partition("#")[2]
            said += [f'<a id="{anchor}"></a>\n', f"## {read_cell(cell)}\n", markdown(wide.reset_index()), ""]
            for first in own.drop_duplicates("route").to_dict("records"):
                tried = f", tried best: {read_cell(first['trial'])}" if first["trial"] else ""
                said.append(f"- {first['route']}{tried}: runs {first['runs'].replace('#', ' seed ')}")
            said.append("")
        (folder / "cells" / f"{part}.md").write_text("\n".join(said), encoding="utf-8")


def routes_table(chart: Chart, part: str) -> pd.DataFrame:
    """For readers: accuracy of all routes of a part in percent, with 95% intervals over seeds and problems, a column a cell
    and main set; untrained models once more at the temperature that suits them best there."""
    rows, spec = [], chart.parts[part]
    for route in spec.routes:
        for at in (MAIN, BEST) if chart.untrained(route) else (MAIN,):
            label = route_label(route) + (", at its best temperature" if at == BEST else "")
            for cell, name in product(spec.cells, chart.main_sets):
                row = {"route": label, "title": f"{cell_title(cell)}: {name}"}
                rows.append(row | columns("accuracy", chart.estimate(part, cell, route, name, at)))
    table = pd.DataFrame(rows)
    return pivoted(table, "route", "title", intervals(table, "accuracy"))


def differences(
    chart: Chart,
    part: str,
    pairs: str | Iterable[tuple[str, str]],
    names: Sequence[str] = (),
    at: Sequence[str] = (MAIN,),
    where: Settings | None = None,
) -> pd.DataFrame:
    """How far the first of each pair of routes is ahead of the second, or all trained ones of one: a row a cell (where the dials
    of `where` have these values), pair, set (of `names`, or all) and decoding, with `difference` and its 95% interval (shares,
    paired by seed and problem)."""
    if isinstance(pairs, str):
        pairs = [(route, pairs) for route in chart.trained(part) if route != pairs]
    rows = []
    for cell, pair, name, decoding in product(cells_at(chart, part, where), list(pairs), names or chart.sets, at):
        found = bootstrap(*(chart.accuracy(part, cell, route, name, decoding) for route in pair))
        place = {"cell": settings_text(cell), "route": pair[0], "than": pair[1], "set": name, "decoding": decoding}
        rows.append(cell | place | columns("difference", found))
    return pd.DataFrame(rows)


def cells_at(chart: Chart, part: str, where: Settings | None = None) -> list[Settings]:
    """The cells of a part in which these dials have these values."""
    return [cell for cell in chart.parts[part].cells if (where or {}).items() <= cell.items()]


def differences_table(rows: pd.DataFrame, by: str = "set") -> pd.DataFrame:
    """`differences` for readers: a row a cell and pair, points with intervals, a column a set or a decoding."""
    pairs = [f"{route_label(a)} - {route_label(b)}" for a, b in zip(rows["route"], rows["than"], strict=True)]
    said = rows.assign(where=rows["cell"].map(read_cell) + ": " + pairs)
    return pivoted(said, "where", by, intervals(rows, "difference", signed=True))


def surface(chart: Chart, part: str, name: str) -> pd.DataFrame:
    """What a warmup brings over OPD alone, on a part across another dial and one of shares, whose name begins with `warmup`:
    `differences` by that dial and the share as `warmup`, where 1 is forward KL alone, which knows no shares."""
    dial, shares = sorted(chart.parts[part].across, key=lambda name: name.startswith("warmup"))
    bridge = differences(chart, part, [(BRIDGE, OPD)], [name]).rename(columns={shares: "warmup"})
    first = {shares: chart.parts[part].across[shares][0]}
    whole = differences(chart, part, [(FORWARD, OPD)], [name], where=first).assign(warmup="1")
    rows = pd.concat([bridge, whole])[[dial, "warmup", *ends("difference"), "cell"]]
    return rows.sort_values(dial, key=lambda values: values.map(chart.parts[part].across[dial].index), kind="stable")


def orders(chart: Chart, part: str, name: str, where: Settings) -> pd.DataFrame:
    """Whether the order of trained routes at T = 1 survives greedy decoding: `differences` two by two at T1 and GREEDY, and
    what becomes of them `greedily`: `the same`, `turned round`, `gone` (undecided there alone), `appears` (undecided at T = 1
    alone) or `undecided`. An interval that holds zero decides nothing; none is corrected for their number."""
    rows = differences(chart, part, combinations(chart.trained(part), 2), [name], (T1, GREEDY), where)
    signs = (rows["difference low"] > 0).astype(int) - (rows["difference high"] < 0).astype(int)
    sampled, greedy = signs[::2].to_numpy(), signs[1::2].to_numpy()
    asked = [(sampled == greedy) & (sampled != 0), sampled * greedy < 0, sampled != 0, greedy != 0]
    words = np.select(asked, ["the same", "turned round", "gone", "appears"], "undecided")
    return rows.assign(greedily=np.repeat(words, 2))


def apart_table(chart: Chart, part: str) -> pd.DataFrame:
    """How far teacher and student are apart before OPD begins, by the dials of a part's cells, means over seeds (C1 and C2)."""
    facts, rows = chart.results.runs.set_index(["run", "seed"]), {}
    for cell in chart.parts[part].cells:
        own = {dial: value for dial, value in cell.items() if not dial.startswith("warmup")}
        measured = facts.loc[chart.runs(part, cell, OPD)[1]].filter(regex="_states$").mean()
        rows[settings_text(own)] = own | measured.to_dict()
    return pd.DataFrame(rows.values())


def labels_needed(labels: np.ndarray, accuracy: np.ndarray, level: float) -> float:
    """How many labels a route needs for an accuracy, on a log2 axis of increasing budgets: 0 where the smallest is better
    already, infinity where the largest does not suffice. Arrays of shape (points,). The curve is made monotone by isotonic
    regression first: labels never hurt in truth, and of points that fall a running maximum would take the luckiest."""
    curve = isotonic_regression(accuracy).x
    if not curve[0] <= level <= curve[-1]:
        return 0.0 if level < curve[0] else math.inf
    return float(2 ** np.interp(-level, -curve[::-1], np.log2(labels)[::-1]))  # of a flat stretch the beginning counts


def labels_table(chart: Chart, name: str, part: str = "labels") -> pd.DataFrame:
    """Direct GRPO and the bridge on as many labels: a row an opening and budget of a part across `labels` and `opening`,
    shares. `mixed`: of the student's groups those with right and wrong answers, over the first ten steps of its GRPO;
    `needed`: the labels with which direct GRPO is as good as the bridge, `fewest` and `most` those of single seeds."""
    facts, rows = chart.results.runs.set_index(["run", "seed"])["mixed_groups"], []
    for opening in chart.parts[part].across["opening"]:
        cells = [cell for cell in chart.parts[part].cells if cell["opening"] == opening]
        budgets = np.array([float(cell["labels"]) for cell in cells])
        direct, bridge = (np.stack([chart.accuracy(part, c, route, name) for c in cells]) for route in (GRPO, BRIDGE))
        for place, cell in enumerate(cells):
            levels, curves = [bridge[place].mean(), *bridge[place].mean(1)], [direct.mean((1, 2)), *direct.mean(2).T]
            needed, *seeds = (labels_needed(budgets, *pair) for pair in zip(curves, levels, strict=True))
            row = {"opening": opening, "labels": int(budgets[place]), "grpo": direct[place].mean(), "bridge": levels[0]}
            row |= columns("difference", bootstrap(bridge[place], direct[place]))
            row |= {"mixed": facts.loc[chart.runs(part, cell, GRPO)[1]].mean(), "needed": needed}
            rows.append(row | {"fewest": min(seeds), "most": max(seeds)})
    return pd.DataFrame(rows)


def accuracy_line(
    chart: Chart, part: str, route: str, name: str, asked: Sequence[tuple[float, Settings, str]], label: str = ""
) -> Line:
    """Accuracy of a route at places of an axis, each a cell and decoding: percent with 95% intervals; base models dotted."""
    found = [chart.estimate(part, cell, route, name, decoding) for _, cell, decoding in asked]
    values = 100 * np.array(found).T
    look = (*route_look(route), ":" if chart.untrained(route) else "-", cell_page(part, settings_text(asked[0][1])))
    return Line(label or route_label(route), [place for place, *_ in asked], *values, *look)


def dial_lines(chart: Chart, part: str, routes: Sequence[str], name: str, where: Settings | None = None) -> list[Line]:
    """Accuracy of routes on a set along one dial of a part, the others `where` they are put; base models at their best."""
    shifts = np.linspace(-0.1, 0.1, len(routes)) if len(routes) > 1 else [0.0]
    drawn = []
    for route, shift in zip(routes, shifts, strict=True):
        label = route_label(route) + (", at its best temperature" if chart.untrained(route) else "")
        asked = [(place + shift, cell, BEST) for place, cell in enumerate(cells_at(chart, part, where))]
        drawn.append(accuracy_line(chart, part, route, name, asked, label))
    return drawn


def dial_figure(
    chart: Chart, part: str, routes: Sequence[str], title: str, xlabel: str, where: Settings | None = None
) -> Figure:
    """`dial_lines`, a panel a main set."""
    panels = {name: dial_lines(chart, part, routes, name, where) for name in chart.main_sets}
    (ticks,) = (values for dial, values in chart.parts[part].across.items() if dial not in (where or {}))
    return lines(panels, title, xlabel, "accuracy, %", ticks=ticks, ylim=(0, 100))


def gains_figure(chart: Chart, part: str, name: str, title: str, where: Settings) -> Figure:
    """What trained routes gain over the untrained student, a row a cell: hollow where all are sampled at T = 1, full where the
    untrained one is at its best decoding; points lead to the cell's runs."""
    rows, routes, marks = differences(chart, part, STUDENT, [name], (T1, BEST), where), chart.trained(part), []
    cells = list(rows["cell"].unique())
    for row in rows.to_dict("records"):
        place = cells.index(row["cell"]) + 0.24 * (routes.index(row["route"]) - (len(routes) - 1) / 2)
        look = (*route_look(row["route"]), "white" if row["decoding"] == T1 else None, cell_page(part, row["cell"]))
        marks.append(Mark(place, *(100 * row[c] for c in ends("difference")), *look))
    key = {route_label(route): Mark(0, 0, np.nan, np.nan, *route_look(route)) for route in routes}
    key |= {"all at T = 1": Mark(face="white"), "untrained student at its best, others at the main decoding": Mark()}
    own = [{dial: value for dial, value in settings_of(cell).items() if dial not in where} for cell in cells]
    labels, xlabel = [read_cell(settings_text(cell)) for cell in own], f"{name}, points over the untrained student"
    return forest({"": marks}, labels, title, xlabel, key=key, width=6.0)


def cells_figure(chart: Chart, part: str, title: str) -> Figure:
    """Accuracy of every route of a part, a panel a cell: means with 95% intervals that lead to the cell's runs, filled on the
    set like the pool, open on the hard one; dotted where the untrained student is at its best temperature."""
    spec, panels, faces = chart.parts[part], {}, dict(zip(chart.main_sets, (None, "white"), strict=False))
    for cell in spec.cells:
        panels[cell_title(cell)] = marks = []
        for (place, route), (name, face) in product(enumerate(spec.routes), faces.items()):
            values = [100 * value for value in chart.estimate(part, cell, route, name)]
            page, text = cell_page(part, settings_text(cell)), "" if face else f"{values[0]:.0f}"
            marks.append(Mark(place + (0.17 if face else -0.13), *values, *route_look(route), face, page, text))
    key = {name: Mark(face=face) for name, face in faces.items()}
    figure = forest(panels, [*map(route_label, spec.routes)], title, "accuracy, %", (0, 103), key)
    for axes, cell in zip(figure.axes, spec.cells, strict=True):
        best = chart.estimate(part, cell, STUDENT, chart.main_sets[0], BEST).mean
        axes.axvline(100 * best, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
    return figure


def heat_map(
    surfaces: Mapping[str, pd.DataFrame],
    words: Mapping[str, str],
    title: str,
    marked: Mapping[str, str],
    printed: float,
) -> Figure:
    """What a warmup brings over OPD alone, a heat map of the `surface` of every part, orange where it is ahead; cells lead to
    their runs. `words`: part -> what its other dial is called; `marked`: part -> its value in our default regime, whose bridge
    has half of its steps in the warmup; `printed`: the paper's own difference in points."""
    figure, panels = panel_grid([""] * len(surfaces), (4.4, 3.8))
    for axes, (part, rows) in zip(panels, surfaces.items(), strict=True):
        dial, reach = rows.columns[0], 30.0
        xs, ys = list(rows["warmup"].unique()), list(rows[dial].unique())
        grid = 100 * rows.pivot(index=dial, columns="warmup", values="difference").loc[ys, xs].to_numpy()
        look = {"cmap": "PuOr_r", "vmin": -reach, "vmax": reach, "cbar": False, "xticklabels": xs, "yticklabels": ys}
        sns.heatmap(grid, ax=axes, **look)  # cell (y, x) reaches from (y, x) to (y + 1, x + 1)
        axes.invert_yaxis()
        ahead = np.digitize(grid, [-1.0, 1.0])  # lines part what is a point ahead; closer ones would follow noise
        for y, x in np.argwhere(ahead[1:] != ahead[:-1]):
            axes.plot([x, x + 1], [y + 1, y + 1], color=BLACK, linewidth=1.4)
        for y, x in np.argwhere(ahead[:, 1:] != ahead[:, :-1]):
            axes.plot([x + 1, x + 1], [y, y + 1], color=BLACK, linewidth=1.4)
        for row in rows.to_dict("records"):
            x, y = xs.index(row["warmup"]), ys.index(row[dial])
            value, low, high = (100 * row[column] for column in ends("difference"))
            clear = low > 0 or high < 0
            color = "#8A8A8A" if not clear else "white" if abs(value) > 0.65 * reach else BLACK
            look = {"ha": "center", "va": "center", "color": color, "fontweight": "bold" if clear else "normal"}
            text = axes.text(x + 0.5, y + 0.5, f"{round(value):+d}" if round(value) else "0", **look)
            text.set_url(cell_page(part, row["cell"]))
            if low <= printed <= high:
                axes.plot(x + 0.83, y + 0.77, "*", color=BLACK, markersize=6)
        if marked.get(part) in ys:
            axes.plot(xs.index("1/2") + 0.5, ys.index(marked[part]) + 0.5, "o", markersize=22, mfc="none", color=BLACK)
        axes.tick_params(axis="y", labelrotation=0)
        axes.set(xlabel="share of warmup (1: forward KL only)", ylabel=words[part])
        axes.grid(visible=False)
    note = (
        "points over OPD only; bold: interval without zero; lines: around more than a point; ring: the default regime; star: the "
        f"interval holds the paper's own {printed:+.1f}"
    )
    figure.supxlabel(textwrap.fill(note, 62 * len(surfaces)), fontsize=8.5, color=GREY)
    return finished(figure, title, {})
