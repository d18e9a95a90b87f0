"""A table of the study: who consumed the labels, what the paper published, and links to the runs."""

import dataclasses

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.report.study_table import family_of, labels_by_consumer, open_results, study_table
from tests.report.synthetic import write_bundle


@pytest.mark.parametrize(
    ("checkpoint", "consumers"),
    [
        ("student.grpo", [32, 0, 0, 0, 0]),
        ("student.bridge.rl_teacher", [0, 0, 0, 32, 0]),
        ("student.bridge.raw_teacher", [0, 0, 0, 0, 0]),
        ("student.bridge.rl_same_size", [0, 32, 0, 0, 0]),
        ("student.bridge.rl_large_teacher_1H.grpo_2H", [16, 0, 0, 0, 16]),
        ("teacher.rl", [32, 0, 0, 0, 0]),
    ],
)
def test_labels_are_counted_for_the_model_that_was_trained_on_them(full, checkpoint, consumers):
    assert list(labels_by_consumer(full.bundle, checkpoint).values()) == consumers


def test_a_row_has_accuracy_difference_published_figure_and_costs(full):
    table = study_table(full, "table3")
    rows = table.numbers.set_index("checkpoint")
    assert len(rows) == 15
    bridge = rows.loc["student.bridge.rl_teacher"]
    assert bridge["micro-math low"] < bridge["micro-math"] < bridge["micro-math high"]
    assert bridge["micro-aime published"] == pytest.approx(5.4)
    assert (bridge["AIME 2025 published"], bridge["AIME 2025 published error"]) == (pytest.approx(3.1), 1.3)
    assert bridge["micro-math published source"] == "v1 table 3; v4 table 6"
    shown = table.accuracies.set_index("route")
    assert list(shown.filter(like="published")) == ["MATH, published", "AIME 2024, published", "AIME 2025, published"]
    assert "AIME 2025, %" not in shown
    assert shown.loc["bridge, RL teacher"].filter(like="published").tolist() == [
        "79.3 (+3.4)",
        "25.2 (+5.4)",
        "20.2 (+3.1)",
    ]
    assert shown.loc["direct GRPO", "MATH, published"] == "75.9"
    own = "bridge, teacher after SFT on its own right answers"  # a row of ours
    assert "not printed" not in shown.drop(index=own).to_string()
    assert (
        table.costs.set_index("route").loc["bridge, SFT teacher", "labels: teacher"] == "0"
    )  # an outside model's answers
    assert "labels: small teacher" not in table.costs  # none was trained


def test_what_the_paper_does_not_print_is_said(full):
    shown = study_table(full, "components").accuracies.set_index("route")
    assert shown.loc["forward KL only, RL teacher", "AIME 2025, published"] == "not printed"


def test_a_profile_that_plays_no_family_has_nothing_published(full):
    assert (family_of("micro-full"), family_of("micro-llama"), family_of("smollm2-smoke")) == ("Qwen3", "Llama", None)
    table = study_table(dataclasses.replace(full, name="smollm2-smoke"), "table3")
    assert table.accuracies.filter(like="published").empty
    assert "Published" not in table.note


def test_the_written_table_leads_to_the_runs_and_says_that_scales_differ(full, tmp_path):
    study_table(full, "table4").write(tmp_path)
    text = (tmp_path / "table4.md").read_text()
    assert text.count("[cold GRPO on 2H](runs/student.grpo_2H.md)") == 2
    assert "the scales differ" in text
    assert len(pd.read_csv(tmp_path / "table4.csv")) == 8
    assert (tmp_path / "table4.tex").read_text().count(r"\begin{tabular}") == 2


def test_results_are_read_from_the_projects_folder(full, tmp_path, root):
    (tmp_path / "params").symlink_to(root / "params")
    write_bundle(full.bundle, tmp_path / "figures" / "micro-full" / "results")
    again = study_table(open_results("micro-full", tmp_path), "table7", tmp_path)
    pd.testing.assert_frame_equal(again.numbers, study_table(full, "table7").numbers)
    with pytest.raises(StudyError, match="no readable results"):
        open_results("micro-llama", tmp_path)
