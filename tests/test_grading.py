"""Known answers: what counts as equal, which part of a completion is graded in each mode, and grading as TRL calls it."""

import json
import pickle
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import get_callable_name

from s2d_lib.errors import StudyError
from s2d_lib.grading import CorrectnessReward, grade, grade_many, graders
from s2d_lib.grading.compare import NeedsAlgebra, compare
from s2d_lib.grading.extract import extract_answer, extract_short
from tests.conftest import data


def boxed(answer: str) -> str:
    return rf"So the answer is $\boxed{{{answer}}}$."


# gold answer, answers that are it, answers that are not
ANSWERS = [
    ("25", ["025"], ["52"]),
    ("-3", ["- 3", "\u22123"], ["3"]),
    ("10080", ["10{,}080", r"10,\!080", "10,080"], []),
    ("0.5", [r"\frac{1}{2}", r"\frac12", "1/2", r"50\%", r"1/2 = 50\%"], [r"1/2 = 60\%"]),
    (r"\frac{270}7\text{ degrees}", [r"\frac{270}{7}^\circ"], []),
    (".0000672", [r"6.72 \times 10^{-5}"], ["0.0000674"]),
    (r"50\%", ["0.5", "50"], ["5"]),
    ("90", ["90°", r"90^\circ"], [r"\frac{\pi}{2}"]),
    ("x=5", ["5"], ["y=6"]),
    ("5", ["x = 5", "5=x", "2+3=5", "x=2+3=5"],
     ["5, 6", "5 or 6", "4.9999999", "5 garbage", r"\foo{5}", "2+2=5", "5=6", "x^2=5"]),
    (r"\text{(C)}", ["C", r"\textbf{(C)}", "(C)", r"\textbf{(C)}\ 12", "C. 12", r"\mathbf{(C)}"],
     ["(B)", "(C) or (D)", "(C)(D)(A)(B)(E)", r"\text{(C) or (B)}", "(C), (B)", "C or D", "A, C", r"(C) \text{ and } (D)"]),
    ("(3,4]", [r"\left(3, 4\right]"], ["(3,4)"]),
    ("(1,2)", ["1, 2"], ["[1,2]", "(2,1)", "2,1", r"\{1,2\}"]),
    ("1,-2", ["-2, 1", r"x = -2 \text{ or } x = 1"], ["1", "1,-2,3", "$1$ or $2$"]),
    ("52_8", ["52_{8}", "52"], ["52_9", "42"]),
    (r"\left( 3, \frac{\pi}{2} \right)", [r"(3, \pi/2)"], []),
    ("2k+2", ["2(k+1)"], ["2k+1"]),
    (r"\frac{\sqrt{3}}{3}", [r"\frac{1}{\sqrt{3}}"], []),
    (r"\sqrt{2}", ["1.414214"], ["1.41"]),
    (r"\{1\pm\sqrt{5},-2\}", [r"\{-2, 1+\sqrt5, 1-\sqrt5\}"], []),
    ("y = 2x + 3", ["y = 3 + 2x"], ["y = 2x - 3"]),
    (r"x \in [-2,7]", ["[-2,7]", r"-2 \le x \le 7"], []),
    (r"\cot x", [r"\frac{\cos x}{\sin x}"], []),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", [r"\begin{pmatrix} -\frac13 \\ \frac23 \end{pmatrix}"], []),
    ("12", [r"12\text{ cm}", "12 apples", r"\$12", "€12", "12 km/h", "$12 apples"],
     ["1 2", "12 million", r"12\text{ dozen}", r"12 \text{ is wrong}", "$12$ million"]),
    ("3", ["√9"], ["1 2", "√13", "√19", "1.2.3"]),
    ("1,1,2", [], ["1,2,2"]),
    (r"\frac{\pi}{3000000}", [], ["0.000001"]),
    (r"\text{even}", ["Even"], ["odd", r"\text{not even}", "neve"]),
    ("0", [], ["5x - 7y + 11z + 4 = 0"]),
    (r"\frac{50!}{52!}", [r"\frac{1}{2652}"], [r"\frac{49!}{52!}"]),
    (r"\frac{2^{100}-1}{2^{100}}", ["1-2^{-100}"], [r"\frac{1}{2^{100}}", "1"]),
    ("e^{-50}", [r"\frac{1}{e^{50}}", r"1.928750\times10^{-22}"], ["e^{-51}", "0", r"1.929\times10^{-22}"]),
    (r"(1-2^{-200})\sqrt{2}", [r"\sqrt2-2^{-200}\sqrt2"], [r"\sqrt2"]),
    (r"\frac{x}{2^{99}}", ["2^{-99}x"], [r"\frac{x}{2^{98}}"]),
    (r"\begin{pmatrix}2^{-99}\\1\end{pmatrix}", [], [r"\begin{pmatrix}2^{-98}\\1\end{pmatrix}"]),
    (r"\sqrt{3+2\sqrt2}", [r"1+\sqrt2", "2.414214"], ["2.4142"]),
    ("0.5x", [r"\frac{x}{2}"], ["0.5000001x"]),
    (r"\frac{1}{\sqrt{n}}", [r"\sqrt{1/n}", r"\frac{\sqrt n}{n}"], [r"\frac{1}{\sqrt{n+1}}"]),
    (r"\ln|x|", [], [r"\ln x"]),
    (r"2\cdot3^{n}", [r"6\cdot3^{n-1}"], [r"6\cdot3^{n+1}"]),
    ("x", [], [r"\sqrt{x^2}", "|x|"]),
    ("12000000", [r"12 \text{ million}", "12 million people", r"\$12 \text{ million}"], ["12"]),
    (r"6{:}30\text{ p.m.}", ["6:30 PM", "6:30"], [r"6:30\text{ a.m.}", "6:31 p.m."]),
    (r"30^\circ\text{ N}", [r"30^\circ \text{N}"], [r"30^\circ\text{ S}", r"30^\circ"]),
    (r"5\text{ minutes}", ["5", "300 seconds", r"\frac{1}{12}\text{ hours}"], [r"5\text{ hours}", "5 kg", r"5\text{ garbage}"]),
    (r"25^\circ\text{C}", ["25", r"25^\circ", "25 degrees Celsius"], [r"25^\circ\text{F}"]),
    (r"15\mbox{ cm}^2", ["15", "15 square units", r"0.0015\text{ m}^2"], ["15 cm", r"15\text{ cm}^3"]),
    (r"\$0.50", ["50 cents", "0.5 dollars"], ["£0.50", "0.5 cents"]),
    (r"\frac{\pi}{2}\text{ hours}", [r"30\pi\text{ minutes}"], [r"\frac{\pi}{2}\text{ minutes}"]),
    ("9.8", [r"9.8\,\mathrm{m\,s^{-2}}", "9.8 m/s^2"], ["9.8m"]),
    (r"1, 2\text{ cm}", ["1, 2", r"1\text{ cm and }2\text{ cm}"], [r"1, 2\text{ m}", r"1, 2\text{ s}"]),
    ("10 years", ["10 years old"], ["10 months"]),
    ("110", [r"100\times1.1"], [r"100\times1.100001"]),
    ("60 mph", ["60 miles per hour"], ["60 km/h"]),
    (r"5 \pmod 7", ["5", "5 mod 7", r"x \equiv 5 \pmod{7}"], [r"5 \pmod 8", "12"]),
    (r"\sqrt{13}", ["√13", "√(13)", r"\sqrt13"], ["3√1"]),
    ("4", ["√16", "√(10+6)", "√√256", "∛64"], []),
    (r"\text{13}", ["13", r"\text{13 cm}"], [r"\text{31}"]),
    (r"\text{June 20}", ["June 20", r"June \text{20}"], ["June 21", "20"]),
    (r"\frac13", ["0.333333", r"0.\overline{3}", r"0.\bar3", "0.(3)"], ["0.3", "0.33"]),
    (r"\frac16", [r"0.1\overline{6}"], [r"0.\overline{16}"]),
    ("1.75", ["1¾", r"1\frac34"], ["¾"]),
    ("x^{10}", ["x¹⁰"], ["x10"]),
    ("10,000", ["10 000", "10 000 units"], ["10 00", "10 0000", "1,00"]),
    ("73", ["73,", "73;", r"73\\", r"\ 73\ ", "**73**", r"\text{The answer is }73", "= 73"], ["not 73"]),
    (r"1-\frac1e", [r"1-\frac{1}{\mathrm{e}}"], []),
    ("3+4i", [r"3+4\mathrm{i}"], [r"3-4\mathrm{i}"]),
    (r"\emptyset", [r"\varnothing", r"\{\}", "∅"], ["0", r"\{0\}"]),
    (r"(-\infty,1)\cup[2,\infty)", [r"x<1 \text{ or } x \ge 2", "x>=2 or 1>x"], ["x<1 or x>2", r"x<1 \text{ and } x\ge2"]),
    ("2F_{16}", [r"\text{2F}_{16}"], ["2F_{8}"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "same", "others"), ANSWERS)
def test_what_counts_as_equal(gold, same, others):
    verdicts = {answer: grade(boxed(answer), gold) for answer in [gold, *same, *others]}
    expected = dict.fromkeys([gold, *same], True) | dict.fromkeys(others, False)
    assert {answer: verdict.correct for answer, verdict in verdicts.items()} == expected
    assert all(verdict.reason for verdict in verdicts.values())


BY_RULES = [
    ("1,234", "1234"), (r"\frac12", "0.6"), ("0.5", r"50\%"), (r"5\text{ cm}", r"5\text{ s}"), ("1,-2", "-2, 1"), ("52_8", "52"),
    (r"\text{(C)}", "(B)"), (r"\frac{ab}{c}", r"\dfrac{ab}{c}"), ("x=5", "5"), (r"x \in [-2,7]", "[-2,7]"),
]  # fmt: skip


def test_rules_need_no_verifier(monkeypatch):
    monkeypatch.setattr(graders, "graders_of", None)
    for gold, answer in BY_RULES:
        assert grade(boxed(answer), gold).reason == ("equal" if compare(gold, answer) else "not equal")
    with pytest.raises(NeedsAlgebra):
        compare("ab", "ba")


def test_labelled_pairs():
    pairs = json.loads(data("grader_pairs.json").read_text(encoding="utf-8"))
    wrong = [pair for pair in pairs if grade(boxed(pair["answer"]), pair["gold"]).correct != pair["correct"]]
    assert wrong == []


def test_many_keep_their_order_gold_may_be_boxed_and_what_cannot_be_graded_is_refused():
    assert [g.correct for g in grade_many([boxed("1"), boxed("2")], [r"thus \boxed{1}", "1"])] == [True, False]
    with pytest.raises(ValueError, match=r"longer|shorter"):
        grade_many([boxed("1")], ["1", "2"])
    for refused in (lambda: grade("", "", mode="fuzzy"), lambda: CorrectnessReward("fuzzy")):
        with pytest.raises(StudyError, match="fuzzy"):
            refused()
    for limit in (0, -1, float("nan"), float("inf")):
        with pytest.raises(StudyError, match="time limit"):
            grade("", "", timeout_s=limit)


@settings(max_examples=100, deadline=None)
@given(st.fractions(max_denominator=10**4), st.integers(0, 6))
def test_numbers_are_equal_to_their_other_spellings_and_to_nothing_else(value, zeros):
    gold = str(value)
    sign = "-" if value < 0 else ""
    top, bottom = abs(value.numerator), value.denominator
    assert grade(boxed(rf"{sign}\frac{{{top * 3}}}{{{bottom * 3}}}"), gold).correct
    assert not grade(boxed(rf"{sign}\frac{{{top * 3 + 1}}}{{{bottom * 3}}}"), gold).correct
    if bottom == 1:
        assert grade(boxed(f"{sign}{'0' * zeros}{top:,}"), gold).correct or zeros
        assert grade(boxed(f"{sign}{'0' * zeros}{top}.0"), gold).correct


@pytest.fixture(scope="module")
def math_500():
    return [json.loads(line) for line in data("math500.jsonl").read_text(encoding="utf-8").splitlines()]


def test_solutions_and_other_spellings_of_math_500_are_correct(math_500):
    wrong = []
    for row in math_500:
        gold = row["answer"]
        spelled = gold.replace(r"\frac", r"\dfrac").replace(r"\left", "").replace(r"\right", "").replace("(", "( ")
        wrong += [said for said in (row["solution"], f"**Answer:** $ {spelled} $.") if not grade(said, gold).correct]
    assert wrong == []


def test_gold_answers_of_math_500_differ_from_each_other(math_500):
    # The full table (301 distinct answers) takes a quarter of an hour; every answer against the most alike here.
    pairs = pairwise(sorted({row["answer"] for row in math_500}))
    # a number and the same number with its unit: equal, also to a reader
    alike = [("120", r"120^\circ"), ("15", r"15\mbox{ cm}^2"), ("30", r"30^\circ"), ("36", r"36^\circ")]
    assert [(gold, other) for gold, other in pairs if grade(boxed(other), gold).correct] == alike


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


def test_the_last_answer_is_extracted_and_without_one_nothing_is_correct_or_well_formed():
    assert {completion: extract_answer(completion) for completion in EXTRACTED} == EXTRACTED
    for completion in NOTHING:
        found = grade(completion, "5")
        assert (found.correct, found.extracted, found.formed) == (False, None, False)


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


def test_a_choice_is_one_letter():
    found = {text: grade(text, "B", mode="choice") for text in CHOOSE_B + CHOOSE_NONE}
    assert [text for text, one in found.items() if one.correct and one.extracted == "B"] == CHOOSE_B
    assert [text for text, one in found.items() if one.extracted is None] == CHOOSE_NONE
    assert not any(grade(text, "C", mode="choice").correct for text in found)


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
    with pytest.raises(StudyError, match="'answer'"):
        reward(prompts=[""], completions=[""], gold=["1"])
