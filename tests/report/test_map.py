"""The map on results made by hand: which trial counts, what a warmup and labels bring, gains and orders by temperature."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from s2d_lib.report import map as charts
from s2d_lib.report.map import BEST, BRIDGE, FORWARD, GREEDY, GRPO, OPD, T1, Chart
from s2d_lib.results.map import DIGITS, MapResults, read_map
from s2d_lib.study import load_profile, load_study
from s2d_lib.study.profile import Map, settings_text

DIALS = {"opening": ["wide", "narrow"], "warmup": ["1/4", "1/2"], "rate": ["low", "high"]}
ROUTES = {"student": {}, OPD: {}, BRIDGE: {"rate": ["low", "high"]}, FORWARD: {}}
PART = {"title": "When?", "across": {dial: DIALS[dial] for dial in ("opening", "warmup")}, "routes": ROUTES}


def map_of(dials: dict[str, list[str]], **parts) -> Map:
    return Map(dials={dial: {value: {} for value in values} for dial, values in dials.items()}, parts=parts)


def chart_of(mapped: Map, right, seeds=(0, 1), problems=4) -> Chart:
    """Results in which `right(part, cell, route, trial)` samples of ten are right of every problem, by decoding; facts of runs
    are `mixed_groups`, half of the share at the main decoding, and where training ended, that share."""
    placed, runs, cells = [], [], []
    for (name, part), seed in product(mapped.parts.items(), seeds):
        for (place, cell), route in product(enumerate(part.cells), part.routes):
            for trial in map(settings_text, part.trials(route)):
                run, at = f"{route}@{name}{place}{trial}", right(name, cell, route, trial)
                end = at["main"] / 10 if route != "student" else np.nan
                placed.append((name, settings_text(cell), route, trial, seed, run))
                runs.append((run, seed, 1.0, 200, 0, end, at["main"] / 20))
                cells += [(run, seed, "micro-math", d, 10, DIGITS[n] * problems) for d, n in at.items()]
    facts = ["run", "seed", "seconds", "steps", "gradings", "validation", "mixed_groups"]
    results = MapResults(
        pd.DataFrame(placed, columns=["part", "cell", "route", "trial", "seed", "run"]),
        pd.DataFrame(runs, columns=facts),
        pd.DataFrame(cells, columns=["run", "seed", "set", "decoding", "samples", "right"]),
    )
    return Chart(mapped, results, load_study())


@pytest.fixture
def chart() -> Chart:
    level = {"student": 1, OPD: 2, FORWARD: 3}

    def right(part, cell, route, trial):
        narrow = cell["opening"] == "narrow"
        main = level.get(route, 4 if trial == "rate=low" else 6 + narrow)
        return {"main": main, "t1": 0} | ({"T 0.5": 2} if route == "student" else {})

    return chart_of(map_of(DIALS, opening=PART), right)


def test_a_warmup_is_compared_with_opd_alone_and_cells_lead_to_their_runs(chart, tmp_path):
    rows = charts.surface(chart, "opening", "micro-math")
    found = {(row.opening, row.warmup): round(row.difference, 6) for row in rows.itertuples()}
    assert found == {
        ("wide", "1/4"): 0.4, ("wide", "1/2"): 0.4, ("wide", "1"): 0.1,
        ("narrow", "1/4"): 0.5, ("narrow", "1/2"): 0.5, ("narrow", "1"): 0.1,
    }  # fmt: skip
    assert list(rows["opening"].unique()) == ["wide", "narrow"]
    figure = charts.heat_map({"opening": rows}, {"opening": "opening"}, "A warmup", {"opening": "wide"}, 50.0)
    texts = {text.get_text(): text.get_url() for axes in figure.axes for text in axes.texts}
    assert texts["+50"] == charts.cell_page("opening", "opening=narrow,warmup=1/2")
    holds = (rows["difference low"] <= 0.5) & (rows["difference high"] >= 0.5)  # the paper's
    assert sum(line.get_marker() == "*" for line in figure.axes[0].lines) == holds.sum()
    charts.write_pages(chart, charts.cells_table(chart), tmp_path)
    page = (tmp_path / "cells" / "opening.md").read_text("utf-8")
    for cell in chart.parts["opening"].cells:
        assert page.count(f'<a id="{charts.cell_page("opening", settings_text(cell)).partition("#")[2]}"></a>') == 1
    assert "tried best: rate high: runs" in page


def test_an_untrained_model_stands_at_its_best_decoding_too(chart):
    table = charts.cells_table(chart).drop_duplicates(["route", "decoding"]).set_index(["route", "decoding"])
    assert table.loc["student", "accuracy"].to_dict() == pytest.approx({"main": 0.1, "t1": 0.0, BEST: 0.2})
    assert BEST not in table.loc[OPD].index
    assert charts.routes_table(chart, "opening").iloc[1]["opening wide, warmup 1/4: micro-math"].startswith("20.0 [")
    figure = charts.cells_figure(chart, "opening", "Ends")
    cells = chart.parts["opening"].cells
    titles = [f"opening {cell['opening']}, warmup {cell['warmup']}" for cell in cells]
    assert [axes.get_title(loc="left") for axes in figure.axes] == titles
    assert len(figure.axes[0].get_yticks()) == len(ROUTES)
    figure = charts.dial_figure(chart, "opening", ["student", OPD], "Routes", "opening", {"warmup": "1/4"})
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["wide", "narrow"]
    student, opd = charts.dial_lines(chart, "opening", ["student", OPD], "micro-math", {"warmup": "1/4"})
    assert (list(student.mean), student.dashes) == (pytest.approx([20.0, 20.0]), ":")  # at its best
    assert (list(opd.mean), opd.label) == (pytest.approx([20.0, 20.0]), "OPD only, RL teacher")


# Route -> right samples of ten by decoding: all learn to be greedy, and the order turns round
RIGHT = {
    "student": {"main": 5, T1: 2, GREEDY: 10, "T 1.5": 1},
    OPD: {"main": 10, T1: 9, GREEDY: 8},
    BRIDGE: {"main": 9, T1: 8, GREEDY: 9},
    FORWARD: {"main": 9, T1: 8, GREEDY: 6},
}
WHERE = {"warmup": "1/4"}


@pytest.fixture
def warm() -> Chart:
    across = {"opening": ["0.6"], "warmup": ["1/4", "1/2"]}
    part = {"title": "When?", "across": across, "routes": {route: {} for route in RIGHT}}
    return chart_of(map_of(across, opening=part), lambda part, cell, route, trial: RIGHT[route], problems=20)


def test_a_gain_is_over_the_untrained_student_at_t_1_and_at_its_best(warm):
    rows = charts.differences(warm, "opening", "student", ["micro-math"], (T1, BEST), WHERE)
    found = rows.set_index(["route", "decoding"])["difference"]
    # At its best the untrained student is greedy, with ten of ten; trained routes have the main decoding
    expected = {(OPD, T1): 0.7, (OPD, BEST): 0.0, (BRIDGE, T1): 0.6, (BRIDGE, BEST): -0.1}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    figure = charts.gains_figure(warm, "opening", "micro-math", "What is left", WHERE)
    place = charts.cell_page("opening", "opening=0.6,warmup=1/4")
    assert [line.get_url() for line in figure.axes[0].lines].count(place) == len(rows)
    cell = {"opening": "0.6", "warmup": "1/4"}
    line = charts.accuracy_line(warm, "opening", OPD, "micro-math", [(0, cell, T1), (1, cell, GREEDY)])
    assert (list(line.mean), line.page) == (pytest.approx([90.0, 80.0]), place)


def test_what_becomes_of_an_order_greedily(warm):
    rows = charts.orders(warm, "opening", "micro-math", WHERE)
    assert {(row.route, row.than): row.greedily for row in rows.itertuples()} == {
        (OPD, BRIDGE): "turned round",
        (OPD, FORWARD): "the same",
        (BRIDGE, FORWARD): "appears",
    }
    shown = charts.differences_table(rows[rows["greedily"] == "turned round"], "decoding")
    assert [shown[at][0].split(" [")[0] for at in (T1, GREEDY)] == ["+10.0", "-10.0"]


def test_the_lesson_is_there_in_the_committed_map(root):
    """What notebook 03 says in words: at an opening of 0.6 the whole gain is a temperature, at 0.03 it is not."""
    chart = Chart(load_profile("map").map, read_map(root / "figures" / "map" / "results"), load_study())
    for opening in ("0.6", "0.03"):
        where = {"opening": opening, "warmup_of_40": "1/4"}
        rows = charts.differences(chart, "opening", "student", ["micro-math", "micro-aime"], (T1, BEST), where)
        at_t1, at_best = (rows[rows["decoding"] == at] for at in (T1, BEST))
        assert (at_t1["difference low"] > 0.4).all()
        if opening == "0.6":
            assert ((at_best["difference low"] < 0) & (at_best["difference high"] > 0)).all()
        else:
            assert (at_best["difference low"] > 0.9).all()


def test_labels_that_match_are_interpolated_and_censored():
    rising, falling, flat = [0.2, 0.4, 0.8], [0.2, 0.5, 0.3], [0.2, 0.2, 0.4]
    needed = {
        (0.6, *rising): 32, (0.2, *rising): 4, (0.1, *rising): 0, (0.81, *rising): math.inf,
        # What falls is pooled, and of a flat stretch the beginning counts, unless one goes on from it
        (0.4, *falling): 16, (0.3, *flat): 32,
    }  # fmt: skip
    labels = np.array([4.0, 16.0, 64.0])
    assert {what: charts.labels_needed(labels, np.array(what[1:]), what[0]) for what in needed} == pytest.approx(needed)


def test_a_bridge_is_worth_so_many_labels_of_direct_grpo():
    across = {"labels": ["4", "16", "64"], "opening": ["wide", "narrow"]}
    at = {GRPO: {"wide": [2, 4, 8], "narrow": [0, 1, 2]}, BRIDGE: {"wide": [6, 8, 9], "narrow": [3, 8, 9]}}
    part = {"title": "Who?", "across": across, "routes": {GRPO: {}, BRIDGE: {}}}
    right = lambda p, c, route, t: {"main": at[route][c["opening"]][across["labels"].index(c["labels"])]}  # noqa: E731
    table = charts.labels_table(chart_of(map_of(across, labels=part), right), "micro-math")
    wide = table[table["opening"] == "wide"]
    assert wide["needed"].tolist() == pytest.approx([32, 64, math.inf])
    assert wide["most"].tolist() == wide["fewest"].tolist() == wide["needed"].tolist()
    assert table["difference"].tolist() == pytest.approx([0.4, 0.4, 0.1, 0.3, 0.7, 0.7])
    assert table["mixed"].tolist() == pytest.approx([0.1, 0.2, 0.4, 0.0, 0.05, 0.1])
