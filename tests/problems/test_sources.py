"""From a profile's problem block to problems: disjoint sets, overlaps refused or removed, local files."""

import json
from pathlib import Path

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.problems.sources import load_problems
from s2d_lib.study import resolve
from s2d_lib.study.problem_sets import ProblemSets

SENTENCE = (
    "A gardener plants {n} rows of tulips with seventeen bulbs in every row, and then gives away exactly {m} bulbs to "
    "neighbours who water the greenhouse while she travels abroad. How many bulbs remain planted in total?"
)


@pytest.fixture
def files(tmp_path):
    """A pool of ten problems in the layout of MATH-500, and an evaluation file that shares one of them."""

    def write(name, numbers):
        rows = [
            {"problem": SENTENCE.format(n=f"{n} hundred {n}", m=n) + f" Case {n}", "answer": str(n), "level": 1}
            for n in numbers
        ]
        rows = [{**row, "unique_id": f"{name}-{n}"} for row, n in zip(rows, numbers, strict=True)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return {"pool": write("pool", range(10, 20)), "shared": write("shared", [15]), "apart": write("apart", [77])}


def sets(files, evaluation, overlap):
    """A specification with one evaluation set."""
    return ProblemSets(
        source="competition_math",
        instruction="Box it.",
        overlap=overlap,
        pool={"dataset": "math-500", "path": files["pool"]},
        evaluations={"test": {"dataset": "math-500", "path": files[evaluation]}},
    )


def test_an_overlap_is_refused_with_the_pair(files):
    with pytest.raises(
        StudyError,
        match=r"the label pool overlaps another set: .*'math-500/pool-15' with 'math-500/shared-15' of 'test'",
    ):
        load_problems(sets(files, "shared", "refuse"))


def test_an_overlap_is_removed_and_counted_where_the_profile_asks_for_it(files):
    problems = load_problems(sets(files, "shared", "remove"))
    assert "math-500/pool-15" not in {p.id for p in problems.pool}
    assert problems.report["pool"]["overlap"]["removed"] == 10 - len(problems.pool) >= 1


@pytest.mark.parametrize("overlap", ["refuse", "remove"])
@pytest.mark.parametrize("name", ["validation", "second"])
def test_no_problem_stands_in_two_sets_of_a_run(files, name, overlap):
    """Validation and further evaluation sets are held against the evaluation sets as the label pool is."""
    spec = sets(files, "shared", overlap).model_copy(update={"pool": None})
    again = spec.evaluations["test"].model_copy(update={"path": files["pool"]})
    update = {"validation": again} if name == "validation" else {"evaluations": spec.evaluations | {"second": again}}
    spec = spec.model_copy(update=update)
    if overlap == "refuse":
        with pytest.raises(StudyError, match=r"overlaps another set: 1 of its problems, .*'math-500/shared-15'"):
            load_problems(spec)
        return
    problems = load_problems(spec)
    found = problems.validation if name == "validation" else problems.evaluations["second"]
    assert "math-500/pool-15" not in {p.id for p in found}
    assert problems.report[name]["overlap"]["removed"] == 10 - len(found) >= 1
    assert len(problems.evaluations["test"]) == 1


def test_the_instruction_is_part_of_every_prompt_and_grading_is_mathematical(files):
    problems = load_problems(sets(files, "apart", "remove"))
    assert problems.grading == "math"
    assert all(p.prompt.endswith("\n\nBox it.") for p in [*problems.pool, *problems.evaluations["test"]])


def test_a_limit_is_a_seeded_subset(files):
    spec = lambda seed: ProblemSets(  # noqa: E731
        source="competition_math",
        overlap="remove",
        pool={"dataset": "math-500", "path": files["pool"], "limit": 4, "seed": seed},
        evaluations={"test": {"dataset": "math-500", "path": files["apart"]}},
    )
    first, again, other = ([p.id for p in load_problems(spec(s)).pool] for s in (0, 0, 1))
    assert len(first) == 4
    assert first == again != other


def test_local_copies_are_found_by_their_name(tmp_path, monkeypatch, files):
    (tmp_path / "math500.jsonl").write_text(Path(files["apart"]).read_text())
    monkeypatch.setenv("S2D_DATA", str(tmp_path))
    spec = ProblemSets(source="competition_math", evaluations={"test": {"dataset": "math-500"}})
    assert [p.answer for p in load_problems(spec).evaluations["test"]] == ["77"]


def test_micro_sets_share_no_prompt():
    problems = load_problems(resolve("micro", "student.grpo", 0).problems)
    prompts = [p.prompt for part in (problems.pool, *problems.evaluations.values()) for p in part]
    assert len(prompts) == len(set(prompts)) == 512 + 4 * 200
