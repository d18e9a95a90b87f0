"""Paper B's tables and figures over made-up courses: known numbers come out where a reader looks for them."""

import numpy as np
import pytest

from s2d_lib.claims import load_claims, load_published
from s2d_lib.claims.claims import Course, evaluate_curves
from s2d_lib.errors import StudyError
from s2d_lib.report.claims import claims_table
from s2d_lib.report.claims_figure import claims_figure
from s2d_lib.report.courses import (
    budgets_table,
    comparisons_table,
    curves,
    curves_figure,
    methods_of,
    metric,
    metrics_figure,
    readable_budgets,
    readable_comparisons,
    spec_of,
    write_budgets,
    write_claims,
)
from tests.claims.test_moments import made_up

RISING = {
    "student.grpo": [0.1, 0.3, 0.7],
    "student.sdpo": [0.1, 0.6, 0.5],
    "student.srpo": [0.1, 0.6, 0.9],
    "student.srpo.no_dw": [0.1, 0.6, 0.8],
    "student.advantage_mix": [0.1, 0.4, 0.6],
    "student.sdpo.failed_only": [0.1, 0.6, 0.6],
    "student.sdpo.correct_only": [0.1, 0.5, 0.2],
}
LENGTHS = {name: 12.0 - place for place, name in enumerate(RISING)}  # shorter from GRPO over SDPO to SRPO


@pytest.fixture(scope="module")
def course():
    entropy = {name: np.linspace(1, 2, 10) for name in RISING if "sdpo" in name or "srpo" in name}
    more = {
        "completions__mean_length": LENGTHS,
        "self_teacher__entropy": entropy,
        "self_teacher__tokens": dict.fromkeys(entropy, 1e-9),  # weights, and next to no compute
        "routed__sdpo": {"student.srpo": 0.3},
    }
    benchmarks = {
        n: made_up(RISING, range(6), rng=np.random.default_rng(i), **more) for i, n in enumerate(["sums", "tools"])
    }
    return Course(benchmarks, list(RISING))


def test_the_methods_are_the_tables_trained_rows():
    spec = spec_of("micro-srpo", load_claims())
    assert methods_of(spec) == list(RISING)
    assert len(spec.profiles) == 5
    with pytest.raises(StudyError, match="has no courses 'micro-srop'; did you mean 'micro-srpo'"):
        spec_of("micro-srop", load_claims())


def test_budgets_show_a_method_that_has_fallen_back(course, tmp_path):
    numbers = budgets_table(course, [0.5, 1.0])
    assert list(numbers["benchmark"].unique()) == ["all", "sums", "tools"]
    fallen = numbers[(numbers["checkpoint"] == "student.sdpo.correct_only") & (numbers["benchmark"] == "all")].iloc[0]
    assert fallen["best 0.5"] == pytest.approx(0.5, abs=0.06)
    assert fallen["best 1"] == pytest.approx(0.5, abs=0.06)
    assert fallen["final"] == pytest.approx(0.2, abs=0.06)
    assert (numbers["best 1 low"] < numbers["best 1"]).all()
    shown = readable_budgets(numbers)
    assert list(shown) == [
        "method",
        "best within 50% of the budget, %",
        "best within 100% of the budget, %",
        "at the end, %",
    ]
    assert shown["method"].tolist()[:3] == ["direct GRPO", "SDPO", "SRPO"]
    write_budgets(numbers, tmp_path, "budgets", "A note.")
    assert (tmp_path / "budgets.md").read_text().count("| SRPO  ") == 3


def test_curves_go_from_measurement_to_measurement(course):
    table = curves(course, "student.srpo")
    assert list(table) == list(range(6))
    assert table.mean(axis=1).loc[[0.0, 0.25, 0.5, 1.0]].tolist() == pytest.approx([0.1, 0.35, 0.6, 0.9], abs=0.06)


def test_a_method_is_drawn_as_far_as_its_steps_go_beyond_the_budget():
    dear = dict.fromkeys(RISING, 100) | {"student.sdpo": 150}  # tokens a step
    course = Course({"one": made_up(RISING, range(2), dear)}, list(RISING))
    assert curves(course, "student.grpo").index[-1] == pytest.approx(1.0)
    assert curves(course, "student.sdpo").index[-1] == pytest.approx(1.5)


def test_metrics_are_means_of_every_twentieth(course):
    entropy = metric(course, "student.sdpo", "entropy").mean(axis=1).dropna()
    assert entropy.tolist() == pytest.approx(np.linspace(1, 2, 10).tolist())
    assert metric(course, "student.grpo", "entropy").isna().all(axis=None)


def test_every_method_is_drawn_and_named(course):
    figure = curves_figure(course, course.checkpoints, "All", each=True)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == ["sums", "tools"]
    assert len(figure.legends[0].texts) == 7
    inside = metrics_figure(course, course.checkpoints, "Inside")
    assert [len(axes.lines) for axes in inside.axes] == [5, 0, 7, 0, 1, 0]  # the last panel is empty


def test_verdicts_of_the_committed_claims_on_a_made_up_truth(course, tmp_path):
    spec = spec_of("micro-srpo", load_claims())
    outcomes = evaluate_curves(spec.claims, course)
    comparisons = comparisons_table(outcomes, spec, load_published())
    claims = claims_table(outcomes, spec.claims, comparisons)
    verdicts = dict(zip(claims["claim"], claims["verdict"], strict=True))
    assert verdicts["B1"] == verdicts["B3"] == verdicts["B5"] == verdicts["B7"] == "holds"
    assert verdicts["B4"] == "undecided"  # that a gain is kept to within a point takes more than 80 problems
    assert verdicts["B2"] == "holds"
    assert verdicts["B6"] == "contradicted"  # here SRPO is shorter than SDPO
    lengths = comparisons[comparisons["measure"] == "length"]
    assert lengths["difference"].tolist() == pytest.approx([2.0, -1.0])
    assert lengths["unit"].tolist() == ["tokens", "tokens"]
    assert "SDPO, best within 50% > SDPO, within 1 points" in readable_comparisons(comparisons)["comparison"].tolist()
    write_claims(claims, comparisons, tmp_path, "A note.")
    assert "Sample routing beats advantage mixing" in (tmp_path / "claims.md").read_text()
    figure = claims_figure(claims, comparisons, "Claims")
    units = ["points", "nats", "tokens"]  # each has its own axis
    shown = [axes.get_xlabel().replace("\n", " ").split(";")[0] for axes in figure.axes]
    assert shown == [f"difference, {u} (first minus second)" for u in units]
    first = comparisons.iloc[:3]
    assert first["benchmark"].tolist() == ["all", "sums", "tools"]
    assert first["published"].tolist()[0] == pytest.approx(3.4)  # 77.4 - 74.0
    assert first["published"].isna().tolist() == [False, True, True]
    assert comparisons.loc[comparisons["unit"] == "points", "chance"].between(0, 100).all()
    assert comparisons.loc[comparisons["unit"] != "points", "chance"].isna().all()
    late = comparisons[(comparisons["claim"] == "B7")].iloc[0]
    assert late["published"] == pytest.approx(5.1)  # 77.4 - 72.3
