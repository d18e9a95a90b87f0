"""params/claims.yaml and params/published.yaml: what is committed is valid and as printed, what is wrong gets one sentence."""

import csv
import re

import pytest

from s2d_lib.claims import evaluate, load_claims, load_published
from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile, load_study, resolve
from tests.conftest import ROOT, data


def test_the_committed_claims_are_all_there_about_the_study_and_printed():
    claims, published = load_claims(), load_published()
    assert list(claims.claims) == [f"P{n}" for n in range(1, 4)] + [f"A{n}" for n in range(1, 14)]
    assert all(claim.premises for claim in claims.claims.values())
    assert {name for claim in claims.claims.values() for name in claim.premises} == set(claims.premises)
    outcomes = evaluate(claims, load_study(), {})
    assert {outcome.claim for outcome in outcomes} == set(claims.claims)
    for outcome in outcomes:
        assert outcome.missing
        assert published.difference(outcome.family, outcome.better, outcome.than, outcome.meant), outcome


def test_paper_bs_claims_are_about_methods_of_their_table_and_predictions_about_the_study():
    study, claims, published = load_study(), load_claims(), load_published()
    assert list(claims.courses["micro-srpo"].claims) == [f"B{n}" for n in range(1, 9)]
    for spec in claims.courses.values():
        moments = [m for claim in spec.claims.values() for c in claim.comparisons for m in c.better_first]
        assert {name for m in moments for name in (m.checkpoint, m.minus) if name} <= set(study.tables[spec.table].rows)
        assert set(spec.stands_for) <= set(spec.profiles)
        assert set(spec.stands_for.values()) <= set(published.problems["B"])
        assert all(spec.table in load_profile(name).tables for name in spec.profiles)
    assert {prediction.part for prediction in claims.map.values()} == set("ABCDEFG")
    assert {name for prediction in claims.map.values() for name in prediction.compares} <= set(study.checkpoints)


CLAIM = """sets: [MATH]
gradings_tolerance: 0.05
families: {micro: {Qwen3: micro}}
claims: {A1: {sentence: s, source: s, family: %s, comparisons: [%s]}}
"""
PRINTED = """problems: {A: {MATH: 5}, B: {Biology: 5}}
paper_a: [{family: Qwen3, source: s, rows: {student.grop: {MATH: [1, 1]}}}]
paper_b: []
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (CLAIM % ("Qwen3", "{better_first: [a, b], sets: [MAHT]}"), "'MAHT', not in `sets` .*; did you mean 'MATH'"),
        (
            CLAIM % ("Qwen", "{better_first: [a, b], sets: [MATH]}"),
            "'Qwen', not in `families` .*; did you mean 'Qwen3'",
        ),
        (CLAIM % ("Qwen3", "{better_first: [a, b], sets: [MATH], premises: [C1]}"), "'C1', not in `premises`"),
        (CLAIM % ("Qwen3", "{better_first: [a, b, a], sets: [MATH]}"), "stands twice"),
        (CLAIM % ("Qwen3", "{better_first: [a, b], sets: [MATH], margn: 1}"), "unknown parameter.*margn"),
        (PRINTED, "'student.grop', no checkpoint of study.yaml; did you mean 'student.grpo'"),
    ],
)
def test_a_broken_file_gets_one_sentence(tmp_path, text, sentence):
    name, load = ("published.yaml", load_published) if text == PRINTED else ("claims.yaml", load_claims)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").symlink_to(ROOT / "params" / "study.yaml")
    (tmp_path / "params" / name).write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=sentence) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_stand_in_must_be_an_evaluation_set_and_makes_no_run_stale():
    with pytest.raises(StudyError, match=r"stands_for.MATH names 'micro-mat', which is no evaluation set"):
        load_profile("micro", {"stands_for": {"MATH": "micro-mat"}})
    with pytest.raises(StudyError, match="two meanings"):
        load_profile("micro", {"stands_for": {"MATH": "micro-math", "AIME 2024": "micro-math"}})
    what, named = "student.bridge.rl_teacher", {"stands_for": {"MATH": "micro-aime", "AIME 2024": "micro-math"}}
    assert resolve("micro", what, 0).hash == resolve("micro", what, 0, named).hash


DIRECT = {"4B": "small_teacher.rl", "8B": "teacher.rl", "14B": "large_teacher.rl"}
TRANSFER = {"bridge": "bridge", "OPD only": "opd_only", "teacher-sample SFT": "teacher_sample_sft"}
TEACHER = {"1.7B": "same_size", "8B": "teacher", "14B": "large_teacher", "70B": "teacher"}
STAGE_3 = {"": "", "GRPO on 2H": ".grpo_2H", "replay on 1H": ".replay_1H"}


def rows(name: str) -> list[dict[str, str]]:
    with data(f"published/{name}").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def route_of(row: dict[str, str]) -> tuple[str, str]:
    """The family, and the study's name for a row of paper A."""
    family, size = ("Llama" if "Llama" in row["student"] else "Qwen3"), row["student"].removeprefix("Qwen3-")
    if row["protocol"] == "direct GRPO":
        return family, DIRECT.get(size, "student.grpo")
    kind, teacher = re.fullmatch(r"(raw|SFT|RL) .*?(1\.7B|8B|14B|70B).*", row["teacher"]).groups()
    half = "_1H" if row["labels"] == "1H" else ""
    start = f"student.{TRANSFER[row['protocol']]}.{kind.lower()}_{TEACHER[teacher]}{half}"
    return family, start + STAGE_3[row["stage_3"]]


def test_every_cell_of_paper_a_stands_with_its_printed_error_and_tables():
    published, given, seen = load_published(), rows("paper_a.csv"), set()
    assert len(given) == 114
    for row in given:
        family, route = route_of(row)
        name = row["set"].replace("MATH-500", "MATH")
        cell = published.cell(family, route, name)
        assert (cell.mean, cell.error) == (float(row["mean"]), float(row["printed_error"])), (route, name)
        block = next(b for b in published.paper_a if b.source == row["source"] and b.family == family)
        assert route in {*block.rows, *block.repeats}
        seen.add((family, route, name, None))
    assert seen == {what for what in published.accuracies if what[3] is None}  # and nothing that is not printed


def test_every_cell_of_paper_b_stands_and_its_averages_follow_from_its_cells():
    published, given = load_published(), rows("paper_b.csv")
    assert len(given) == 138
    seconds = {(model, method, h): cells for model, method, h, _, cells in published.rows_of_b("seconds a step")}
    for row in given:
        hours = float(row["budget_hours"])
        if row["what"] == "seconds a step":
            assert seconds[row["model"], row["method"], hours] == {"average": float(row["value"])}
        else:
            assert published.cell(row["model"], row["method"], row["set"], hours).mean == float(row["value"]), row
    assert len({what for what in published.accuracies if what[3] is not None}) == 138 - 9 - 3  # seconds; SRPO twice
