"""Labels on the map, on results made by hand: how many match, what the figures show."""

import math

import numpy as np
import pandas as pd
import pytest

from s2d_lib.report.map import BRIDGE, Chart
from s2d_lib.report.map_labels import (
    GRPO,
    labels_figure,
    labels_needed,
    labels_table,
    mixed_figure,
    mixed_rank,
    prompts_figure,
    readable_labels,
)
from s2d_lib.results.map import DIGITS, MapResults
from s2d_lib.study import load_study
from s2d_lib.study.profile import Map, settings_text

BUDGETS = ["4", "16", "64"]
ROUTES = {route: {} for route in (GRPO, "teacher.rl", BRIDGE)}
CHART = Map(
    dials={
        "labels": {text: {} for text in BUDGETS},
        "labeled_prompts": {text: {} for text in BUDGETS},
        "opening": {"wide": {}, "narrow": {}},
        "prompts": {"128": {}, "512": {}},
    },
    parts={
        "labels": {"title": "Who?", "across": {"labels": BUDGETS, "opening": ["wide", "narrow"]}, "routes": ROUTES},
        "prompts": {"title": "What?", "across": {"labels": BUDGETS, "prompts": ["128", "512"]}, "routes": {BRIDGE: {}}},
        "labeled": {"title": "And?", "across": {"labeled_prompts": BUDGETS}, "routes": {BRIDGE: {}}},
    },
)  # fmt: skip
GRPO_AT = {"wide": [0.2, 0.4, 0.8], "narrow": [0.0, 0.1, 0.2]}  # accuracies at the budgets
BRIDGE_AT = {"wide": [0.6, 0.8, 0.9], "narrow": [0.3, 0.8, 0.9]}


@pytest.fixture
def chart() -> Chart:
    """Two seeds, four problems, ten samples each."""
    placed, runs, cells = [], [], []
    for part, spec in CHART.parts.items():
        for cell in spec.cells:
            place, opening = BUDGETS.index(cell.get("labels", cell.get("labeled_prompts"))), cell.get("opening", "wide")
            for route in spec.routes:
                share = (GRPO_AT if route == GRPO else BRIDGE_AT)[opening][place]
                for seed in (0, 1):
                    run = f"{route}@{part}{settings_text(cell)}"
                    placed.append((part, settings_text(cell), route, "", seed, run))
                    runs.append((run, seed, share, share / 2 if route == GRPO else np.nan))
                    cells.append((run, seed, "micro-math", "main", 10, DIGITS[round(10 * share)] * 4))
    results = MapResults(
        pd.DataFrame(placed, columns=["part", "cell", "route", "trial", "seed", "run"]),
        pd.DataFrame(runs, columns=["run", "seed", "validation", "mixed_groups"]),
        pd.DataFrame(cells, columns=["run", "seed", "set", "decoding", "samples", "right"]),
    )
    return Chart(CHART, results, load_study())


def test_labels_that_match_are_interpolated_and_censored():
    labels, rising = np.array([4.0, 16.0, 64.0]), np.array([0.2, 0.4, 0.8])
    assert labels_needed(labels, rising, 0.6) == pytest.approx(32)
    assert labels_needed(labels, rising, 0.2) == pytest.approx(4)
    assert labels_needed(labels, rising, 0.1) == 0
    assert labels_needed(labels, rising, 0.81) == math.inf
    # What falls is pooled, and of a flat stretch the beginning counts
    assert labels_needed(labels, np.array([0.2, 0.5, 0.3]), 0.4) == pytest.approx(16)


def test_a_bridge_is_worth_so_many_labels_of_direct_grpo(chart):
    table = labels_table(chart, "micro-math")
    wide = table[table["opening"] == "wide"]
    assert wide["needed"].tolist() == pytest.approx([32, 64, math.inf])
    assert wide["most"].tolist() == wide["fewest"].tolist() == wide["needed"].tolist()
    assert table["difference"].tolist() == pytest.approx([0.4, 0.4, 0.1, 0.3, 0.7, 0.7])
    assert table["mixed"].tolist() == pytest.approx([0.1, 0.2, 0.4, 0.0, 0.05, 0.1])
    shown = readable_labels(table)
    assert shown["labels that direct GRPO needs"].tolist()[1:3] == [
        "64 (seeds: 64 to 64)",
        "over 64 (seeds: over 64 to over 64)",
    ]
    rank, chance = mixed_rank(table)
    assert -1 <= rank <= 1
    assert 0 <= chance <= 1


def test_figures_of_labels_have_a_line_a_route_and_budget(chart):
    figure = labels_figure(chart, "micro-math")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["opening wide", "opening narrow"]
    assert len(figure.legends[0].get_texts()) == len(ROUTES)
    assert [text.get_text() for text in prompts_figure(chart, "micro-math").legends[0].get_texts()] == [
        "labeled prompts only", "128 prompts", "512 prompts",
    ]  # fmt: skip
    assert len(mixed_figure(labels_table(chart, "micro-math"), "micro-math").legends[0].get_texts()) == len(BUDGETS)
