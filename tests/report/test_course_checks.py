"""What verdicts rest on, on made-up runs with known answers."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from s2d_lib.claims import load_claims
from s2d_lib.claims.claims import Course
from s2d_lib.report import course_checks
from s2d_lib.report.course_checks import budget_steps, late_changes, rates_table, readable_changes, steps_figure
from s2d_lib.report.courses import spec_of
from tests.claims.test_moments import made_up


def course(courses: dict, **options) -> Course:
    return Course({"sums": made_up(courses, range(6), **options)}, list(courses))


def test_the_cheapest_run_sets_the_budget_and_a_dearer_one_gets_fewer_steps():
    both = {"student.grpo": [0, 0, 0], "student.sdpo": [0, 0, 0]}
    table = budget_steps(course(both, tokens={"student.grpo": 100, "student.sdpo": 200}))
    assert table["method"].tolist() == ["direct GRPO", "SDPO"]
    assert table["sums"].tolist() == ["10", "5"]
    assert table["sets it"].tolist() == ["sums", ""]


def test_late_changes_are_those_of_the_courses():
    numbers = late_changes(course({"student.grpo": [0.1, 0.5, 0.9], "student.sdpo": [0.1, 0.7, 0.2]}))
    rising, falling = numbers.to_dict("records")
    assert rising["end - best"] == pytest.approx(0.4, abs=0.05)
    assert falling["end - best"] == pytest.approx(-0.5, abs=0.05)
    for row in (rising, falling):  # one measurement in each window
        assert row["mean - mean"] == pytest.approx(row["end - best"], abs=0.03)
        assert row["mean - mean low"] < row["mean - mean"] < row["mean - mean high"]
    assert readable_changes(numbers)["end - best, points"].str.match(r"[+-]\d+\.\d \[").all()


def test_a_best_leans_on_the_highest_measurement_and_a_mean_does_not():
    numbers = late_changes(course({"student.grpo": [1.0, 0.0, 0.5]})).iloc[0]
    assert numbers["end - best"] == pytest.approx(-0.5, abs=0.05)
    assert numbers["mean - mean"] == pytest.approx(0.5, abs=0.05)


def test_tried_rates_are_means_over_benchmarks():
    rows = [
        {"profile": profile, "stage": "sdpo", "learning_rate": rate, "step": step, "accuracy": accuracy}
        for profile, extra in (("a", 0.0), ("b", 0.2))
        for rate in (1e-4, 1e-3)
        for step, accuracy in ((0, 0.1), (20, 0.3 + extra), (100, 0.5), (200, 0.2))
    ]
    table = rates_table(pd.DataFrame(rows), {"SDPO": "sdpo", "SRPO": "srpo"})
    assert table["method"].tolist() == ["SDPO", "SDPO"]
    assert table["rate"].tolist() == ["0.0001", "0.001"]
    assert table.loc[0, ["at step 20", "at step 100", "best", "at the end"]].tolist() == [40.0, 50.0, 50.0, 20.0]


def test_all_steps_are_drawn_also_those_beyond_the_budget(monkeypatch):
    bundle = made_up(
        {"student.grpo": [0, 0, 0], "student.sdpo": [0, 0, 0]}, tokens={"student.grpo": 100, "student.sdpo": 200}
    )
    curve = {0: 0.1, 5: 0.6, 10: 0.2}
    measured = bundle.validation.assign(accuracy=bundle.validation["step"].map(curve))
    monkeypatch.setattr(
        course_checks, "open_results", lambda name, root: SimpleNamespace(bundle=replace(bundle, validation=measured))
    )
    spec = spec_of("micro-long", load_claims())
    axes = steps_figure(spec, ["student.grpo", "student.sdpo"], "Steps").axes[0]
    for line in axes.lines:
        assert line.get_xdata().tolist() == [0, 5, 10]
        assert line.get_ydata().tolist() == pytest.approx([10.0, 60.0, 20.0])
