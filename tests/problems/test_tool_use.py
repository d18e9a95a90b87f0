"""ToolAlpaca's layout and SDPO's of it: requests, gold calls, what can't be read."""

import json
from pathlib import Path

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.sources import load_problems
from s2d_lib.problems.tool_use import load_tool_use
from s2d_lib.study.problem_sets import ProblemSets

DATA = Path(__file__).parents[2] / "../shared/data"
API = {
    "Name": "Ferry",
    "Category": "Travel",
    "Introduction": "Boats over the lake.",
    "NLDocumentation": 'book: Books a place.\nParameters: {"day": "string.", "seats": "integer."}\n',
    "Instructions": ["Two seats on Monday, please.", "One seat on Friday.", "Then cancel everything."],
    "Golden_Answers": [
        [{"Action": "book", "Action_Input": '{"day": "Monday", "seats": 2}'}],
        [{"Action": "book", "Action_Input": {"day": "Friday", "seats": 1}}],
        [{"Action": "cancel", "Action_Input": "{all of it}"}],
    ],
}


def write(tmp_path, rows, name="tools.json"):
    path = tmp_path / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def test_every_request_of_an_api_is_a_problem_and_unreadable_calls_are_counted(tmp_path):
    found = load_tool_use("toolalpaca", write(tmp_path, [API]))
    first, second = found.problems
    assert first.prompt.startswith("You can call these tools of Ferry: Boats over the lake.\n\nbook: Books a place.")
    assert "Request: Two seats on Monday, please." in first.prompt
    assert "Action Input: its arguments" in first.prompt
    assert json.loads(first.answer) == [{"Action": "book", "Action_Input": {"day": "Monday", "seats": 2}}]
    assert "Friday" in second.answer
    assert first.level == "Travel"
    assert (found.report["problems"], found.report["unreadable"]) == (2, 1)
    right = 'Thought: easy.\nAction: book\nAction Input: {"seats": 2, "day": "Monday"}'
    assert grade(right, first.answer, mode="tool_calls").correct
    assert not grade(right, second.answer, mode="tool_calls").correct


def test_finished_prompts_are_read_too(tmp_path):
    calls = [{"Action": "book", "Action_Input": "{}"}]
    rows = [
        {"prompt": "Tools: book. Book!", "answer": json.dumps(calls), "kind": "tooluse"},
        {
            "prompt": [{"role": "user", "content": "Again!"}],
            "reward_model": {"ground_truth": calls},
            "feedback": "No seats.",
        },
    ]
    found = load_tool_use("toolalpaca", write(tmp_path, rows)).problems
    assert [p.feedback for p in found] == ["", "No seats."]
    assert [p.prompt for p in found] == ["Tools: book. Book!", "Again!"]
    assert {p.answer for p in found} == {'[{"Action": "book", "Action_Input": {}}]'}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([API | {"Golden_Answers": []}], "as many `Golden_Answers` as `Instructions`"),
        ([API | {"NLDocumentation": None}], "Row 1 of .* documents no tools"),
        ([{"text": "x"}], "neither `Instructions`.*it has text"),
        ([{"prompt": "x", "answer": "no calls"}], "no request with readable gold calls"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, rows, sentence):
    with pytest.raises(StudyError, match=sentence):
        load_tool_use("toolalpaca", write(tmp_path, rows))


def test_without_a_source_the_remedy_is_named():
    with pytest.raises(StudyError, match="give a set's `path`"):
        load_tool_use("toolalpaca")
    with pytest.raises(StudyError, match="use one of toolalpaca"):
        load_tool_use("toolllama", "x.json")


def test_requests_that_share_their_documentation_are_not_copies(tmp_path):
    many = [f"{n} seats on day {n}" for n in range(20)]
    api = API | {
        "NLDocumentation": API["NLDocumentation"] + "Every passenger must carry a document of identity. " * 20,
        "Instructions": many,
        "Golden_Answers": [[{"Action": "book", "Action_Input": {"seats": n}}] for n in range(20)],
    }
    one = {"dataset": "toolalpaca", "path": write(tmp_path, [api])}
    spec = {"source": "tool_use", "pool": one | {"part": "train"}, "evaluations": {"tools": one | {"part": "test"}}}
    problems = load_problems(ProblemSets(**spec))
    assert (len(problems.pool), len(problems.evaluations["tools"]), problems.grading) == (18, 2, "tool_calls")
    with pytest.raises(StudyError, match="the label pool overlaps another set"):
        load_problems(ProblemSets(**spec | {"evaluations": {"tools": one | {"part": "all"}}}))


def test_sdpos_test_set_is_read_row_for_row(monkeypatch):
    if not (DATA / "sdpo").is_dir():
        pytest.skip("SDPO's test set is not at ../shared/data")
    monkeypatch.setenv("S2D_DATA", str(DATA))
    spec = {"source": "tool_use", "evaluations": {"test": {"dataset": "sdpo-tool-use", "part": "test"}}}
    problems = load_problems(ProblemSets(**spec)).evaluations["test"]
    assert len(problems) == 68
    rows = [json.loads(line) for line in (DATA / "sdpo" / "tooluse-test.jsonl").read_text().splitlines()]
    assert [(p.prompt, p.system) for p in problems] == [(row["prompt"], "") for row in rows]
