"""The label frontier from a made-up study: points, tables, figure, and one sentence for what is missing."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims import bootstrap
from s2d_lib.errors import StudyError
from s2d_lib.report.frontier import (
    crossings_table,
    direct_route,
    frontier_results,
    frontier_table,
    readable_crossings,
    readable_frontier,
    say_labels,
    write_frontier,
)
from s2d_lib.report.frontier_figure import frontier_figure
from s2d_lib.report.style import save_figure
from s2d_lib.results.bundle import Bundle
from s2d_lib.study.load import load_profile, load_study
from s2d_lib.study.nodes import all_nodes, parents_of
from tests.claims.synthetic import bundle_of

BUDGETS = [8, 16, 32, 64]
WHOLE = 128
TRUE = {
    "student.grpo": [0.1, 0.2, 0.35, 0.55, 0.7],
    "student.bridge.raw_teacher": [0.3, 0.3, 0.3, 0.3, 0.3],
    "student.bridge.rl_teacher": [0.4, 0.6, 0.75, 0.8, 0.85],
    "student.bridge.rl_teacher.grpo": [0.05, 0.6, 0.7, 0.85, 0.9],
}
SETS = {"micro-math": 60, "micro-aime": 40}


@pytest.fixture(scope="module")
def study():
    return load_study()


@pytest.fixture(scope="module")
def settings():
    return load_profile("micro", {"frontier": {"budgets": BUDGETS, "seeds": [0, 1, 2]}})


@pytest.fixture(scope="module")
def bundle(study) -> Bundle:
    """Every run of the frontier with five seeds, as where the study has more than the frontier."""
    nodes, records, accuracies = all_nodes(study, BUDGETS), {}, {}
    pool = [f"p{n}" for n in range(WHOLE)]
    for name, node in nodes.items():
        size = int((node.labels or "").partition("@")[2] or WHOLE)
        labels = pool[:size] if node.stage == "sparse_rl" else []
        facts = {"parents": parents_of(node), "stage": node.stage, "pool": node.labels}
        records[name] = facts | {"labels": labels, "gradings": 8 * len(labels)}
    for route, means in TRUE.items():
        for budget, mean in zip([*BUDGETS, WHOLE], means, strict=True):
            name = route if budget == WHOLE else f"{route}@{budget}"
            accuracies[name] = {"micro-math": mean, "micro-aime": 0.4 * mean}
    return bundle_of(accuracies, records, 5, SETS, np.random.default_rng(3))


@pytest.fixture(scope="module")
def frontier(bundle, study, settings):
    return frontier_results(bundle, study, settings, "micro")


@pytest.fixture(scope="module")
def tables(frontier):
    return frontier_table(frontier), crossings_table(frontier)


def test_points_are_the_checkpoints_at_their_budgets_on_the_frontiers_seeds(frontier, bundle):
    assert (frontier.direct, frontier.problems, frontier.seeds) == ("student.grpo", [8, 16, 32, 64, WHOLE], [0, 1, 2])
    values = frontier.curves["micro-math"].values["student.bridge.rl_teacher"]
    assert values.shape == (5, 3, SETS["micro-math"])
    own = bundle.accuracy("student.bridge.rl_teacher@16", "micro-math").loc[[0, 1, 2]].to_numpy()
    assert (values[1] == own).all()


def test_one_row_a_point_with_the_tables_interval_its_labels_and_its_match(tables, frontier):
    numbers, _ = tables
    assert len(numbers) == len(SETS) * len(TRUE) * 5
    part = numbers[numbers["set"] == "micro-math"].set_index(["route", "problems"])
    raw, bridge = part.loc["student.bridge.raw_teacher"], part.loc["student.bridge.rl_teacher"]
    assert raw["labels"].tolist() == [0] * 5
    assert bridge["labels"].tolist() == [8, 16, 32, 64, WHOLE]
    expected = bootstrap(frontier.curves["micro-math"].values["student.bridge.rl_teacher"][1])
    assert (bridge.loc[16, "accuracy"], bridge.loc[16, "low"]) == (expected.mean, expected.low)
    assert (bridge["difference low"] <= bridge["difference"]).all()
    assert 32 < bridge.loc[8, "labels to match"] < 64  # 0.4 is between 0.35 and 0.55
    assert bridge.loc[8, "ratio"] == bridge.loc[8, "labels to match"] / 8
    assert bridge.loc[WHOLE, "labels to match"] == math.inf
    assert part.loc["student.bridge.rl_teacher.grpo"].loc[8, "labels to match"] == 0
    assert part.loc["student.grpo"]["labels to match"].isna().all()


def test_crossings_and_pairs_without_one(tables):
    crossed = tables[1][tables[1]["set"] == "micro-math"].set_index("route")
    raw = crossed.loc["student.bridge.raw_teacher"]
    assert 16 < raw["labels"] < 32
    assert raw["low"] <= raw["labels"] <= raw["high"]
    assert raw["ahead"] == "student.grpo"
    bridge = crossed.loc["student.bridge.rl_teacher"]
    assert (math.isnan(bridge["labels"]), bridge["ahead"]) == (True, "student.bridge.rl_teacher")


def test_readers_see_what_is_only_known_to_lie_beyond(tables, frontier):
    shown = readable_frontier(tables[0], frontier)[
        "How many labels does direct GRPO need to match the bridge? (micro-math)"
    ]
    bridge = shown[shown["route"] == "bridge, RL teacher"].iloc[-1]
    assert bridge["labels to match"].startswith("> 128 [")
    assert bridge["times as many"].startswith("> 1 [")
    assert shown.iloc[0]["difference"] == "reference"
    crossed = readable_crossings(tables[1], frontier)
    assert "none" in crossed["crosses direct GRPO at"].tolist()
    assert crossed["ahead"].str.contains("throughout|from there").all()


@pytest.mark.parametrize(
    ("value", "per", "text"),
    [(310.4, 1, "310"), (math.inf, 1, "> 512"), (0.0, 1, "< 8"), (310.4, 64.0, "4.8"), (math.inf, 64.0, "> 8")],
)
def test_numbers_of_labels_in_words(value, per, text):
    assert say_labels(value, [8, 64, 512], per) == text


def test_the_forms(tables, frontier, tmp_path):
    write_frontier(*tables, frontier, tmp_path, "Made up.")
    numbers = pd.read_csv(tmp_path / "frontier.csv")
    assert np.isinf(numbers["labels to match"]).any()
    for name in ("frontier", "frontier_crossings"):
        assert (tmp_path / f"{name}.md").read_text().endswith("Made up.\n")
    tex = (tmp_path / "frontier.tex").read_text()
    assert tex.count(r"\begin{tabular}") == len(SETS)


def test_the_figure_has_two_panels_a_set_and_marks_the_crossings(tables, frontier, tmp_path):
    figure = frontier_figure(*tables, frontier)
    assert len(figure.axes) == 2 * len(SETS)
    rings = [line for axes in figure.axes for line in axes.lines if line.get_markersize() == 9]
    crossed = tables[1][tables[1]["labels"].notna()]
    known = (crossed["low"] >= frontier.problems[0]) | (crossed["high"] <= frontier.problems[-1])
    assert len(crossed) > len(rings) == known.sum() > 0  # one that may lie anywhere is not drawn
    assert all(
        len(axes.collections) == len(TRUE) for axes in figure.axes[: len(SETS)]
    )  # every curve with its intervals
    assert all(path.stat().st_size for path in save_figure(figure, tmp_path, "frontier"))
    plt.close(figure)


def test_a_missing_run_is_named_with_its_remedy(bundle, study, settings):
    records = {key: record for key, record in bundle.records.items() if key != ("student.bridge.rl_teacher@16", 1)}
    with pytest.raises(StudyError) as error:
        frontier_results(Bundle(bundle.evaluation, bundle.curves, records), study, settings, "micro")
    assert str(error.value) == (
        "the label frontier lacks the run 'student.bridge.rl_teacher@16', seed 1: make it with `make study PROFILE=micro`."
    )


def test_a_run_on_fewer_problems_is_refused(bundle, study, settings):
    rows = bundle.evaluation
    cut = rows[~((rows["checkpoint"] == "student.grpo@16") & (rows["problem"] == "micro-math/3"))]
    with pytest.raises(
        StudyError, match=r"'student.grpo@16' lacks seeds or problems of 'student.grpo' on 'micro-math'"
    ):
        frontier_results(Bundle(cut, bundle.curves, bundle.records), study, settings, "micro")


def test_a_study_without_a_frontier_or_without_a_direct_route_is_refused(bundle, study, settings):
    with pytest.raises(StudyError, match=r"'small' has no label frontier: add `frontier: \{budgets, seeds\}`"):
        frontier_results(bundle, study, settings.model_copy(update={"frontier": None}), "small")
    assert direct_route(study) == "student.grpo"
    bridges = study.frontier.model_copy(update={"routes": ["student.bridge.rl_teacher"]})
    with pytest.raises(
        StudyError, match="exactly one route of sparse RL from a base model to compare with, it has none"
    ):
        direct_route(study.model_copy(update={"frontier": bridges}))
