"""Datasets: their layouts, duplicates, contradictions and ids."""

import json
from pathlib import Path

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.grading.compare import measured, number, spelled
from s2d_lib.problems import competition
from s2d_lib.problems.base import content_id
from s2d_lib.problems.competition import SOURCES, bare_prompt, load_competition

DATA = Path(__file__).parents[2] / "../shared/data"
FILES = {
    "dapo-math-17k": "dapo-math-17k-processed.parquet",
    "math-500": "math500.jsonl",
    "aime-2024": "aime24.json",
    "aime-2025": "aime25.json",
    "gsm8k": "gsm8k_test.jsonl",
}
PROBLEM = "What is $1+1$?\n\nGive an integer."


def local(name: str) -> Path:
    path = DATA / FILES[name]
    if not path.exists():
        pytest.skip(f"{FILES[name]} is not at ../shared/data")
    return path


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "written",
    [
        PROBLEM,
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        f"$Answer (without quotes) where $Answer is the answer to the problem.\n\n{PROBLEM}\n\n"
        'Remember to put your answer on its own line after "Answer:".',
        f"{PROBLEM} Please reason step by step, and put your final answer within \\boxed{{{{}}}}.",
        f"{PROBLEM}\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
    ],
)
def test_the_instruction_around_a_problem_is_removed(written):
    assert bare_prompt(written) == PROBLEM


def test_text_that_only_looks_like_an_instruction_stays():
    prompt = r"Please reason step by step. What is \boxed{1}+\boxed{2}? Put your answer on its own line."
    assert bare_prompt(prompt) == prompt


LAYOUTS = [
    (
        "dapo-math-17k",
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}],
            "reward_model": {"ground_truth": "2", "style": "rule"},
            "extra_info": {"index": "uuid"},
        },
    ),
    ("dapo-math-17k", {"prompt": PROBLEM, "solution": "2", "source_prompt": []}),
    ("math-500", {"problem": PROBLEM, "solution": "no", "answer": "2", "level": 3, "unique_id": "test/a/1.json"}),
    ("aime-2024", {"ID": "2024-I-1", "Problem": PROBLEM, "Solution": "no", "Answer": 2}),
    ("aime-2024", {"id": 60, "problem": PROBLEM, "solution": "no", "answer": "2", "year": "2024"}),
    ("aime-2025", {"question": PROBLEM, "answer": "2"}),
    ("aime-2025", {"id": "0", "problem": PROBLEM, "answer": 2.0}),
    ("gsm8k", {"question": PROBLEM, "answer": "1+1=<<1+1=2>>2\n#### 2"}),
]


@pytest.mark.parametrize(("name", "row"), LAYOUTS)
def test_layouts(tmp_path, name, row):
    (problem,) = load_competition(name, write(tmp_path / "rows.jsonl", [row])).problems
    assert (problem.prompt, problem.answer) == (PROBLEM, "2")
    expected = ("math-500/test/a/1.json", "3") if name == "math-500" else (content_id(name, PROBLEM), "")
    assert (problem.id, problem.level) == expected


def test_gsm8k_answers_lose_their_thousands_separator(tmp_path):
    path = write(tmp_path / "g.jsonl", [{"question": "?", "answer": "so #### no\n#### 1,234"}])
    assert load_competition("gsm8k", path).problems[0].answer == "1234"


def test_answers_become_text_as_a_reader_would_write_them(tmp_path):
    answers = {"2": ["2"], "7": 7, "3": 3.0, "0.25": 0.25, "0.1": 0.10000000149011612, "0.3333333333333333": 1 / 3}
    rows = [{"problem": text, "answer": answer} for text, answer in answers.items()]  # the fifth from a float32 column
    loaded = load_competition("math-500", write(tmp_path / "m.jsonl", rows))
    assert [problem.answer for problem in loaded.problems] == list(answers)


def test_duplicates_and_conflicts(tmp_path):
    rows = [("a  b", "1"), ("c", "2"), ("a b", "1"), ("c", "3"), ("d e", "4"), ("d\ne", "5"), ("f", "6"), ("f", "6")]
    path = write(tmp_path / "d.jsonl", [{"prompt": prompt, "answer": answer} for prompt, answer in rows])
    loaded = load_competition("dapo-math-17k", path)
    assert [(p.prompt, p.answer) for p in loaded.problems] == [("a  b", "1"), ("f", "6")]
    ids = {prompt: content_id("dapo-math-17k", prompt) for prompt in ("c", "d e")}
    assert loaded.report == {
        "source": str(path),
        "rows": 8,
        "distinct": 6,
        "conflicts": {ids["c"]: ["2", "3"]},
        "conflicts_by_spacing": {ids["d e"]: ["4", "5"]},
        "distinct_problems": 4,
        "duplicates": 4,
        "set_aside": 2,
        "problems": 2,
        "limit": None,
    }
    json.dumps(loaded.report)
    limited = load_competition("dapo-math-17k", path, limit=1)
    assert (limited.problems, limited.report["problems"]) == (loaded.problems[:1], 1)


def test_the_hub_is_asked_for_every_configuration(monkeypatch):
    asked = []

    def rows(source, *, split, config):
        asked.append((source, split, config))
        return [{"question": f"in {config}", "answer": 7}]

    monkeypatch.setattr(competition, "load_rows", rows)
    loaded = load_competition("aime-2025")
    assert asked == [("opencompass/AIME2025", "test", "AIME2025-I"), ("opencompass/AIME2025", "test", "AIME2025-II")]
    assert [p.prompt for p in loaded.problems] == ["in AIME2025-I", "in AIME2025-II"]
    asked.clear()
    load_competition("gsm8k", split="train")
    load_competition("gsm8k", "some/copy")
    assert asked == [("openai/gsm8k", "train", "main"), ("some/copy", "test", None)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x", "answer": "1"}, "has no problem .* found text, answer"),
        ({"problem": "x", "label": "1"}, "has no answer .* found problem, label"),
        ({"problem": "  ", "answer": "1"}, "empty problem"),
        ({"problem": "x", "answer": " "}, "empty answer"),
        ({"problem": 5, "answer": "1"}, "empty problem"),
        *(
            ({"problem": "x", "answer": answer}, "neither text nor a finite number")
            for answer in (float("nan"), "NaN", float("inf"), ["2", "3"], [], True, {"a": 1})
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    path = write(tmp_path / "m.jsonl", [{"problem": "fine", "answer": "1"}, row])
    with pytest.raises(StudyError, match=rf"(?s)Row 2 of .*{message}"):
        load_competition("math-500", path)


def test_unknown_name_and_limit():
    with pytest.raises(StudyError, match=r"'math-5000'.*math-500"):
        load_competition("math-5000")
    with pytest.raises(StudyError, match="limit"):
        load_competition("math-500", limit=0)


@pytest.mark.parametrize(("name", "count"), [("math-500", 500), ("aime-2024", 30), ("aime-2025", 30), ("gsm8k", 1319)])
def test_evaluation_files(name, count):
    loaded = load_competition(name, local(name))
    assert len(loaded.problems) == loaded.report["rows"] == loaded.report["distinct"] == count
    assert len({problem.id for problem in loaded.problems}) == count
    if name in ("aime-2024", "aime-2025", "gsm8k"):
        assert all(
            number(measured(spelled(problem.answer)).text) for problem in loaded.problems
        )  # one AIME answer has a degree
    if name == "math-500":
        assert {problem.level for problem in loaded.problems} == set("12345")


def test_dapo_file():
    loaded = load_competition("dapo-math-17k", local("dapo-math-17k"))
    report = loaded.report
    assert (report["rows"], report["distinct"], len(report["conflicts"])) == (17_917, 17_398, 7)
    assert len(report["conflicts_by_spacing"]) == 5
    assert len(loaded.problems) == report["problems"] == report["distinct_problems"] - report["set_aside"] == 17_176
    assert len({problem.id for problem in loaded.problems}) == 17_176
    assert not {problem.id for problem in loaded.problems} & set(report["conflicts"])
    assert not any(p.prompt.endswith("\\boxed{{}}.") or "Please reason step" in p.prompt for p in loaded.problems)
    assert all(problem.answer.lstrip("-").isdigit() for problem in loaded.problems)
    # ids are the keys of every result: they must not change between versions
    assert loaded.problems[0].id == "dapo-math-17k/6b8246ed504c"


def test_every_source_has_a_test_of_its_layout():
    assert {name for name, _ in LAYOUTS} == set(SOURCES) == set(FILES)


def test_one_value_written_in_several_ways_is_one_answer(tmp_path):
    rows = [(q, a) for q, found in {"half": [0.5, "1/2", r"\frac{1}{2}"], "c": ["2", "3"]}.items() for a in found]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"problem": q, "answer": a}) + "\n" for q, a in rows))
    loaded = load_competition("math-500", path)
    assert [(p.prompt, p.answer) for p in loaded.problems] == [("half", "0.5")]
    assert list(loaded.report["conflicts"].values()) == [["2", "3"]]
