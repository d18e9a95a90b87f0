"""What methods bring on a few cells of the map, beside direct GRPO, OPD only and the bridge."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pandas as pd

from s2d_lib.claims import Estimate
from s2d_lib.claims.bootstrap import verdict_of
from s2d_lib.pipeline import METHODS_PART, with_route
from s2d_lib.report.looks import load_report, route_label
from s2d_lib.report.map import BRIDGE, GRPO, OPD, Chart, differences, read_cell
from s2d_lib.report.tables import COUNT, Sheet, columns, ends, intervals, pivoted
from s2d_lib.results.map import MapResults, name_on_map
from s2d_lib.study import lineage
from s2d_lib.study.graph import points_of
from s2d_lib.study.profile import settings_text

BESIDE = (GRPO, OPD, BRIDGE)
SPENT_BY = {"labels": "max"} | dict.fromkeys(("gradings", "sampled_tokens", "steps", "seconds"), "sum")
SPENT = list(SPENT_BY)
VERDICTS = {"holds": "ahead", "contradicted": "behind", "undecided": "undecided"}


def with_method(chart: Chart, found: MapResults, method: str) -> Chart:
    """A map with one more route in the part `methods`, whose results are there; they count before those of the map itself."""
    parts = chart.map.parts | {METHODS_PART: with_route(chart.map.parts[METHODS_PART], method)}
    return replace(chart, map=chart.map.model_copy(update={"parts": parts}), results=chart.results.joined(found))


def methods_of(chart: Chart) -> list[str]:
    """The routes of the part `methods` that are compared with the others."""
    return [route for route in chart.trained(METHODS_PART) if route not in BESIDE]


def gains_table(chart: Chart, methods: Sequence[str]) -> pd.DataFrame:
    """How far methods are ahead of the routes BESIDE them: as `differences`, with a `verdict` (ahead, behind, undecided)."""
    rows = differences(chart, METHODS_PART, product(methods, BESIDE), chart.main_sets)
    said = [VERDICTS[verdict_of(Estimate(*row))] for row in rows[ends("difference")].to_numpy()]
    return rows.assign(verdict=said)


def cost_table(chart: Chart, profile: str, methods: Sequence[str]) -> pd.DataFrame:
    """What methods and the routes BESIDE them took in every cell, teachers included, means over seeds: a row a cell and route,
    with the trial that was chosen, its accuracy on the first set and what is in SPENT; labels are distinct ones."""
    facts, rows = chart.results.runs.set_index(["run", "seed"]), []
    part = chart.parts[METHODS_PART]
    asked = {
        (settings_text(p.cell), settings_text(p.trial), p.route): p for p in points_of(chart.map, METHODS_PART, part)
    }
    for cell, route in product(part.cells, (*BESIDE, *methods)):
        trial, runs = chart.runs(METHODS_PART, cell, route)
        point, taken = asked[settings_text(cell), trial, route], []
        for _, seed in runs:
            line = lineage(profile, route, seed, point.overrides).values()
            taken.append(facts.loc[[(name_on_map(run.checkpoint, run.hash), seed) for run in line]])
        spent = pd.DataFrame([one[SPENT].agg(SPENT_BY) for one in taken]).mean()
        row = {"cell": settings_text(cell), "route": route, "trial": trial, "seeds": len(runs)}
        row |= columns("accuracy", chart.estimate(METHODS_PART, cell, route, chart.main_sets[0]))
        rows.append(row | {name: spent[name] for name in SPENT})
    return pd.DataFrame(rows)


def methods_sheet(chart: Chart, profile: str, methods: Sequence[str], name: str = "methods") -> Sheet:
    """What methods bring, and what they take."""
    gains, costs = gains_table(chart, methods), cost_table(chart, profile, methods)
    words = zip(intervals(gains, "difference", signed=True), gains["verdict"], strict=True)
    where = (
        gains["cell"].map(read_cell) + ": " + gains["route"].map(route_label) + " - " + gains["than"].map(route_label)
    )
    wide = pivoted(gains.assign(where=where), "where", "set", [f"{text} {verdict}" for text, verdict in words])
    shown = costs[["cell", "route", "trial"]].assign(route=costs["route"].map(route_label))
    shown = shown.assign(cell=costs["cell"].map(read_cell), trial=costs["trial"].map(read_cell))
    shown[chart.main_sets[0]] = intervals(costs, "accuracy")
    for spent in SPENT:
        shown[spent.replace("_", " ")] = costs[spent].map(COUNT)
    tables = {chart.map.parts[METHODS_PART].title: wide, "What it takes, teachers included": shown}
    return Sheet(name, gains, tables, load_report().notes["methods"].format(seeds=int(costs["seeds"].max())))
