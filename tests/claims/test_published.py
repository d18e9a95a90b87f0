"""params/published.yaml: every cell of both papers, and one sentence for what is wrong in it."""

import csv
import re
from pathlib import Path

import pytest
import yaml

from s2d_lib.claims import load_published
from s2d_lib.claims.published import Published
from s2d_lib.errors import StudyError
from s2d_lib.study.load import validated
from tests.conftest import ROOT

PRINTED = ROOT / "../shared/data/published"
DIRECT = {"4B": "small_teacher.rl", "8B": "teacher.rl", "14B": "large_teacher.rl"}
TRANSFER = {"bridge": "bridge", "OPD only": "opd_only", "teacher-sample SFT": "teacher_sample_sft"}
TEACHER = {"1.7B": "same_size", "8B": "teacher", "14B": "large_teacher", "70B": "teacher"}
STAGE_3 = {"": "", "GRPO on 2H": ".grpo_2H", "replay on 1H": ".replay_1H"}


def rows(name: str) -> list[dict[str, str]]:
    if not (PRINTED / name).is_file():
        pytest.skip("the papers' cells are not at ../shared/data/published")
    with (PRINTED / name).open(encoding="utf-8") as file:
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
    published, given = load_published(), rows("paper_a.csv")
    assert len(given) == 114
    seen = set()
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
    seconds = {
        (model, method, hours): cells for model, method, hours, _, cells in published.rows_of_b("seconds a step")
    }
    for row in given:
        hours = float(row["budget_hours"])
        if row["what"] == "seconds a step":
            assert seconds[row["model"], row["method"], hours] == {"average": float(row["value"])}
        else:
            assert published.cell(row["model"], row["method"], row["set"], hours).mean == float(row["value"]), row
    assert len({what for what in published.accuracies if what[3] is not None}) == 138 - 9 - 3  # seconds; SRPO twice


@pytest.mark.parametrize(
    ("better", "than", "name", "value"),
    [
        ("student.bridge.rl_teacher", "student.bridge.raw_teacher", "MATH", 7.8),
        ("student.bridge.rl_teacher", "student.bridge.raw_teacher", "AIME 2024", 10.2),
        ("student.bridge.rl_teacher", "student.grpo", "AIME 2024", 5.4),
        ("student.bridge.rl_teacher_1H.grpo_2H", "student.bridge.rl_teacher_1H.replay_1H", "MATH", 2.8),
    ],
)
def test_differences_follow_from_cells_either_way(better, than, name, value):
    published = load_published()
    assert published.difference("Qwen3", better, than, name).value == value
    assert published.difference("Qwen3", than, better, name).value == -value


def test_what_is_not_printed_is_not_guessed():
    published = load_published()
    assert published.cell("Qwen3", "student", "MATH") is None
    assert published.difference("Qwen3", "student.bridge.rl_teacher", "student.grpo_2H", "MATH") is None
    assert published.difference("Llama", "student.bridge.sft_teacher", "student.grpo", "MATH") is None
    assert published.cell("Qwen3-8B", "Advantage Mix (0.9)", "Chemistry", 10) is None


CELLS = {"MATH": [1, 1], "AIME 2024": [2, 1]}
COURSE = {"model": "m", "source": "s"}


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        ([{"a": {"MATH": [1, 1]}}], [], r"'Qwen3 a' needs a cell for each of AIME 2024, MATH, given MATH$"),
        ([{"a": CELLS | {"AIME": [1, 1]}}], [], "given AIME, AIME 2024, MATH"),
        ([{"a": CELLS}, {"a": CELLS}], [], "'Qwen3 a' stands twice"),
        ([{"a": CELLS | {"MATH": [1]}}], [], "paper_a.0.rows.a.MATH"),
        ([{"student.grop": CELLS}], [], "'student.grop' is no checkpoint of study.yaml; did you mean 'student.grpo'"),
        ([], [{"M": {1: {"Physics": 1}}}], r"'m M 1 h percent' needs a cell for each of Biology, Physics"),
        ([], [{"M": {1: {"average": 1}}, "N": {1: {"average": 1, "Physics": 1}}}], "each of average, given Physics, average"),
        ([], [{"M": {1: {"average": 1}}}, {"M": {1: {"average": 2}}}], "'m M 1 h percent' stands twice"),
    ],
)  # fmt: skip
def test_a_broken_file_gets_one_sentence(tmp_path, a, b, sentence):
    content = {
        "samples": 16,
        "problems": {"A": {"MATH": 5, "AIME 2024": 3}, "B": {"Biology": 5, "Physics": 8}},
        "paper_a": [{"family": "Qwen3", "source": "s", "rows": rows} for rows in a],
        "paper_b": [COURSE | {"rows": rows} for rows in b],
    }
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").symlink_to(ROOT / "params" / "study.yaml")
    (tmp_path / "params" / "published.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(StudyError, match=sentence) as error:
        load_published(tmp_path)
    assert "\n" not in str(error.value)


def test_a_table_can_not_repeat_a_row_that_none_has():
    content = yaml.safe_load(Path(ROOT / "params" / "published.yaml").read_text(encoding="utf-8"))
    content["paper_a"][-1]["repeats"] = ["student.opd_only"]
    with pytest.raises(
        StudyError, match=r"the rows of v1 table 8; v4 table 3 repeat 'student.opd_only', which no table"
    ):
        validated(Published, content, "published.yaml")
