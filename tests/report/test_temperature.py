"""Gains and orders by decoding on results made by hand, and the lesson that notebook 03 tells on the committed ones."""

import pandas as pd
import pytest

from s2d_lib.report.map import BEST, BRIDGE, FORWARD, OPD, Chart, cell_page
from s2d_lib.report.temperature import (
    GREEDY,
    T1,
    cells_at,
    decodings_figure,
    gains,
    gains_figure,
    orders,
    readable_gains,
    readable_orders,
)
from s2d_lib.results.map import DIGITS, MapResults, read_map
from s2d_lib.study import load_profile, load_study
from s2d_lib.study.profile import Map, settings_text
from s2d_lib.study.settings import Evaluation

EVALUATION = Evaluation(
    samples=10, temperature=0.7, also={T1: {"temperature": 1}, GREEDY: {"temperature": 0}}, untrained=[1.5]
)
# Route -> right samples of ten by decoding: all learn to be greedy, and the order turns round
RIGHT = {
    "student": {"main": 5, T1: 2, GREEDY: 10, "T 1.5": 1},
    OPD: {"main": 10, T1: 9, GREEDY: 8},
    BRIDGE: {"main": 9, T1: 8, GREEDY: 9},
    FORWARD: {"main": 9, T1: 8, GREEDY: 6},
}
ACROSS = {"opening": ["0.6"], "warmup": ["1/4", "1/2"]}
MAP = Map(
    dials={dial: {value: {} for value in values} for dial, values in ACROSS.items()},
    parts={"opening": {"title": "When?", "across": ACROSS, "routes": {route: {} for route in RIGHT}}},
)


@pytest.fixture
def chart() -> Chart:
    """Two seeds and twenty problems, every problem equally hard."""
    placed, runs, cells = [], [], []
    for cell in MAP.parts["opening"].cells:
        for route, right in RIGHT.items():
            run = f"{route}@{cell['warmup']}"
            for seed in (0, 1):
                placed.append(("opening", settings_text(cell), route, "", seed, run))
                runs.append((run, seed, float("nan") if route == "student" else 1.0))
                cells += [(run, seed, "micro-math", at, 10, DIGITS[count] * 20) for at, count in right.items()]
    results = MapResults(
        pd.DataFrame(placed, columns=["part", "cell", "route", "trial", "seed", "run"]),
        pd.DataFrame(runs, columns=["run", "seed", "validation"]),
        pd.DataFrame(cells, columns=["run", "seed", "set", "decoding", "samples", "right"]),
    )
    return Chart(MAP, results, load_study())


@pytest.fixture
def cells(chart):
    """One share of warmup."""
    return cells_at(chart, "opening", {"warmup": "1/4"})


def test_a_gain_is_over_the_untrained_student_at_t_1_and_at_its_best(chart, cells):
    assert cells == [{"opening": "0.6", "warmup": "1/4"}]
    rows = gains(chart, "opening", cells, "micro-math").set_index(["route", "student"])["difference"]
    # At its best the untrained student is greedy, with ten of ten; trained routes have the main decoding
    expected = {(OPD, T1): 0.7, (OPD, BEST): 0.0, (BRIDGE, T1): 0.6, (BRIDGE, BEST): -0.1}
    assert {key: rows[key] for key in expected} == pytest.approx(expected)


def test_what_becomes_of_an_order_greedily(chart, cells):
    rows = orders(chart, "opening", cells, "micro-math")
    assert {(row.of, row.over): row.greedily for row in rows.itertuples()} == {
        (OPD, BRIDGE): "turned round",
        (OPD, FORWARD): "the same",
        (BRIDGE, FORWARD): "appears",
    }
    text = readable_orders(rows).iloc[0]
    assert text["at T = 1"].startswith("+10.0 [")
    assert text["greedy"].startswith("-10.0 [")


def test_the_figures_say_the_gains_and_lead_to_the_cells(chart, cells):
    figure = decodings_figure(chart, EVALUATION, {"opening 0.6": ("opening", cells[0])}, "micro-math", "By decoding")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["T 1.5", "T 1", "T 0.7", "greedy"]
    minus = "\N{MINUS SIGN}"
    assert {text.get_text() for text in axes.texts} == {"+60 to\n+70", "+40 to\n+50", f"{minus}40 to\n{minus}10"}
    place = cell_page("opening", settings_text(cells[0]))
    (title,) = axes.findobj(lambda artist: artist.get_url() == place)
    assert title.get_text() == "opening 0.6 (2 seeds)"
    rows = {"opening": gains(chart, "opening", cells, "micro-math")}
    (axes,) = gains_figure(chart, rows, {"opening": "opening"}, "What is left", "points").axes
    assert [line.get_url() for line in axes.lines].count(place) == len(rows["opening"])


@pytest.mark.parametrize("name", ["micro-math", "micro-aime"])
def test_the_lesson_is_there_in_the_committed_map(root, name):
    """What notebook 03 says in words: at an opening of 0.6 the whole gain is a temperature, at 0.03 it is not."""
    profile = load_profile("map")
    chart = Chart(profile.map, read_map(root / "figures" / "map" / "results"), load_study())
    found = {
        opening: gains(chart, "opening", cells_at(chart, "opening", {"opening": opening, "warmup_of_40": "1/4"}), name)
        for opening in ("0.6", "0.03")
    }
    text = readable_gains({name: pd.concat(found.values())})
    assert text.shape == (6, 2)
    for opening, rows in found.items():
        at_t1, at_best = (rows[rows["student"] == at] for at in (T1, BEST))
        assert (at_t1["low"] > 0.4).all()
        if opening == "0.6":
            assert ((at_best["low"] < 0) & (at_best["high"] > 0)).all()
        else:
            assert (at_best["low"] > 0.9).all()
