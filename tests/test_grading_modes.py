"""Grading of multiple choice and of tool calls."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.grading import grade, make_reward
from s2d_lib.grading.extract import extract_short


@pytest.mark.parametrize(
    ("completion", "extracted"),
    [
        ("<reasoning>\nA or B?\n</reasoning>\n<answer>\nb\n</answer>", "B"),
        ("<answer>A</answer> no, <answer>(B)</answer>", "B"),
        ("<answer>B: pure neon</answer>", "B"),
        ("<answer>B. pure neon</answer>", "B"),
        ("<answer>**B**</answer>", "B"),
        (r"So \boxed{B}", "B"),
        ("Answer: B", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"Answer: $\textbf{(B)}$ 12", "B"),
        ("<answer>The answer is B</answer>", "B"),
        ("<answer>B: A protein or C and N</answer>", None),
        ("<answer>B: A protein</answer>", "B"),
        ("<answer>A or B</answer>", None),
        ("<answer>(B) (A)</answer>", None),
        ("<answer>B. A. C. D.</answer>", None),
        ("<answer>B, A</answer>", None),
        ("<answer>B. x C. y</answer>", None),
        ("<answer>B. A</answer>", None),
        ("<answer>Boron</answer>", None),
        ("<answer></answer>", None),
        ("B", None),
        ("", None),
    ],
)
def test_a_choice_is_one_letter(completion, extracted):
    found = grade(completion, "B", mode="choice")
    assert (found.extracted, found.correct) == (extracted, extracted == "B")
    assert found.reason
    assert not grade(completion, "C", mode="choice").correct


@pytest.mark.parametrize(
    ("completion", "extracted"),
    [
        (" 17", "17"),
        ("<answer>17</answer>, I think", "17"),
        ("8 + 9\nAnswer: 17", "17"),
        ("8 + 9 is\n17", None),  # which of them?
        ("<answer>17", None),
        (r"\boxed{", None),
        ("Answer:", None),
        ("  \n", None),
    ],
)
def test_a_single_line_is_its_own_answer_unless_it_names_another_place(completion, extracted):
    found, reason = extract_short(completion)
    assert found == extracted
    assert bool(reason) == (extracted is None)


BOOK = {"Action": "book", "Action_Input": {"day": "Monday", "seats": 2, "who": {"name": "A}B", "age": None}}}
PAY = {"Action": "pay", "Action_Input": {}}


def said(*calls: dict) -> str:
    """Calls as a completion makes them."""
    return "\n".join(
        f"Thought: so.\nAction: {c['Action']}\nAction Input: {json.dumps(c['Action_Input'])}" for c in calls
    )


@pytest.mark.parametrize(
    ("completion", "correct", "reason"),
    [
        (said(BOOK, PAY), True, "equal"),
        (said(PAY, BOOK), True, "equal"),
        (said(BOOK), False, "other tools"),
        (said(BOOK, PAY, PAY), False, "other tools"),
        (said(BOOK | {"Action_Input": {}}, PAY), False, "other inputs"),
        (said(BOOK | {"Action_Input": BOOK["Action_Input"] | {"more": 1}}, PAY), False, "other inputs"),
        (said(BOOK | {"Action_Input": {}}, PAY | {"Action_Input": BOOK["Action_Input"]}), False, "other inputs"),
        (said(BOOK | {"Action_Input": BOOK["Action_Input"] | {"seats": 2.0}}, PAY), True, "equal"),
        (said(BOOK | {"Action_Input": BOOK["Action_Input"] | {"seats": "2"}}, PAY), False, "other inputs"),
        (said(BOOK, PAY | {"Action_Input": {"now": 1}}), False, "other inputs"),
        ("Action: book\nAction Input: {broken\nAction: pay", False, "other inputs"),
        ("book it", False, "no 'Action:'"),
        ("Action: " * 100_000, False, "other tools"),
        ("Action: x " * 100_000, False, "other tools"),
        ("Action: book\nAction Input: " + "[" * 100_000, False, "other tools"),
    ],
)
def test_calls_must_be_the_gold_ones(completion, correct, reason):
    found = grade(completion, json.dumps([BOOK, PAY]), mode="tool_calls")
    assert found.correct is correct
    assert reason in found.reason


def test_true_is_not_one():
    gold = json.dumps([{"Action": "pay", "Action_Input": {"n": [True, 1]}}])
    said_so = [
        grade(f'Action: pay\nAction Input: {{"n": [{n}]}}', gold, mode="tool_calls") for n in ("true, 1.0", "1, 1")
    ]
    assert [found.correct for found in said_so] == [True, False]


def test_calls_are_well_formed_where_their_inputs_are_json():
    gold = json.dumps([PAY])
    formed = [
        grade(text, gold, mode="tool_calls").formed
        for text in (said(BOOK), "Action: pay", "Action: pay\nAction Input: {", "")
    ]
    assert formed == [True, False, False, False]


def test_a_gold_answer_may_hold_its_inputs_as_text():
    gold = json.dumps([{"Action": "book", "Action_Input": json.dumps(BOOK["Action_Input"])}])
    assert grade(said(BOOK), gold, mode="tool_calls").correct
    assert grade(said(BOOK), "no list", mode="tool_calls").reason == "the gold answer is no list of calls"


@given(st.text(max_size=300), st.sampled_from(["choice", "tool_calls"]))
def test_no_text_breaks_the_grader(text, mode):
    found = grade(f"Action: {text}<answer>{text}</answer>", "B" if mode == "choice" else json.dumps([PAY]), mode=mode)
    assert isinstance(found.correct, bool)
    (found.extracted or "").encode()


def test_the_modes_are_rewards_too():
    reward = make_reward("choice")
    assert reward([None] * 2, ["<answer>A</answer>", [{"content": "<answer>B</answer>"}]], answer=["A", "A"]) == [
        1.0,
        0.0,
    ]
