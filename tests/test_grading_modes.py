"""Which part of a completion is graded, in each mode; and grading as TRL calls it."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import get_callable_name

from s2d_lib.errors import StudyError
from s2d_lib.grading import CorrectnessReward, Grade, grade
from s2d_lib.grading.extract import extract_answer, extract_short

EXTRACTED = {
    r"first \boxed{1}, then \boxed{2}": "2",
    r"\boxed{\frac{1}{\sqrt{2}}} is it": r"\frac{1}{\sqrt{2}}",
    r"\boxed{\left\{ x : x > 1 \right.}": r"\left\{ x : x > 1 \right.",
    r"$\boxed5.$": "5",
    r"\boxed \frac{1}{2}$": r"\frac{1}{2}",
    r"\boxed {7}": "7",
    r"\boxed{1} \fbox{2}": "2",
    r"\boxed{x = \fbox{3}}": r"x = \fbox{3}",
    r"\boxed{3} Answer: 4": "3",
    "reasoning\nThe answer is: 12": "12",
    "Answer: 3\nNo, wait.\nAnswer: $4$.": "4",
    "**Answer:** 17": "17",
    "### Final Answer:\n\n$5$": "5",
    "ANSWER: The value is $\\frac12$": "\\frac12",
    r"answer : \(9\)": "9",
    "Answer: not $7$": "not $7$",
    "Answer: $12$ million": "$12$ million",
    "Answer: 7 (since $n=3$)": "7",
    "Answer: 12 apples at $5$ each": "12 apples",
    "Answer: 5 at least": "5 at least",
    "Answer: 7 (or 8)": "7 (or 8)",
    "Answer: $5$ is wrong, it is 6": "$5$ is wrong, it is 6",
    "Answer: $12 apples": "$12 apples",
    "Answer: $1$ or $2$": "$1$ or $2$",
}
NOTHING = ["", "The result is 5.", r"\boxed{}", r"\boxed{5} as asked in \boxed{{}}", r"\boxed{5} and \boxed{6", r"\boxed",
           "Answer:   ", r"\boxedtext{5}"]  # fmt: skip


@pytest.mark.parametrize("completion", EXTRACTED)
def test_the_last_answer_is_extracted(completion):
    assert extract_answer(completion) == EXTRACTED[completion]


@pytest.mark.parametrize("completion", NOTHING)
def test_without_an_answer_nothing_is_correct_and_nothing_well_formed(completion):
    found = grade(completion, "5")
    assert found == Grade(False, None, found.reason)
    assert not found.formed


@pytest.mark.parametrize(
    ("completion", "answer", "correct", "extracted"),
    [
        ("v3 f1 v7 # v7 f2 # v9", "v9", True, "v9"),
        ("v3 f1 v7 f2 v9 # v9 v9", "v9", False, "v9 v9"),
        ("# a  b\n", " a b", True, "a b"),
        ("v3 f1 v7 # v70", "v7", False, "v70"),
        ("v9", "v9", False, None),
        ("v3 # ", "v9", False, None),
        ("v3 #v9", "v9", False, None),
        (r"\boxed{v9}", "v9", False, None),
        ("#", "", False, None),
    ],
)
def test_exact_mode(completion, answer, correct, extracted):
    verdict = grade(completion, answer, mode="exact")
    assert (verdict.correct, verdict.extracted) == (correct, extracted)


CHOOSE_B = [
    "<reasoning>\nA or B?\n</reasoning>\n<answer>\nb\n</answer>", "<answer>A</answer> no, <answer>(B)</answer>",
    "<answer>B: pure neon</answer>", "<answer>B. pure neon</answer>", "<answer>**B**</answer>", r"So \boxed{B}", "Answer: B",
    r"\boxed{\text{B}}", r"Answer: $\textbf{(B)}$ 12", "<answer>The answer is B</answer>", "<answer>B: A protein</answer>",
]  # fmt: skip
CHOOSE_NONE = [
    "<answer>B: A protein or C and N</answer>", "<answer>A or B</answer>", "<answer>(B) (A)</answer>",
    "<answer>B. A. C. D.</answer>", "<answer>B, A</answer>", "<answer>B. x C. y</answer>", "<answer>B. A</answer>",
    "<answer>Boron</answer>", "<answer></answer>", "B", "",
]  # fmt: skip


@pytest.mark.parametrize("completion", CHOOSE_B + CHOOSE_NONE)
def test_a_choice_is_one_letter(completion):
    found, letter = grade(completion, "B", mode="choice"), "B" if completion in CHOOSE_B else None
    assert (found.extracted, found.correct) == (letter, letter == "B")
    assert not grade(completion, "C", mode="choice").correct


def test_a_single_line_is_its_own_answer_unless_it_names_another_place():
    lines = {" 17": "17", "<answer>17</answer>, I think": "17", "8 + 9\nAnswer: 17": "17", "8 + 9 is\n17": None}
    lines |= dict.fromkeys(["<answer>17", r"\boxed{", "Answer:", "  \n"])
    assert {line: extract_short(line) for line in lines} == lines


BOOK = {"Action": "book", "Action_Input": {"day": "Monday", "seats": 2, "who": {"name": "A}B", "age": None}}}
PAY = {"Action": "pay", "Action_Input": {}}


def said(*calls: dict) -> str:
    """Calls as a completion makes them."""
    return "\n".join(
        f"Thought: so.\nAction: {c['Action']}\nAction Input: {json.dumps(c['Action_Input'])}" for c in calls
    )


@pytest.mark.parametrize(
    ("completion", "correct", "formed"),
    [
        (said(BOOK, PAY), True, True),
        (said(PAY, BOOK), True, True),
        (said(BOOK), False, True),
        (said(BOOK, PAY, PAY), False, True),
        (said(BOOK | {"Action_Input": {}}, PAY), False, True),
        (said(BOOK | {"Action_Input": BOOK["Action_Input"] | {"more": 1}}, PAY), False, True),
        (said(BOOK | {"Action_Input": {}}, PAY | {"Action_Input": BOOK["Action_Input"]}), False, True),
        (said(BOOK | {"Action_Input": BOOK["Action_Input"] | {"seats": 2.0}}, PAY), True, True),
        (said(BOOK | {"Action_Input": BOOK["Action_Input"] | {"seats": "2"}}, PAY), False, True),
        (said(BOOK | {"Action_Input": BOOK["Action_Input"] | {"seats": True}}, PAY), False, True),
        ("Action: book\nAction Input: {broken\nAction: pay", False, False),
        ("book it", False, False),
        ("Action: x " * 100_000, False, False),
        ("Action: book\nAction Input: " + "[" * 100_000, False, False),
    ],
)
def test_calls_must_be_the_gold_ones(completion, correct, formed):
    found = grade(completion, json.dumps([BOOK, PAY]), mode="tool_calls")
    assert (found.correct, found.formed) == (correct, formed)
    as_text = [call | {"Action_Input": json.dumps(call["Action_Input"])} for call in (BOOK, PAY)]
    assert grade(completion, json.dumps(as_text), mode="tool_calls") == found
    assert not grade(completion, "no list", mode="tool_calls").correct


@given(st.text(max_size=300), st.sampled_from(["choice", "tool_calls", "exact"]))
def test_no_text_breaks_the_grader(text, mode):
    found = grade(f"# Action: {text}<answer>{text}</answer>", json.dumps([PAY]), mode=mode)
    assert found.correct is False
    (found.extracted or "").encode()


def test_the_reward_of_texts_and_of_conversations_as_trl_calls_it():
    reward, logged = CorrectnessReward("exact"), {}
    assert get_callable_name(reward) == "correctness"
    columns = {"completion_ids": [[1], [2]], "trainer_state": None, "id": ["a", "b"], "log_extra": None}
    call = {"prompts": ["", ""], "completions": ["# v1", "v1"], "answer": ["v1", "v1"]} | columns
    rewards = pickle.loads(pickle.dumps(reward))(log_metric=logged.__setitem__, **call)
    assert (rewards, logged, {type(value) for value in rewards}) == ([1.0, 0.0], {"formed": 0.5}, {float})
    talks = [
        [{"role": "assistant", "content": "v1 # v2"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "v1 # v2"}]}],
        [{"role": "assistant", "content": None, "tool_calls": []}],
    ]
    assert reward(prompts=[[]] * 3, completions=talks, answer=["v2"] * 3) == [1.0, 1.0, 0.0]


def test_a_reward_refuses_an_unknown_mode_and_a_missing_column():
    with pytest.raises(StudyError, match="fuzzy"):
        CorrectnessReward("fuzzy")
    with pytest.raises(StudyError, match="'answer'"):
        CorrectnessReward("math")(prompts=[""], completions=[""], gold=["1"])
