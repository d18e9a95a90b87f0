"""SciKnowEval's layout and SDPO's of it: what counts, what is broken, and a run's sets out of one file."""

import json
from pathlib import Path

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.problems.files import load_rows
from s2d_lib.problems.science import DOMAINS, load_science
from s2d_lib.problems.sources import load_problems
from s2d_lib.study.problem_sets import BenchmarkSet, ProblemSets

DATA = Path(__file__).parents[2] / "../shared/data"
ELEMENTS = ["hydrogen", "helium", "lithium", "boron", "carbon", "nitrogen", "oxygen", "fluorine", "neon", "sodium"]


def row(element: str, **changes) -> dict:
    """A question in the layout of the Hub's files."""
    return {
        "question": f"Which of these substances contains the largest share of {element} by weight?",
        "answer": "",
        "type": "mcq-4-choices",
        "domain": "Chemistry",
        "details": {"level": "L3", "task": "composition", "subtask": "share by weight", "source": "made up"},
        "choices": {"text": ["this", "that", f"pure {element}", "none"], "label": ["A", "B", "C", "D"]},
        "answerKey": "C",
    } | changes


def write(tmp_path, rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return str(path)


def test_a_question_is_shown_with_its_choices(tmp_path):
    found = load_science("sciknoweval-chemistry", write(tmp_path, [row("neon")]))
    (problem,) = found.problems
    assert problem.prompt == (
        "Which of these substances contains the largest share of neon by weight?\n\nA: this\nB: that\nC: pure neon\nD: none"
    )
    assert (problem.answer, problem.level) == ("C", "share by weight")


def test_only_multiple_choice_of_the_domain_and_level_counts_and_stems_count_once(tmp_path):
    turned = row(
        "neon", choices={"text": ["pure neon", "that"], "label": ["A", "B"]}, answerKey="A", type=["mcq-2-choices"]
    )
    rows = [
        row("neon"),
        turned,
        row("boron", domain="Physics"),
        row("boron", details={"level": "L1"}),
        row("boron", type="open-ended-qa"),
        row("oxygen"),
    ]
    found = load_science("sciknoweval-chemistry", write(tmp_path, rows))
    assert [p.prompt.split(" by weight")[0].split()[-1] for p in found.problems] == ["neon", "oxygen"]
    assert (found.report["rows"], found.report["other_rows"], found.report["problems"]) == (6, 3, 2)
    (physics,) = load_science("sciknoweval-physics", write(tmp_path, rows)).problems
    assert "boron" in physics.prompt


def test_finished_prompts_are_read_too(tmp_path):
    rows = [
        {
            "prompt": "Which?\n\nA: x\nB: y\nPlease reason step by step.",
            "answer": "b",
            "kind": "mcq",
            "description": "Which?",
        },
        {"prompt": [{"role": "user", "content": "And now?\nA: x"}], "reward_model": {"ground_truth": "A"}},
    ]
    found = load_science("sciknoweval-material", write(tmp_path, rows)).problems
    assert [(p.prompt.split("\n")[0], p.answer) for p in found] == [("Which?", "B"), ("And now?", "A")]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([row("neon", answerKey="E")], "Row 1 of .* one of the labels"),
        ([row("neon", choices={"text": ["a"], "label": ["A", "B"]})], "as many labels as texts"),
        ([row("neon"), row("boron", question=None)], "Row 2 of .* must have a `question`"),
        ([{"prompt": "Which?", "answer": "the first"}], "no question with a letter"),
        ([row("neon", domain="Physics")], "no multiple-choice question of domain chemistry and level L3"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, rows, sentence):
    with pytest.raises(StudyError, match=sentence):
        load_science("sciknoweval-chemistry", write(tmp_path, rows))


def test_an_unknown_subset_is_said():
    with pytest.raises(StudyError, match="use one of sciknoweval-chemistry"):
        load_science("sciknoweval-alchemy")


def test_the_hub_is_asked_for_the_only_split_there_is(monkeypatch):
    asked = []

    def rows(source, *, split):
        asked.append((source, split))
        return [row("neon", domain="Material")]

    monkeypatch.setattr("s2d_lib.problems.science.load_rows", rows)
    assert len(load_science("sciknoweval-material").problems) == 1
    assert asked == [("hicai-zju/SciKnowEval", "test")]
    assert load_rows  # the real one takes these arguments, see tests/problems/test_competition_files.py


def test_a_runs_sets_are_train_and_test_of_one_file_whatever_its_order(tmp_path):
    rows = [row(element) for element in ELEMENTS]

    def sets(rows):
        one = {"dataset": "sciknoweval-chemistry", "path": write(tmp_path, rows), "seed": 0}
        return load_problems(
            ProblemSets(
                source="science",
                instruction="Answer in <answer> tags.",
                overlap="remove",
                pool=one | {"part": "train", "limit": 8},
                evaluations={"chemistry": one | {"part": "test"}},
            )
        )

    problems, turned = sets(rows), sets(rows[::-1])
    (test,) = problems.evaluations["chemistry"]
    assert len(problems.pool) == 8
    assert test.id not in {p.id for p in problems.pool}
    assert [test] == turned.evaluations["chemistry"]
    assert problems.grading == "choice"
    assert test.prompt.endswith("\n\nAnswer in <answer> tags.")
    assert problems.report["chemistry"]["part"] == "test"


def test_local_copies_have_a_name_for_every_subset():
    from s2d_lib.problems.sources import LOCAL_FILES

    assert {name for name in DOMAINS if not name.startswith("sdpo-")} | {"toolalpaca"} < set(LOCAL_FILES)


@pytest.mark.parametrize(
    ("domain", "train", "test"),
    [("chemistry", 1890, 210), ("physics", 720, 80), ("biology", 450, 50), ("material", 840, 94)],
)
def test_sdpos_splits_are_read_row_for_row(monkeypatch, domain, train, test):
    if not (DATA / "sdpo").is_dir():
        pytest.skip("SDPO's splits are not at ../shared/data")
    monkeypatch.setenv("S2D_DATA", str(DATA))
    one = {"dataset": f"sdpo-{domain}"}
    sets = {"pool": one | {"part": "train"}, "evaluations": {"test": one | {"part": "test"}}}
    found = load_problems(ProblemSets(source="science", overlap="remove", **sets))
    # One question of the materials stands in both: it leaves the pool
    assert (len(found.pool), len(found.evaluations["test"])) == (train, test)
    assert found.report["pool"]["overlap"]["removed"] == (domain == "material")
    rows = load_rows(DATA / "sdpo" / f"{domain}-test.jsonl")
    read = [(p.prompt, p.system, p.answer) for p in found.evaluations["test"]]
    assert read == [(row["prompt"], row["system"], row["answer"]) for row in rows]
    assert "<answer>" in read[0][1]


def test_a_split_that_is_not_there_or_not_named_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("S2D_DATA", str(tmp_path))
    pool = {"dataset": "sdpo-physics", "part": "train"}
    with pytest.raises(StudyError, match=r"the train split of sdpo-physics .* put it as sdpo/physics-train.jsonl"):
        load_problems(ProblemSets(source="science", evaluations={}, pool=pool))
    with pytest.raises(ValueError, match="name one, `part: train` or `part: test`"):
        BenchmarkSet(dataset="sdpo-physics")
