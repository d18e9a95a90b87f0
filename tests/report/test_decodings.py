"""Untrained models at their best temperature, and rows at every decoding: a small bundle with known answers."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims.fair import check_together
from s2d_lib.errors import StudyError
from s2d_lib.report.by_level import by_level
from s2d_lib.report.cost_figure import cost_figure
from s2d_lib.report.decodings import best_decodings, with_untrained
from s2d_lib.report.figures import MARKS, accuracy_figure
from s2d_lib.report.run_pages import page_text
from s2d_lib.report.study_table import open_results, study_table
from s2d_lib.report.tables import linked, table_of
from s2d_lib.results.bundle import Bundle, read_bundle
from s2d_lib.study.page import Table
from tests.report.synthetic import project_with_results, write_bundle

MAIN, GREEDY, COLD = "T 0.7, top-p 0.8, top-k 20", "greedy", "T 0.25"
HOW = {"samples": 2, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "also": {"t0": {"samples": 1, "temperature": 0}}}
GRADES = {  # checkpoint, name of the decoding in evaluation.csv -> set -> samples of two problems
    ("student", "main"): {"easy": ["10", "00"], "hard": ["00", "00"]},
    ("student", "t0"): {"easy": ["1", "1"], "hard": ["0", "0"]},
    ("student", COLD): {"easy": ["11", "10"], "hard": ["10", "00"]},
    ("student.grpo", "main"): {"easy": ["11", "10"], "hard": ["10", "10"]},
    ("student.grpo", "t0"): {"easy": ["1", "0"], "hard": ["1", "1"]},
}


def bundle_of(folder, names=("main", "t0", COLD)) -> Bundle:
    """GRADES at these decodings, as read from files."""
    rows = [
        {"seed": seed, "checkpoint": checkpoint, "set": place, "problem": f"{place}/{p}", "level": "", "correct": bits,
         "tokens": 3.0, "cut_off": 0.0, "decoding": name}
        for seed in (0, 1)
        for (checkpoint, name), sets in GRADES.items() if name in names
        for place, samples in sets.items()
        for p, bits in enumerate(samples)
    ]  # fmt: skip
    table = pd.DataFrame(rows) if len(names) > 1 else pd.DataFrame(rows).drop(columns="decoding")
    how = HOW if len(names) > 1 else {key: value for key, value in HOW.items() if key != "also"}
    records = {}
    for name, seed in itertools.product(("student", "student.grpo"), (0, 1)):
        base = name == "student"
        resolved = {
            "parents": {} if base else {"from": "student"},
            "stage": "base" if base else "sparse_rl",
            "sampling": {},
        }
        resolved |= {"params": {}, "model": {"model": "m"}, "evaluation": how | ({"untrained": [0.25]} if base else {})}
        records[name, seed] = {"resolved": resolved}
    write_bundle(Bundle(table, pd.DataFrame(columns=["step"]), records), folder)
    return read_bundle(folder)


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return bundle_of(tmp_path / "results")


def test_an_untrained_model_is_a_row_at_the_decoding_that_is_best_on_each_set(bundle):
    assert best_decodings(bundle, "student").to_dict() == {"easy": GREEDY, "hard": COLD}
    numbers = table_of(bundle, Table(title="t", rows=["student", "student.grpo"], reference="student.grpo"))
    assert numbers["checkpoint"].tolist() == ["student", "student@best", "student.grpo"]
    assert numbers["route"].tolist() == ["base student", "base student, at its best temperature", "direct GRPO"]
    assert numbers["easy"].tolist() == [0.25, 1.0, 0.75]
    assert numbers["hard"].tolist() == [0.0, 0.25, 0.5]
    assert numbers["easy difference"].tolist()[:2] == [-0.5, 0.25]
    assert (numbers["hard low"] <= numbers["hard"]).all()
    assert linked(numbers[["route"]], numbers)["route"][1] == "[base student, at its best temperature](runs/student.md)"


def test_of_equal_decodings_the_first_wins(tmp_path):
    bundle = bundle_of(tmp_path, ("main", "t0"))
    assert best_decodings(bundle, "student")["hard"] == MAIN


def test_every_row_has_its_accuracy_at_every_decoding_that_all_rows_have(bundle):
    numbers = table_of(bundle, Table(title="t", rows=["student", "student.grpo"])).set_index("checkpoint")
    assert numbers[f"easy at {GREEDY}"].dropna().to_dict() == {"student": 1.0, "student.grpo": 0.5}
    assert numbers[f"hard at {MAIN}"].dropna().to_dict() == {"student": 0.0, "student.grpo": 0.5}
    assert not any(COLD in column for column in numbers)


def test_a_table_without_the_untrained_student_gets_its_row_if_the_seeds_are_the_same(bundle):
    table = Table(title="t", rows=["student.grpo"], reference="student.grpo")
    assert table_of(bundle, table)["checkpoint"].tolist() == ["student@best", "student.grpo"]
    bundle.records["student", 2] = bundle.records["student", 1]  # of a study that is not finished
    assert table_of(bundle, table)["checkpoint"].tolist() == ["student.grpo"]


def test_results_of_one_decoding_have_the_columns_and_rows_that_they_had(tmp_path):
    bundle = bundle_of(tmp_path, ("main",))
    numbers = table_of(bundle, Table(title="t", rows=["student", "student.grpo"]))
    assert numbers["checkpoint"].tolist() == ["student", "student.grpo"]
    assert not any(" at " in column for column in numbers)


def test_further_temperatures_of_a_base_model_are_no_other_sampling(bundle):
    check_together(bundle, ["student", "student.grpo"])
    bundle.records["student.grpo", 0]["resolved"]["evaluation"]["top_p"] = 0.9
    with pytest.raises(StudyError, match="different sampling"):
        check_together(bundle, ["student", "student.grpo"])


def test_levels_have_the_untrained_model_at_the_decoding_that_is_best_on_the_whole_set(bundle):
    numbers = by_level(bundle, ["student", "student.grpo"], "hard").set_index("checkpoint")
    assert numbers["accuracy"].to_dict() == {"student": 0.0, "student@best": 0.25, "student.grpo": 0.5}


def test_the_figure_draws_the_best_temperature_and_marks_further_decodings(bundle):
    numbers = table_of(bundle, Table(title="t", rows=["student", "student.grpo"]))
    easy, hard = accuracy_figure(bundle, numbers, "t").axes
    dotted = [line.get_xdata()[0] for axes in (easy, hard) for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == [100.0, 25.0]
    marks = [line.get_xdata()[0] for line in easy.lines if line.get_marker() == MARKS[0] and line.get_markersize() == 4]
    assert np.isnan(marks[1])
    assert [marks[0], marks[2]] == [100.0, 50.0]
    assert [line.get_url() for line in easy.lines].count("runs/student.md") == 2
    cost_figure(bundle, numbers, "easy", "t").draw_without_rendering()


@pytest.fixture
def alone(tmp_path) -> Bundle:
    return bundle_of(tmp_path / "alone", ("main",))


def test_other_results_can_hold_the_base_models_further_decodings(bundle, alone):
    other = dataclasses.replace(bundle, records={k: r for k, r in bundle.records.items() if k[0] == "student"})
    other = dataclasses.replace(other, decoded=other.decoded[other.decoded["checkpoint"] == "student"])
    numbers = table_of(with_untrained(alone, other), Table(title="t", rows=["student", "student.grpo"]))
    assert numbers["easy"].tolist() == [0.25, 1.0, 0.75]
    assert not any(" at " in column for column in numbers)  # which only the base model has
    with pytest.raises(StudyError, match=r"'student.grpo', seed 0, that is not the base model .* \(stage differs\)"):
        with_untrained(alone, bundle)
    alone.records["student", 1]["resolved"]["model"] = {"model": "another"}
    with pytest.raises(StudyError, match=r"'student', seed 1, .* \(model differs\)"):
        with_untrained(alone, other)


@pytest.fixture
def several(full, tmp_path):
    """The made-up study with a greedy decoding of all, right where the first sample is, and the student at one more."""
    own = full.bundle.evaluation
    greedy = own.assign(correct=own["correct"].str[0], decoding="greedy")
    cold = own[own["checkpoint"] == "student"].assign(correct="1", decoding=COLD)
    records = {key: dict(record) for key, record in full.bundle.records.items()}
    for record in records.values():
        also = {"also": {"greedy": {"temperature": 0}}, "untrained": [0.25]}
        record["resolved"] = record["resolved"] | {"evaluation": record["resolved"]["evaluation"] | also}
    evaluation = pd.concat([own.assign(decoding="main"), greedy, cold])
    made = dataclasses.replace(full.bundle, evaluation=evaluation, records=records)
    return open_results("micro-full", project_with_results(tmp_path / "project", made, "micro-full"))


def test_a_written_table_says_which_temperature_won_and_shows_every_decoding(several, tmp_path):
    table = study_table(several, "table3")
    table.write(tmp_path)
    assert table.numbers["checkpoint"][0] == "student@best"
    assert (
        "At its best temperature: as it does best of T 1 / greedy / T 0.25, chosen on that very set, which favours the "
        "untrained model (base student, micro-math: T 0.25; base student, micro-aime: T 0.25). "
    ) in table.note
    assert table.at_decodings["decoding"].tolist() == ["T 1"] * 15 + ["greedy"] * 15
    text = (tmp_path / "table3.md").read_text()
    assert f"**{table.title} At every decoding**" in text
    assert text.count("](runs/student.grpo.md)") == 4
    assert (tmp_path / "table3.tex").read_text().count(r"\caption") == 3
    page = page_text(several.bundle, "micro-full", "student", [0, 1], [])
    assert "| T 0.25     | 100.0 [" in page
    assert "student@best" not in {name for name, _ in several.bundle.records}
