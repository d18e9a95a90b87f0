"""Claims as tables and picture, premises as measured, and what a route's models consumed of the labels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims import Published, Results, evaluate, load_claims
from s2d_lib.report import claims as report
from s2d_lib.report.looks import load_report
from s2d_lib.report.pages import label_ledger
from s2d_lib.report.style import save_figure
from s2d_lib.results.bundle import Bundle, route_cost
from s2d_lib.study import load_profile, load_study
from tests.claims.conftest import bundle, claims, results, study  # noqa: F401
from tests.claims.synthetic import bundle_of, record

ROWS = {"bridge": {"MATH": [79.3, 0.7]}, "student.grpo": {"MATH": [75.9, 0.9]}}
PUBLISHED = Published.model_validate(
    {
        "samples": 16,
        "problems": {"A": {"MATH": 500}, "B": {}},
        "paper_a": [{"family": "Qwen3", "source": "table 1", "rows": ROWS}],
        "paper_b": [],
    }
)


@pytest.fixture
def outcomes(claims, study, results):  # noqa: F811
    return evaluate(claims, study, results)


@pytest.fixture
def comparisons(outcomes):
    return report.comparisons_table(outcomes, PUBLISHED)


@pytest.fixture
def sheet(claims, outcomes, comparisons):  # noqa: F811
    return report.claims_sheet(
        outcomes, claims.claims, comparisons, "Made up.", report.asked_table(outcomes, claims), "micro"
    )


def test_numbers_of_every_comparison(comparisons):
    first = comparisons.iloc[0]
    assert (first["seeds"], first["problems"], first["labels better"], first["labels than"]) == (3, 80, 16, 16)
    assert first["low"] < first["difference"] < first["high"]
    assert first["published"] == pytest.approx(3.4)
    assert first["published low"] < 0 < first["published high"]  # one error is about two points
    assert comparisons["published verdict"].tolist()[:2] == ["undecided", "not printed"]
    assert comparisons["verdict"].tolist() == ["holds", "holds", "contradicted", "holds", "holds", "not run", "not run"]
    made = comparisons["difference"].notna()
    assert comparisons.loc[made, "chance"].between(0, 100).all()
    assert comparisons.loc[~made, "chance"].isna().all()


def test_one_row_a_claim_or_link_with_its_chance_and_what_is_missing(outcomes, comparisons, sheet):
    of = report.judged(outcomes, comparisons, ["claim"]).set_index("claim")
    assert of["verdict"].tolist() == ["holds", "contradicted", "holds", "not run", "not run"]
    assert of["comparisons"].tolist() == [2, 1, 2, 1, 1]
    assert of.loc["C5", "missing"] == "no run of bridge.large in the results of profile micro"
    assert of.loc["C1", "chance"] == comparisons["chance"].iloc[:2].min()
    assert of.loc[["C1", "C2"], "published verdict"].tolist() == ["undecided", "not printed"]  # of C1, what is printed
    numbers, links = sheet.numbers, sheet.show(1)
    assert links.loc[links["claim"] == "C3", "here"].tolist() == ["holds", "holds"]
    assert numbers["link verdict"].tolist() == [*["holds"] * 2, "contradicted", *["holds"] * 2, *["not run"] * 2]
    assert numbers["claim verdict"].tolist()[:3] == ["holds", "holds", "contradicted"]
    assert report.verdict_words("undecided", -4.2, 1.0) == "undecided within 4.2 points"
    assert report.verdict_words("undecided", -0.5, 1.1) == "level within 1.1 points"


def test_a_missing_set_is_said_wherever_its_claim_is_shown(claims, outcomes, comparisons):  # noqa: F811
    missing = "no set stands for AIME 2024 in profile micro"
    comparisons.loc[1, ["set", "verdict", "missing"]] = "", "no set", missing
    comparisons.loc[1, ["difference", "low", "high", "detectable", "chance"]] = float("nan")
    sheet = report.claims_sheet(outcomes, claims.claims, comparisons, "", report.asked_table(outcomes, claims), "micro")
    assert sheet.show()["here"].tolist()[0] == "holds, as far as there are sets"
    assert sheet.show()["missing"][0] == missing
    assert sheet.show(-1).iloc[1][["set", "here", "remark"]].tolist() == ["AIME 2024", "no set", missing]
    assert len(report.claims_figure(sheet, "Claims").axes) == 1


def test_an_absent_premise_stands_beside_what_the_numbers_say(claims, study, results):  # noqa: F811
    room = {"sentence": "Room.", "source": "ours", "of": ["student"], "conditions": [{"at_most": -1.0}]}
    content = claims.model_dump() | {"premises": {"room": room}}
    content["claims"]["C2"]["premises"] = ["room"]
    asking, bundle = type(claims).model_validate(content), results["Qwen3"].bundle  # noqa: F811
    untrained = bundle.evaluation[bundle.evaluation["checkpoint"] == "bridge"].assign(checkpoint="student")
    evaluation = pd.concat([bundle.evaluation, untrained])
    found = {"Qwen3": replace(results["Qwen3"], bundle=replace(bundle, evaluation=evaluation))}
    outcomes = evaluate(asking, study, found)
    comparisons, asked = report.comparisons_table(outcomes, PUBLISHED), report.asked_table(outcomes, asking)
    sheet = report.claims_sheet(outcomes, asking.claims, comparisons, report.judged_at(found), asked, "micro")
    assert sheet.show()["here"][1] == "premise absent (numbers alone: contradicted)"
    told = sheet.show(-1).iloc[2]
    assert told["here"] == "premise absent (numbers alone: contradicted)"
    assert told["remark"].endswith("premise room absent")
    assert asked[["premise", "it says", "bound", "state"]].to_numpy().tolist() == [
        ["room", "Room. (ours)", "at most -100%", "absent"]
    ]
    assert "decoding of base student: the only one" in asked["measured"][0]
    assert "What the claims presuppose" in sheet.tables
    assert sheet.note.endswith("judged at the profile's main decoding: T 0.7, top-p 0.8, top-k 20 (micro).")


def test_the_dashboard_shows_every_comparison_with_its_verdicts_marker(sheet, comparisons, tmp_path):
    figure = report.claims_figure(sheet, "Claims")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["micro-math\nfor MATH", "micro-aime\nfor AIME 2024"]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(comparisons.drop_duplicates(["claim", "better", "than"])) + comparisons["claim"].nunique()
    assert [label for label in labels if ": " in label][:2] == ["C1: holds", "C2: contradicted"]
    markers = [line.get_marker() for axes in figure.axes for line in axes.get_lines()]
    assert (markers.count("o"), markers.count("X"), markers.count("D")) == (4, 1, 2)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words.count("not run") == 2
    assert save_figure(figure, tmp_path, "claims")


def test_the_ledger_says_which_model_consumed_which_labels(bundle):  # noqa: F811
    bundle.records["bridge.grpo_2H", 0] = record(
        0, {"from": "bridge"}, labels=[f"p{n}" for n in range(8, 16)], gradings=40, pool="2H"
    )
    ledger = label_ledger(bundle, "bridge.grpo_2H", 0)
    ledger = ledger.set_index("checkpoint").loc[["teacher.rl", "bridge", "bridge.grpo_2H", "total"]]
    assert ledger["model"].tolist() == ["teacher (teacher)", "student (student)", "student (student)", ""]
    assert ledger["use"].tolist() == ["labels", "prompts", "labels", ""]
    assert ledger["labeled problems"].tolist() == [16, 0, 8, 16]  # the second half counts once
    assert ledger["gradings"].tolist() == [160, 0, 40, 200]
    cost = route_cost(bundle, "bridge.grpo_2H", 0)
    assert (cost["labels"], cost["gradings"], cost["all_steps"]) == (16, 200, ledger["optimiser steps"].iloc[-1])


def test_before_and_after_the_warmup_are_the_first_and_last_measurement():
    warmup, forward, overlap = "student.warm.rl_teacher", "forward_kl/student_states", "top16_overlap/student_states"
    sets = {"micro-math": 40, "micro-aime": 20}
    accuracies = {"teacher.rl": {"micro-math": 0.9, "micro-aime": 0.6}}
    made = bundle_of(accuracies, {"teacher.rl": {}, warmup: {"stage": "forward_kl"}}, 3, sets, np.random.default_rng(0))
    rows = [
        {"seed": seed, "checkpoint": warmup, "step": step, forward: value + seed / 100, overlap: np.nan}
        for seed in range(3)
        for step, value in ((50, 0.1), (0, 0.5), (25, 9.0))
    ]
    measured = Bundle(made.evaluation, made.curves, made.records, pd.DataFrame(rows))
    sheet = report.premises_sheet(
        {"Qwen3": Results("micro", load_profile("micro"), measured)}, load_claims(), load_study()
    )
    numbers, shown = sheet.numbers, sheet.show()
    assert numbers["quantity"].tolist() == list(load_report().quantities)
    first = numbers.iloc[0]
    assert (first["before"], first["after"]) == (pytest.approx(0.51), pytest.approx(0.11))
    assert first["before high"] - first["before"] == pytest.approx(4.302653 * 0.01 / np.sqrt(3))
    assert first["accuracy, MATH low"] < first["accuracy, MATH"] < first["accuracy, MATH high"]
    assert shown["before"].tolist() == ["0.510 [0.485, 0.535]", *["not measured"] * 4]  # no column, or nothing in it
    assert (shown["accuracy, set for MATH, %"] != "").tolist() == [True, *[False] * 4]
