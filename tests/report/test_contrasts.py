"""Contrasts, accuracies by level and costs: the right numbers of the right routes, and refusals."""

import dataclasses

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.plan.cost import shape_of
from s2d_lib.report import contrasts as extra
from s2d_lib.report.contrasts import CONSTANT
from s2d_lib.report.study_table import study_table
from s2d_lib.results.bundle import Bundle
from tests.claims.synthetic import COLUMNS


def test_a_difference_is_that_of_the_pairs_means_and_a_missing_run_is_named(full):
    for row in extra.contrasts(full, "stage_3").numbers.to_dict("records"):
        first, second = (full.bundle.accuracy(row[end], "micro-math").to_numpy().mean() for end in ("first", "second"))
        assert row["micro-math difference"] == pytest.approx(first - second)
    records = {key: r for key, r in full.bundle.records.items() if key[0] != "student.bridge.rl_large_teacher"}
    partial = dataclasses.replace(full, bundle=dataclasses.replace(full.bundle, records=records))
    with pytest.raises(StudyError, match=r"hold no run of 'student\.bridge\.rl_large_teacher'"):
        extra.contrasts(partial, "placement")


ROUTES = ["student", "student.grpo"]


@pytest.fixture
def leveled() -> Bundle:
    """Two seeds, two levels of two problems: the student right in 1 of 4 samples, after GRPO always on `count`."""
    right = {"student": {"count": "0100", "lcm": "0001"}, "student.grpo": {"count": "1111", "lcm": "0101"}}
    rows = [
        (seed, checkpoint, "tasks", f"{level}/{i}", level, bits, 2.0, 0.0)
        for seed in (0, 1)
        for checkpoint, of_level in right.items()
        for level, bits in of_level.items()
        for i in range(2)
    ]
    constant = pd.DataFrame({"set": ["tasks"], "level": ["count"], "problems": [2], "answer": ["1"], "share": [0.5]})
    samples = pd.DataFrame(
        {"seed": 0, "checkpoint": ROUTES, "set": "tasks", "problem": "count/0", "prompt": "How many l in `all`?",
         "answer": "2", "completion": ["two\nor so", " 2"], "correct": [False, True]}
    )  # fmt: skip
    return Bundle(pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(), {}, constant=constant, samples=samples)


def test_accuracies_by_level_with_the_constant_answer_last(leveled):
    sheet = extra.by_level(leveled, ROUTES, "tasks", "By task")
    assert sheet.numbers["checkpoint"].tolist() == [*ROUTES, "", *ROUTES]
    assert sheet.numbers["accuracy"].tolist() == [0.25, 1.0, 0.5, 0.25, 0.5]
    shown = sheet.show()
    assert shown["route"].tolist() == ["base student", "direct GRPO", CONSTANT]
    assert list(shown) == ["route", "count (2), %", "lcm (2), %"]
    assert shown["count (2), %"].tolist()[1:] == ["100.0 [15.8, 100.0]", "50.0"]  # 0.025^(1/2): Clopper, Pearson
    count, lcm = extra.levels_figure(sheet).axes
    assert (count.get_title(loc="left"), lcm.get_title(loc="left")) == ("count", "lcm")
    assert [line.get_xdata()[0] for line in count.lines if line.get_linestyle() == "--"] == [50.0]
    with pytest.raises(StudyError, match=r"no results of 'student\.srpo'"):
        extra.by_level(leveled, ["student.srpo"], "tasks", "t")


def test_completions_stand_side_by_side_with_the_right_ones_marked(leveled):
    assert extra.completions_beside(leveled, ROUTES).to_dict("records") == [
        {"problem": "How many l in 'all'?", "right answer": "2", "base student": "two ⏎ or so", "direct GRPO": "2 ✓"}
    ]
    assert extra.completions_beside(dataclasses.replace(leveled, samples=leveled.samples.iloc[:0]), ROUTES).empty


def test_a_routes_flops_are_those_of_all_that_it_is_made_from(full):
    models = (full.bundle.records[role, 0]["resolved"]["model"]["model"] for role in ("student", "teacher"))
    own, teacher = (shape_of(model).multiplied for model in models)
    grpo = lambda n: 6 * n * 900 + 2 * n * 1200  # noqa: E731  tokens trained on and sampled, of every run that trains
    assert extra.route_flops(full.bundle, "student", 0) == 0
    stored = {n for n, s in full.bundle.records if s == 0 and n.startswith("teacher.rl.rollouts")}
    warm, rollouts = (extra.route_flops(full.bundle, n, 0) for n in ("student.warm.rl_teacher", stored.pop()))
    assert warm - rollouts == grpo(own) + 2 * teacher * 900  # the teacher scored what was trained on
    costs = extra.route_costs(full.bundle, study_table(full, "headline")).set_index("route")["training FLOPs"]
    assert costs["direct GRPO"] == f"{grpo(own):.2g}"
