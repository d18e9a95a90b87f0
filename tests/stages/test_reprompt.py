"""What the self-teacher is shown, and what is cut when it is too long."""

import pytest
from fixed_rollouts import questions, student

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem
from s2d_lib.stages.self_teacher import Reprompts

QUESTION = "v1 f2 f3 ?"
SOLUTION = "v1 f2 v4 f3 v9 # v9"


@pytest.fixture(scope="module")
def policy():
    return student()


def test_a_short_one_is_the_template(policy):
    ids, cut = Reprompts(policy, "{solution} {question}").of_solution(QUESTION, SOLUTION)
    assert policy.tokenizer.decode(ids) == f"{SOLUTION} {QUESTION}"
    assert not cut


@pytest.mark.parametrize("limit", [5, 7, 10])
def test_a_long_one_loses_the_beginning_of_its_solution_and_nothing_else(policy, limit):
    ids, cut = Reprompts(policy, "# {question} {solution} ?", max_tokens=limit + 2).of_solution(QUESTION, SOLUTION)
    words = policy.tokenizer.decode(ids).split()
    left = limit + 2 - 6
    assert cut
    assert len(ids) == limit + 2
    assert words == ["#", *QUESTION.split(), *SOLUTION.split()[-left:], "?"]


def test_braces_and_template_words_in_a_solution_are_just_text(policy):
    ids, _ = Reprompts(policy, "{solution} {question}").of_solution("{solution}", "{question}")
    assert len(ids) == 2  # unknown words


def test_the_limit_is_what_the_context_leaves(policy):
    assert Reprompts(policy, "{solution} {question}", max_new_tokens=20).limit == 64 - 20
    assert Reprompts(policy, "{solution} {question}", max_tokens=30, max_new_tokens=20).limit == 30
    with pytest.raises(StudyError, match="lower max_reprompt_tokens to 44 or less"):
        Reprompts(policy, "{solution} {question}", max_tokens=45, max_new_tokens=20)


def test_a_question_that_leaves_no_room_is_refused_beforehand(policy):
    long = Problem("long", "f1 " * 50, "v1")
    made = Reprompts(policy, "{solution} {question}", max_new_tokens=20)
    made.check_fit(questions(8))
    with pytest.raises(StudyError, match="the reprompt of problem 'long' takes 50 tokens without any solution"):
        made.check_fit([*questions(8), long])
    with pytest.raises(StudyError, match="takes 50 tokens without any solution"):
        made.of_solution(long.prompt, SOLUTION)
