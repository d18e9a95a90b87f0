"""The map on results made by hand: which trial counts, what a warmup brings, what a cell's page says."""

import numpy as np
import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.problems.sources import load_problems
from s2d_lib.report.map import (
    BEST,
    BRIDGE,
    FORWARD,
    OPD,
    Chart,
    cell_page,
    cells_table,
    routes_table,
    surface,
    write_pages,
)
from s2d_lib.report.map_figures import cells_figure, dial_figure, warmup_figure
from s2d_lib.results.map import DIGITS, MapResults
from s2d_lib.study import load_profile, load_study, points, resolve
from s2d_lib.study.profile import Map, settings_of, settings_text

DIALS = {
    "opening": {"wide": {}, "narrow": {"seeds": [7]}},
    "warmup": {"1/4": {}, "1/2": {}},
    "rate": {"low": {}, "high": {}},
}
ROUTES = {"student": {}, OPD: {}, BRIDGE: {"rate": ["low", "high"]}, FORWARD: {}}
PART = {"title": "When?", "across": {"opening": ["wide", "narrow"], "warmup": ["1/4", "1/2"]}, "routes": ROUTES}
CHART = Map(dials=DIALS, parts={"opening": PART})
# Route and trial -> share of right samples, plus 0.1 for every step along the dials
LEVELS = {
    ("student", ""): 0.1,
    (OPD, ""): 0.2,
    (BRIDGE, "rate=low"): 0.4,
    (BRIDGE, "rate=high"): 0.6,
    (FORWARD, ""): 0.3,
}


def results() -> MapResults:
    """Two seeds, four problems, ten samples each; every problem equally hard."""
    placed, runs, cells = [], [], []
    for place, cell in enumerate(CHART.parts["opening"].cells):
        for (route, trial), level in LEVELS.items():
            share = level + 0.1 * (place // 2) * (route == BRIDGE)
            for seed in (0, 1):
                run = f"{route}@{place}{trial}"
                placed.append(("opening", settings_text(cell), route, trial, seed, run))
                runs.append((run, seed, 1.0, 200, 0, share if route != "student" else np.nan))
                right = DIGITS[round(10 * share)] * 4
                cells.append((run, seed, "micro-math", "main", 10, right))
                cells.append((run, seed, "micro-math", "t1", 10, "0000"))
                if route == "student":
                    cells.append((run, seed, "micro-math", "T 0.5", 10, "2222"))
    return MapResults(
        pd.DataFrame(placed, columns=["part", "cell", "route", "trial", "seed", "run"]),
        pd.DataFrame(runs, columns=["run", "seed", "seconds", "steps", "gradings", "validation"]),
        pd.DataFrame(cells, columns=["run", "seed", "set", "decoding", "samples", "right"]),
    )


@pytest.fixture
def chart() -> Chart:
    """The map above."""
    return Chart(CHART, results(), load_study())


def test_the_trial_that_ends_best_on_validation_problems_counts(chart):
    trial, runs = chart.runs("opening", {"opening": "wide", "warmup": "1/4"}, BRIDGE)
    assert trial == "rate=high"
    assert [seed for _, seed in runs] == [0, 1]


def test_a_warmup_is_compared_with_opd_alone(chart):
    rows = surface(chart, "opening", "micro-math")
    found = {(row.opening, row.warmup): round(row.difference, 6) for row in rows.itertuples()}
    assert found == {
        ("wide", "1/4"): 0.4, ("wide", "1/2"): 0.4, ("wide", "1"): 0.1,
        ("narrow", "1/4"): 0.5, ("narrow", "1/2"): 0.5, ("narrow", "1"): 0.1,
    }  # fmt: skip
    assert (rows["low"] <= rows["difference"]).all()
    assert (rows["difference"] <= rows["high"]).all()


def test_an_untrained_model_stands_at_its_best_decoding_too(chart):
    table = cells_table(chart)
    student = table[table["route"] == "student"].drop_duplicates("decoding").set_index("decoding")["accuracy"]
    assert student.to_dict() == pytest.approx({"main": 0.1, "t1": 0.0, BEST: 0.2})
    assert BEST not in set(table.loc[table["route"] == OPD, "decoding"])


def test_every_cell_has_a_place_to_be_linked_to(chart, tmp_path):
    write_pages(chart, cells_table(chart), tmp_path)
    page = (tmp_path / "cells" / "opening.md").read_text("utf-8")
    for cell in chart.parts["opening"].cells:
        anchor = cell_page("opening", settings_text(cell)).partition("#")[2]
        assert page.count(f'<a id="{anchor}"></a>') == 1
    assert "seed 1" in page


def test_figures_link_their_cells(chart):
    rows = surface(chart, "opening", "micro-math")
    figure = warmup_figure(
        chart, {"opening": rows}, {"opening": "opening"}, "What a warmup brings", {"opening": "wide"}
    )
    links = [text.get_url() for axes in figure.axes for text in axes.texts]
    assert links == [cell_page("opening", cell) for cell in rows["cell"]]
    assert dial_figure(chart, "opening", ["student", OPD], "Routes", "opening", {"warmup": "1/4"}).axes


def test_all_routes_stand_side_by_side_in_a_figure_and_a_table(chart):
    figure = cells_figure(chart, "opening", "Ends")
    cells = CHART.parts["opening"].cells
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"opening {cell['opening']}, warmup {cell['warmup']}" for cell in cells]
    table = routes_table(chart, "opening")
    assert len(table) == len(ROUTES) + 1  # the untrained student stands twice
    assert table.iloc[1]["opening wide, warmup 1/4: micro-math"].startswith("20.0 [")


def test_what_is_not_there_is_said():
    found = results()
    with pytest.raises(StudyError, match=r"no 'student\.grpo' in the cell"):
        found.best_trial("opening", "opening=wide,warmup=1/4", "student.grpo")
    with pytest.raises(StudyError, match="at decoding 'greedy'"):
        found.accuracy([(f"{OPD}@0", 0)], "micro-math", "greedy")


def test_settings_are_words_and_back():
    assert settings_of(settings_text({"opening": "1e-4", "warmup": "1/2"})) == {"opening": "1e-4", "warmup": "1/2"}
    assert settings_of("") == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"across": {"hidden": ["2"]}}, "turns 'hidden' to '2', which is not declared"),
        ({"across": {"opening": ["none"]}}, "turns 'opening' to 'none', which is not declared"),
        ({"routes": {OPD: {"rate": ["low"]}, BRIDGE: {"rate": ["low", "high"]}}}, "same number of trials"),
    ],
)
def test_a_map_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Map(dials=DIALS, parts={"opening": PART | changes})


def test_the_profile_lays_its_dials_over_its_runs():
    """All points resolve; runs that a dial does not touch are the same run, whatever cell asks for it."""
    settings = load_profile("map")
    asked = [p for p in points("map") if p.part in ("opening", "labels", "prompts", "labeled", "reward")]
    found = {
        (p.part, settings_text(p.cell), p.route, settings_text(p.trial)): resolve("map", p.route, 0, p.overrides)
        for p in asked
    }
    teachers = {
        r.parent_hashes["teacher.rl"] for (part, *_), r in found.items() if part == "opening" and r.stage == "opd"
    }
    assert len(teachers) == 1
    opd = {r.hash for (part, cell, route, _), r in found.items() if part == "opening" and route == OPD}
    assert len(opd) == len(settings.map.parts["opening"].across["opening"])
    for (part, cell, route, _), run in found.items():
        if part == "labels" and route == "student.grpo":
            assert run.problems.pool.labels == int(settings_of(cell)["labels"])
        if part == "prompts":
            pool = run.problems.pool
            assert (pool.count if hasattr(pool, "count") else pool.labels) == int(settings_of(cell)["prompts"])
        if part == "labeled":
            assert run.problems.pool.labels == int(settings_of(cell)["labeled_prompts"])


def test_more_labels_than_problems_are_refused():
    with pytest.raises(StudyError, match="can't be 4096 of the 2048 problems"):
        resolve("map", "student.grpo", 0, {"problems": {"labels": 4096}})
    unbounded = {"labels": 64, "pools": {"full": {"limit": None}}}
    with pytest.raises(StudyError, match=r"cut the pool 'full', whose size is not known: give it a `limit`"):
        resolve("qwen3", "student.grpo", 0, {"problems": unbounded})


def test_halves_are_of_the_labeled_problems():
    names = ("teacher.rl", "teacher.rl_1H", "student.grpo_2H", "student.bridge.rl_teacher_1H")
    runs = [resolve("map", name, 0, {"problems": {"labels": 512, "prompts": 1024}}) for name in names]
    labeled, first, second, bridge = ({p.id for p in load_problems(run.problems).pool} for run in runs)
    assert (len(labeled), len(first), len(second)) == (512, 256, 256)
    assert first | second == labeled
    assert bridge == first  # what the teacher has learned from, whatever prompts there are beside it
