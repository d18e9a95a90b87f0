"""A table of the study: who consumed the labels, what the paper published, links, untrained models at their best; families."""

import dataclasses
import itertools
import shutil

import pandas as pd
import pytest

from s2d_lib.claims import load_claims
from s2d_lib.errors import StudyError
from s2d_lib.report import study_table as tables
from s2d_lib.report.contrasts import by_level
from s2d_lib.report.figures import accuracy_figure, differences_figure
from s2d_lib.report.tables import Sheet
from s2d_lib.results.bundle import Bundle, read_bundle
from s2d_lib.study import needed
from s2d_lib.study.page import Table
from tests.claims.conftest import evaluation
from tests.report.conftest import few_of, only, write_bundle


def test_labels_are_counted_for_the_model_that_was_trained_on_them(full):
    consumers = {
        "student.grpo": [512, 0, 0, 0, 0],
        "student.bridge.raw_teacher": [0, 0, 0, 0, 0],
        "student.bridge.rl_same_size": [0, 512, 0, 0, 0],
        "student.bridge.rl_large_teacher_1H.grpo_2H": [256, 0, 0, 0, 256],
    }
    assert {name: list(tables.labels_by_consumer(full.bundle, name).values()) for name in consumers} == consumers


def test_a_row_has_what_the_paper_prints_and_costs(full):
    table = tables.study_table(full, "table3")
    shown, costs = table.show().set_index("route"), table.show(-1).set_index("route")
    assert "AIME 2025, %" not in shown
    cells = shown.loc["bridge, RL teacher"].filter(like="published").tolist()
    assert cells == ["79.3 (+3.4)", "25.2 (+5.4)", "20.2 (+3.1)"]
    assert shown.loc["direct GRPO", ["MATH, published", "micro-math, difference"]].tolist() == ["75.9", "reference"]
    assert costs.loc["bridge, SFT teacher", "labels: teacher"] == "0"  # an outside model's answers
    assert "labels: small teacher" not in costs  # none was trained
    played = [dataclasses.replace(full, name=name) for name in ("micro-full", "micro-llama", "smollm2-smoke")]
    assert [tables.published_sets(one)[1] for one in played] == ["Qwen3", "Llama", ""]
    assert tables.study_table(played[-1], "table2").show().filter(like="published").empty


# Untrained models at their best temperature: checkpoint, name of the decoding in evaluation.csv -> set -> samples of two problems
MAIN, GREEDY, COLD = "T 0.7, top-p 0.8, top-k 20", "greedy", "T 0.25"
HOW = {"samples": 2, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
GRADES = {
    ("student", "main"): {"easy": ["10", "00"], "hard": ["00", "00"]},
    ("student", "t0"): {"easy": ["1", "1"], "hard": ["0", "0"]},
    ("student", COLD): {"easy": ["11", "10"], "hard": ["10", "00"]},
    ("student.grpo", "main"): {"easy": ["11", "10"], "hard": ["10", "10"]},
    ("student.grpo", "t0"): {"easy": ["1", "0"], "hard": ["1", "1"]},
}
BOTH = Table(title="t", rows=["student", "student.grpo"], reference="student.grpo")


def bundle_of(folder, names=("main", "t0", COLD)) -> Bundle:
    """GRADES at these decodings, as read from files."""
    tables = []
    for (checkpoint, name), sets in GRADES.items():
        graded = {place: {f"{place}/{p}": bits for p, bits in enumerate(samples)} for place, samples in sets.items()}
        rows = evaluation({(seed, checkpoint, place): own for seed in (0, 1) for place, own in graded.items()})
        tables += [rows.assign(decoding=name)] if name in names else []
    table = pd.concat(tables, ignore_index=True)
    several = len(names) > 1
    table = table if several else table.drop(columns="decoding")
    how = HOW | ({"also": {"t0": {"samples": 1, "temperature": 0}}} if several else {})
    student = {"parents": {}, "stage": "base", "evaluation": how | {"untrained": [0.25]}}
    grpo = {"parents": {"from": "student"}, "stage": "sparse_rl", "evaluation": how}
    records = {}
    for (name, own), seed in itertools.product({"student": student, "student.grpo": grpo}.items(), (0, 1)):
        records[name, seed] = {"resolved": own | {"sampling": {}, "params": {}, "model": {"model": "m"}}}
    write_bundle(Bundle(table, pd.DataFrame(columns=["step"]), records), folder)
    return read_bundle(folder)


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return bundle_of(tmp_path / "results")


def test_an_untrained_model_is_a_row_at_the_decoding_that_is_best_on_each_set(bundle, tmp_path):
    assert tables.best_decodings(bundle, "student").to_dict() == {"easy": GREEDY, "hard": COLD}
    two = bundle_of(tmp_path / "two", ("main", "t0"))
    assert tables.best_decodings(two, "student")["hard"] == MAIN  # the first of equal ones
    numbers = tables.table_of(bundle, BOTH)
    assert numbers["checkpoint"].tolist() == ["student", "student@best", "student.grpo"]
    assert numbers["easy"].tolist() == [0.25, 1.0, 0.75]
    assert numbers["hard"].tolist() == [0.0, 0.25, 0.5]
    assert numbers["easy difference"].tolist()[:2] == [-0.5, 0.25]
    at = numbers.set_index("checkpoint").filter(like=" at ")
    assert at[f"easy at {GREEDY}"].dropna().to_dict() == {"student": 1.0, "student.grpo": 0.5}
    assert at[f"hard at {MAIN}"].dropna().to_dict() == {"student": 0.0, "student.grpo": 0.5}
    assert at.filter(like=COLD).empty  # which not all rows have
    levels = by_level(bundle, BOTH.rows, "hard", "t").numbers.set_index("checkpoint")["accuracy"]
    assert levels.to_dict() == {"student": 0.0, "student@best": 0.25, "student.grpo": 0.5}
    easy, hard = accuracy_figure(bundle, Sheet("t", numbers, {"t": numbers})).axes
    dotted = [line.get_xdata()[0] for axes in (easy, hard) for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == [100.0, 25.0]
    with pytest.raises(StudyError, match="no run of 'sft'"):
        tables.table_of(bundle, Table(title="t", rows=["sft"]))
    bundle.records["student.grpo", 0]["resolved"]["parent_hashes"] = {"student": "old"}
    bundle.records["student", 0]["hash"] = "new"
    with pytest.raises(
        StudyError, match=r"'student.grpo', seed 0, was made from a run 'student' with hash old.*with new"
    ):
        tables.table_of(bundle, BOTH)


def test_a_table_without_the_untrained_student_gets_its_row_if_the_seeds_are_the_same(bundle):
    table = BOTH.model_copy(update={"rows": ["student.grpo"]})
    assert tables.table_of(bundle, table)["checkpoint"].tolist() == ["student@best", "student.grpo"]
    bundle.records["student", 2] = bundle.records["student", 1]  # of a study that is not finished
    assert tables.table_of(bundle, table)["checkpoint"].tolist() == ["student.grpo"]


def test_other_results_can_hold_the_base_models_further_decodings(bundle, tmp_path):
    alone = bundle_of(tmp_path / "alone", ("main",))
    assert tables.table_of(alone, BOTH)["checkpoint"].tolist() == ["student", "student.grpo"]
    other = dataclasses.replace(bundle, records={k: r for k, r in bundle.records.items() if k[0] == "student"})
    other = dataclasses.replace(other, decoded=other.decoded[other.decoded["checkpoint"] == "student"])
    numbers = tables.table_of(tables.with_untrained(alone, other), BOTH)
    assert numbers["easy"].tolist() == [0.25, 1.0, 0.75]
    assert not any(" at " in column for column in numbers)  # which only the base model has
    with pytest.raises(StudyError, match=r"'student.grpo', seed 0, that is not the base model .* \(stage differs\)"):
        tables.with_untrained(alone, bundle)
    alone.records["student", 1]["resolved"]["model"] = {"model": "another"}
    with pytest.raises(StudyError, match=r"'student', seed 1, .* \(model differs\)"):
        tables.with_untrained(alone, other)


def test_results_are_read_as_far_as_they_go(full, tmp_path, root):
    (tmp_path / "params").symlink_to(root / "params")
    figures, claims = tmp_path / "figures", load_claims()
    made = only(full.bundle, [name for name in needed("micro-full") if "1H" not in name])
    del made.records["student.bridge.sft_teacher", 1]
    write_bundle(made, figures / "micro-full" / "results")
    results = tables.open_results("micro-full", tmp_path)
    assert "table2" in results.profile.tables
    assert "table3" not in results.profile.tables  # lacks a seed of a row
    with pytest.raises(StudyError, match="no readable results"):
        tables.open_results("micro-llama", tmp_path)
    with pytest.raises(StudyError, match=r"'micro-ful' is not in `families`.*did you mean 'micro-full'"):
        tables.results_of("micro-ful", claims, tmp_path)
    found, together, missing = tables.families("micro-full", claims, tmp_path)
    assert list(found) == ["micro-full"]
    assert missing == ["The Llama family is played by profile micro-llama, which has no results of table8 yet."]
    assert missing[0] in together.note
    shutil.rmtree(figures)
    with pytest.raises(StudyError, match="no family has results of table8: make them with `make study"):
        tables.families("micro-full", claims, tmp_path)


def test_both_families_stand_side_by_side_each_with_its_own_pages(full, tmp_path, root):
    (tmp_path / "params").symlink_to(root / "params")
    for name, bundle in {"micro-full": full.bundle, "micro-llama": few_of("micro-llama")}.items():
        write_bundle(only(bundle, needed("micro-llama")), tmp_path / "figures" / name / "results")
    found, together, missing = tables.families("micro-full", load_claims(), tmp_path)
    assert (list(found), missing) == (["micro-full", "micro-llama"], [])
    assert together.numbers["family"].tolist() == ["Qwen3"] * 6 + ["Llama"] * 6
    figure = differences_figure(found, "Families")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[::2] == ["micro-full: micro-math", "micro-llama: sorting-math"]
    rows = found["micro-full"].numbers.query("route != 'direct GRPO'")  # the reference
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == rows["route"].tolist()
    printed = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert printed == pytest.approx(rows["micro-math published"].tolist(), nan_ok=True)
    urls = [{line.get_url() for line in axes.lines} for axes in figure.axes]
    assert "runs/student.bridge.rl_teacher.md" in urls[0]
    assert "../micro-llama/runs/student.bridge.rl_teacher.md" in urls[2]
