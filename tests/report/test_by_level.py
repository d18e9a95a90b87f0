"""Accuracies by level and completions side by side."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.report.by_level import CONSTANT, by_level, completions_beside, levels_figure, readable_levels, write_levels
from s2d_lib.results.bundle import Bundle

ROUTES = ["student", "student.grpo"]


@pytest.fixture
def bundle() -> Bundle:
    """Two seeds, two levels of two problems: the student right in 1 of 4 samples, after GRPO always on `count`."""
    rows = [
        (seed, checkpoint, "tasks", f"{level}/{i}", level, bits, 2.0, 0.0)
        for seed in (0, 1)
        for checkpoint, of_level in {
            "student": {"count": "0100", "lcm": "0001"},
            "student.grpo": {"count": "1111", "lcm": "0101"},
        }.items()
        for level, bits in of_level.items()
        for i in range(2)
    ]
    columns = ["seed", "checkpoint", "set", "problem", "level", "correct", "tokens", "cut_off"]
    constant = pd.DataFrame({"set": ["tasks"], "level": ["count"], "problems": [2], "answer": ["1"], "share": [0.5]})
    samples = pd.DataFrame(
        {"seed": 0, "checkpoint": ROUTES, "set": "tasks", "problem": "count/0", "prompt": "How many l in `all`?",
         "answer": "2", "completion": ["two\nor so", " 2"], "correct": [False, True]}
    )  # fmt: skip
    return Bundle(pd.DataFrame(rows, columns=columns), pd.DataFrame(), {}, constant=constant, samples=samples)


def test_accuracies_by_level_with_the_constant_answer_last(bundle):
    numbers = by_level(bundle, ROUTES, "tasks")
    assert numbers[["level", "checkpoint"]].to_records(index=False).tolist() == [
        ("count", "student"),
        ("count", "student.grpo"),
        ("count", ""),
        ("lcm", "student"),
        ("lcm", "student.grpo"),
    ]
    assert numbers["accuracy"].tolist() == [0.25, 1.0, 0.5, 0.25, 0.5]
    known = numbers["checkpoint"] != ""
    assert (numbers.loc[known, "low"] <= numbers.loc[known, "accuracy"]).all()
    assert np.isnan(numbers.loc[~known, "low"]).all()
    with pytest.raises(StudyError, match=r"no results of 'student\.srpo'"):
        by_level(bundle, ["student.srpo"], "tasks")


def test_readers_get_a_row_a_route_and_a_column_a_level(bundle, tmp_path):
    numbers = by_level(bundle, ROUTES, "tasks")
    shown = readable_levels(numbers)
    assert shown["route"].tolist() == ["base student", "direct GRPO", CONSTANT]
    assert list(shown) == ["route", "count (2), %", "lcm (2), %"]
    cells = [f"{100 * r['accuracy']:.1f} [{100 * r['low']:.1f}, {100 * r['high']:.1f}]" for _, r in numbers.iterrows()]
    assert shown["count (2), %"].tolist() == [cells[0], "100.0 [15.8, 100.0]", "50.0"]  # 0.025^(1/2): Clopper, Pearson
    write_levels(numbers, tmp_path, "By task")
    assert (tmp_path / "levels.md").read_text().startswith("**By task**")
    assert len(pd.read_csv(tmp_path / "levels.csv")) == 5


def test_the_figure_has_every_level_route_and_the_floor(bundle):
    axes = levels_figure(by_level(bundle, ROUTES, "tasks"), "By task").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["count", "lcm"]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"base student", "direct GRPO", CONSTANT}


def test_completions_stand_side_by_side_with_the_right_ones_marked(bundle):
    table = completions_beside(bundle, ROUTES)
    assert table.to_dict("records") == [
        {"problem": "How many l in 'all'?", "right answer": "2", "base student": "two ⏎ or so", "direct GRPO": "2 ✓"}
    ]
    assert completions_beside(dataclasses.replace(bundle, samples=bundle.samples.iloc[:0]), ROUTES).empty
