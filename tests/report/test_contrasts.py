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
from tests.claims.conftest import evaluation


def test_a_missing_run_of_a_contrast_is_named(full):
    records = {key: r for key, r in full.bundle.records.items() if key[0] != "student.bridge.rl_large_teacher"}
    partial = dataclasses.replace(full, bundle=dataclasses.replace(full.bundle, records=records))
    with pytest.raises(StudyError, match=r"hold no run of 'student\.bridge\.rl_large_teacher'"):
        extra.contrasts(partial, "placement")


ROUTES = ["student", "student.grpo"]


@pytest.fixture
def leveled() -> Bundle:
    """Two seeds, two levels of two problems: the student right in 1 of 4 samples, after GRPO always on `count`."""
    right = {"student": {"count": "0100", "lcm": "0001"}, "student.grpo": {"count": "1111", "lcm": "0101"}}
    of = {name: {f"{level}/{i}": own[level] for level in own for i in range(2)} for name, own in right.items()}
    rows = evaluation({(seed, name, "tasks"): own for seed in (0, 1) for name, own in of.items()})
    rows = rows.assign(level=rows["problem"].str.partition("/")[0])
    constant = pd.DataFrame({"set": ["tasks"], "level": ["count"], "problems": [2], "answer": ["1"], "share": [0.5]})
    samples = pd.DataFrame(
        {"seed": 0, "checkpoint": ROUTES, "set": "tasks", "problem": "count/0", "prompt": "How many l in `all`?",
         "answer": "2", "completion": ["two\nor so", " 2"], "correct": [False, True]}
    )  # fmt: skip
    return Bundle(rows, pd.DataFrame(), {}, constant=constant, samples=samples)


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
    base, grpo, teacher, rollouts, warm = names = (
        "student", "student.grpo", "teacher", "teacher.rl.rollouts.full", "student.warm.rl_teacher",
    )  # fmt: skip
    records = {name: full.bundle.records[name, 0] for name in names}
    size = {name: shape_of(records[name]["resolved"]["model"]["model"]).multiplied for name in (base, teacher)}
    flops = {name: extra.route_flops(full.bundle, name, 0) for name in (base, grpo, rollouts, warm)}
    trained, sampled = records[grpo]["trained_tokens"], records[grpo]["sampled"]["tokens"]
    assert (flops[base], flops[grpo]) == (0, 6 * size[base] * trained + 2 * size[base] * sampled)
    scored = records[warm]["trained_tokens"]  # by the teacher, what the student was trained on
    assert flops[warm] - flops[rollouts] == 6 * size[base] * scored + 2 * size[teacher] * scored
    costs = extra.route_costs(full.bundle, study_table(full, "headline")).set_index("route")["training FLOPs"]
    assert costs["direct GRPO"] == f"{(flops[grpo] + extra.route_flops(full.bundle, grpo, 1)) / 2:.2g}"
