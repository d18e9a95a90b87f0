"""Problems that reasoning-gym generates, and its verifiers as graders; skipped where it isn't installed (`make gym`)."""

import json
import sys

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade, make_reward
from s2d_lib.problems.sources import load_problems
from s2d_lib.study.load import validated
from s2d_lib.study.problem_sets import GymSet, ProblemSets, ReasoningGym


def sets(**pool):
    """A specification with a pool of chain sums and an evaluation set of two tasks."""
    chain = {"chain_sum": {"min_terms": 2, "max_terms": 3}}
    return ProblemSets(
        source="reasoning_gym",
        instruction="Put your final answer between <answer> and </answer>.",
        pool={"tasks": chain, "size": 6, "seed": 1} | pool,
        evaluations={"both": {"tasks": chain | {"number_sorting": {}}, "size": 5, "seed": 1}},
    )


@pytest.fixture
def problems():
    pytest.importorskip("reasoning_gym")
    return load_problems(sets())


def test_sets_are_generated_in_turns_disjoint_and_repeatable(problems):
    both = problems.evaluations["both"]
    assert [p.level for p in both] == ["chain_sum", "number_sorting"] * 2 + ["chain_sum"]
    assert len(problems.pool) == 6
    assert len({p.prompt for p in [*problems.pool, *both]}) == 11 == len({p.id for p in [*problems.pool, *both]})
    assert load_problems(sets()) == problems
    assert {p.id for p in load_problems(sets(seed=2)).pool} != {p.id for p in problems.pool}
    assert all(p.prompt.endswith("between <answer> and </answer>.") for p in problems.pool)


def test_the_tasks_own_verifier_grades(problems):
    assert problems.grading == "reasoning_gym"
    one, sorting = problems.pool[0], problems.evaluations["both"][1]
    answer = json.loads(one.answer)["answer"]
    assert grade(f"so <answer>{answer}</answer>", one.answer, mode="reasoning_gym").correct
    assert grade(f"Answer: {answer}", one.answer, mode="reasoning_gym").correct
    assert not grade(f"<answer>{answer}1</answer>", one.answer, mode="reasoning_gym").correct
    assert grade("no\nanswer", one.answer, mode="reasoning_gym").extracted is None
    listed = json.loads(json.loads(sorting.answer)["answer"].replace("'", '"'))
    assert grade(f"<answer>{json.dumps(listed)}</answer>", sorting.answer, mode="reasoning_gym").correct
    reward = make_reward(problems.grading)
    assert reward([None], [f"<answer>{answer}</answer>"], answer=[one.answer]) == [1.0]


def test_a_task_that_makes_another_problem_elsewhere_is_refused(problems):
    note = json.loads(problems.pool[0].answer) | {"question_sha256": "0"}
    with pytest.raises(StudyError, match="generates other problems in another process"):
        grade("<answer>1</answer>", json.dumps(note), mode="reasoning_gym")


@pytest.mark.parametrize(
    ("tasks", "size", "sentence"),
    [
        ({"chain_sums": {}}, 2, "unknown reasoning-gym task 'chain_sums'; did you mean 'chain_sum'"),
        ({"chain_sum": {"terms": 2}}, 2, "task 'chain_sum' refuses its configuration"),
        ({"chain_sum": {"min_terms": 3, "max_terms": 2}}, 2, "task 'chain_sum' refuses its configuration"),
        (
            {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}},
            400,
            "has only .* of 400 distinct",
        ),
    ],
)
def test_what_cannot_be_generated_is_one_sentence(tasks, size, sentence):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(StudyError, match=sentence):
        load_problems(sets(tasks=tasks, size=size))


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(StudyError, match="`make gym` installs it"):
        load_problems(sets())


def test_size_and_seed_belong_to_the_set():
    with pytest.raises(StudyError, match="`seed` of task 'chain_sum' belongs to the whole set"):
        validated(GymSet, {"tasks": {"chain_sum": {"seed": 1}}, "size": 1, "seed": 0}, "x")


def test_a_profile_can_name_it():
    one = {"tasks": {"chain_sum": {}}, "size": 4, "seed": 0}
    spec = validated(ReasoningGym, {"source": "reasoning_gym", "pools": {"full": one}, "evaluations": {"e": one}}, "x")
    assert spec.pools["full"].tasks == {"chain_sum": {}}
