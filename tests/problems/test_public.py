"""Rows of files and of the Hub, and public datasets: layouts, duplicates, contradictions, ids; what is broken in one sentence."""

import json
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.grading.compare import measured, number, spelled
from s2d_lib.problems.base import content_id
from s2d_lib.problems.files import is_local, load_rows
from s2d_lib.problems.public import SOURCES, bare_prompt, load_public
from s2d_lib.problems.sources import LOCAL_FILES
from tests.conftest import data

PROBLEM = "What is $1+1$?\n\nGive an integer."
BRIEF = {"role": "system", "content": "Be brief."}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


REASON = "Please reason step by step, and put your final answer within \\boxed"
WRAPPED = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    f"(without quotes) where $Answer is the answer to the problem.\n\n{PROBLEM}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
LAYOUTS = [
    ("dapo-math-17k", {"prompt": [BRIEF, {"role": "user", "content": WRAPPED}], "reward_model": {"ground_truth": "2"}}),
    ("dapo-math-17k", {"prompt": PROBLEM, "solution": "2", "source_prompt": []}),
    ("math-500", {"problem": PROBLEM, "solution": "no", "answer": "2", "level": 3, "unique_id": "test/a/1.json"}),
    ("aime-2024", {"ID": "2024-I-1", "Problem": PROBLEM, "Solution": "no", "Answer": 2}),
    (
        "aime-2024",
        {"id": 60, "problem": f"{PROBLEM} {REASON}{{{{}}}}.", "solution": "no", "answer": "2", "year": "2024"},
    ),
    ("aime-2025", {"question": f"{PROBLEM}\n{REASON}{{}}.", "answer": "2"}),
    ("aime-2025", {"id": "0", "problem": PROBLEM, "answer": 2.0}),
    ("gsm8k", {"question": PROBLEM, "answer": "1+1=<<1+1=2>>2\n#### 2"}),
]


@pytest.mark.parametrize(("name", "row"), LAYOUTS)
def test_layouts_and_the_instruction_around_a_problem_is_removed(tmp_path, name, row):
    ((problem,), _) = load_public(name, "math", write(tmp_path / "rows.jsonl", [row]))
    assert (problem.prompt, problem.answer, problem.system) == (PROBLEM, "2", "")
    expected = ("math-500/test/a/1.json", "3") if name == "math-500" else (content_id(name, PROBLEM), "")
    assert (problem.id, problem.level) == expected
    looks_like_it = r"Please reason step by step. What is \boxed{1}+\boxed{2}? Put your answer on its own line."
    assert bare_prompt(looks_like_it) == looks_like_it


def test_answers_become_text_as_a_reader_would_write_them(tmp_path):
    answers = {"2": ["2"], "7": 7, "3": 3.0, "0.25": 0.25, "0.1": 0.10000000149011612, "0.3333333333333333": 1 / 3}
    answers["1234"] = "so #### no\n#### 1,234"
    rows = [{"problem": text, "answer": answer} for text, answer in answers.items()]  # the fifth from a float32 column
    problems, _ = load_public("math-500", "math", write(tmp_path / "m.jsonl", rows))
    assert [problem.answer for problem in problems] == list(answers)


def test_duplicates_and_conflicts(tmp_path):
    rows = [("a  b", "1"), ("c", "2"), ("a b", "1"), ("c", "3"), ("d e", "4"), ("d\ne", "5"), ("f", "6"), ("f", "6")]
    rows += [("half", "0.5"), ("half", "1/2"), ("half", r"\frac{1}{2}")]  # one value, written in several ways
    path = write(tmp_path / "d.jsonl", [{"prompt": prompt, "answer": answer} for prompt, answer in rows])
    problems, report = load_public("dapo-math-17k", "math", path)
    assert [(p.prompt, p.answer) for p in problems] == [("a  b", "1"), ("f", "6"), ("half", "0.5")]
    conflicts = {content_id("dapo-math-17k", p): found for p, found in (("c", ["2", "3"]), ("d e", ["4", "5"]))}
    counts = {"rows": 11, "duplicates": 6, "unreadable": 0, "problems": 3}
    assert report == {"source": str(path), "conflicts": conflicts} | counts


def test_the_hub_is_asked_for_every_configuration_and_the_right_split_of_what_is_no_local_file(monkeypatch):
    assert all(map(is_local, ["data/test.jsonl", "./data", "/data/x", "a/b/c", "math500.jsonl"]))
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        if name == "not/there":
            raise ConnectionError("Couldn't reach\nthe Hub")
        return datasets.Dataset.from_list([{"question": f"in {config}", "answer": "B"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    problems, _ = load_public("aime-2025", "math")
    assert [p.prompt for p in problems] == ["in AIME2025-I", "in AIME2025-II"]
    load_public("gsm8k", "math", split="train")
    load_public("gsm8k", "math", "some/copy")
    load_public("sdpo-material", "choice", "some/splits", "test")
    load_public("aime-2024", "math")
    assert asked[:2] == [("opencompass/AIME2025", f"AIME2025-{part}", "test") for part in ("I", "II")]
    assert asked[2:4] == [("openai/gsm8k", "main", "train"), ("some/copy", None, "test")]
    assert asked[4:] == [("some/splits", None, "test"), ("HuggingFaceH4/aime_2024", None, "train")]
    with pytest.raises(StudyError, match=r"not/there \(configuration main, split test\).*Couldn't reach the Hub"):
        load_rows("not/there", split="test", config="main")


@pytest.mark.parametrize(("name", "count"), [("math-500", 500), ("aime-2024", 30), ("aime-2025", 30), ("gsm8k", 1319)])
def test_evaluation_files(name, count):
    problems, report = load_public(name, "math", data(LOCAL_FILES[name]))
    assert len(problems) == report["rows"] == len({problem.id for problem in problems}) == count
    if name == "math-500":
        assert {problem.level for problem in problems} == set("12345")
    else:  # one AIME answer has a degree
        assert all(number(measured(spelled(problem.answer)).text) for problem in problems)


def test_finished_prompts_are_read(tmp_path):
    chat = [BRIEF, {"role": "user", "content": "And now?\nA: x"}]
    rows = [
        {"prompt": "Which?\n\nA: x\nB: y", "answer": "b", "kind": "mcq", "description": "Which?"},
        {"prompt": chat, "reward_model": {"ground_truth": "A"}},
    ]
    found, _ = load_public("sdpo-material", "choice", write(tmp_path / "rows.jsonl", rows))
    assert [(p.prompt.split("\n")[0], p.answer) for p in found] == [("Which?", "B"), ("And now?", "A")]
    assert [p.system for p in found] == ["", "Be brief."]
    calls = [{"Action": "book", "Action_Input": "{}"}]
    rows = [
        {"prompt": "Tools: book. Book!", "answer": json.dumps(calls), "kind": "tooluse"},
        {"prompt": [chat[1]], "reward_model": {"ground_truth": calls}, "feedback": "No seats."},
        {"prompt": "Cancel!", "answer": [{"Action": "cancel", "Action_Input": "{all of it}"}]},
    ]
    found, report = load_public("sdpo-tool-use", "tool_calls", write(tmp_path / "rows.jsonl", rows))
    assert [(p.prompt[:8], p.feedback) for p in found] == [("Tools: b", ""), ("And now?", "No seats.")]
    assert {p.answer for p in found} == {'[{"Action": "book", "Action_Input": {}}]'}
    assert (report["problems"], report["unreadable"]) == (2, 1)
    assert grade("Thought: easy.\nAction: book\nAction Input: {}", found[0].answer, mode="tool_calls").correct


NO_NUMBER = (float("nan"), "NaN", float("inf"), ["2", "3"], True)
NO_CALLS = ("no calls", [], ["x"], [{"Action": 1}], [{"Action_Input": {}}])
BROKEN = [
    ("math-500", {"text": "x", "answer": "1"}, "has no problem .* found text, answer"),
    ("math-500", {"problem": "x", "label": "1", "solution": "2"}, "has no answer .* found problem, label"),
    ("math-500", {"problem": "  ", "answer": "1"}, "Row 1 of .* empty problem"),
    ("math-500", {"problem": "x", "answer": " "}, "empty answer"),
    *(("math-500", {"problem": "x", "answer": bad}, "which is not text or a finite number") for bad in NO_NUMBER),
    *(("sdpo-tool-use", {"prompt": "x", "answer": bad}, "no request with readable gold calls") for bad in NO_CALLS),
    ("sdpo-chemistry", {"prompt": "Which?", "answer": "the first"}, "which is not a letter"),
]


@pytest.mark.parametrize(("name", "row", "sentence"), BROKEN)
def test_broken_rows_are_one_sentence(tmp_path, name, row, sentence):
    with pytest.raises(StudyError, match=f"(?s){sentence}"):
        load_public(name, SOURCES[name].grading, write(tmp_path / "rows.jsonl", [row]))


ROWS = [{"problem": "1+1?\u2028", "answer": "2", "nested": {"a": [1]}}, {"problem": "ü", "answer": "3", "nested": None}]


@pytest.mark.parametrize("ending", ["parquet", "json", "jsonl"])
def test_all_kinds_of_file_give_the_same_rows_and_name_missing_columns(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    elif ending == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    else:
        lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
        path.write_bytes(f"\ufeff{lines}\n\n".encode())
    assert load_rows(path, columns=["problem", "answer"]) == load_rows(str(path)) == ROWS
    with pytest.raises(StudyError, match=r"lacks the column\(s\) prompt in row 1; it has problem, answer, nested"):
        load_rows(path, columns=["problem", "prompt"])


BROKEN_FILES = [
    ("a.parquet", b"<!DOCTYPE html><html><body>Not found</body></html>", "begins with b'<!DOCTYPE html>"),
    ("a.parquet", b"", "not readable as .parquet"),
    ("a.json", b"", "not readable as .json"),
    ("a.json", b'{"data": []}', "must hold objects"),
    ("a.json", b"[" * 100_000, "not readable as .json"),
    ("a.json", b"[]", "has no rows"),
    ("a.json", b"PAR1\x15\x04\xff\xfe", "codec can't decode"),
    ("a.json", b'[{"problem": "a", "answer": 1, "answer": 2}]', "'answer' is named twice in one row"),
    ("a.json", b'[{"a": "b"}, {"a": {"content": ["\\ud800"]}}]', "half of a character (a lone surrogate)"),
    ("a.jsonl", b'{"a": 1}\n{"a": \n', "not readable as .jsonl (line 2: "),
    ("a.jsonl", b'{"a": 1}\n[1]\n', "must hold objects"),
    ("a.jsonl", b'{"problem": "a", "answer": 1, "answer": 2}\n', "line 1: 'answer' is named twice in one row"),
    ("a.jsonl", b'{"a": "b"}\n\n{"a": {"content": ["\\ud800"]}}', "Row 2 of the dataset"),
    ("a.csv", b"a,b", "unknown ending: use one of .parquet, .json, .jsonl"),
    ("b/a.json", None, "does not exist"),
    (".", None, "is a folder"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN_FILES)
def test_broken_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError) as caught:
        load_rows(tmp_path / name)
    sentence = str(caught.value)
    assert message in sentence
    assert str(tmp_path / name) in sentence
    assert "\n" not in sentence


def test_odd_tables_and_a_later_row(tmp_path):
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "a.parquet")
    twice = pa.table([pa.array(["a"]), pa.array(["1"]), pa.array(["2"])], names=["problem", "answer", "answer"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": 2}\n{"a": 1}\n')
    for name, sentence in (("a.parquet", "no rows"), ("twice.parquet", "Multiple .*answer"), ("a.jsonl", "b in row 2")):
        with pytest.raises(StudyError, match=sentence):
            load_rows(tmp_path / name, columns=["b"])
