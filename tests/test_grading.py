"""Known answers: what counts as the answer, and what counts as equal."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.grading import Grade, grade, grade_many
from s2d_lib.grading.extract import extract_answer

MATH_500 = Path(__file__).parents[1] / "../shared/data/math500.jsonl"
PAIRS = MATH_500.with_name("grader_pairs.json")


def boxed(answer: str) -> str:
    return rf"So the answer is $\boxed{{{answer}}}$."


# (gold, answer, how): "rule" must be decided without the worker, "algebra" by math-verify
EQUAL = [
    ("25", "025", "rule"),
    ("025", "25", "rule"),
    ("-3", "- 3", "rule"),
    ("-3", "\u22123", "rule"),
    ("10,\\!080", "10080", "rule"),
    ("10080", "10{,}080", "rule"),
    (r"\$32,\!348", "32,348", "rule"),
    ("58,500", r"58500", "rule"),
    ("0.5", r"\frac{1}{2}", "rule"),
    (r"\frac12", "1/2", "rule"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ", "rule"),
    (r"1\frac{4}{5}", "1.8", "rule"),
    ("137 \\frac{1}{2}", "137.5", "rule"),
    (".0000672", r"6.72 \times 10^{-5}", "rule"),
    (r"\frac{1}{3}", "0.333333", "rule"),
    ("90^\\circ", "90", "rule"),
    ("90", "90\u00b0", "rule"),
    ("50", r"50\%", "rule"),
    (r"50\%", "0.5", "rule"),
    ("0.05", r"5\%", "rule"),
    (r"5.4 \text{ cents}", "5.4", "rule"),
    (r"864 \mbox{ inches}^2", "864", "rule"),
    ("20", "20 square units", "rule"),
    ("x=5", "5", "rule"),
    ("5", "x = 5", "rule"),
    (r"\text{Evelyn}", "Evelyn", "rule"),
    ("Evelyn", r"\text{evelyn}", "rule"),
    (r"\text{(C)}", "C", "rule"),
    (r"\text{(C)}", r"\textbf{(C)}", "rule"),
    ("(3,4]", r"\left(3, 4\right]", "rule"),
    ("(1,2)", "1, 2", "rule"),
    ("1,-2", "-2, 1", "rule"),
    ("1,-2", "x = -2 \\text{ or } x = 1", "rule"),
    ("52_8", "52_{8}", "rule"),
    ("52_8", "52", "rule"),
    (r"\dfrac{\pi}{2}", r"\frac{\pi}{2}", "rule"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", "algebra"),
    ("2k+2", "2(k+1)", "algebra"),
    ("p - q", "-q+p", "algebra"),
    ("(a+5)(b+2)", "(b+2)(a+5)", "algebra"),
    (r"11\sqrt2", r"\sqrt{242}", "algebra"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", "algebra"),
    (r"\sqrt{2}", "1.414214", "algebra"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, \sqrt{19}+1", "algebra"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt5, 1-\sqrt5\}", "algebra"),
    ("y = 2x + 3", "y = 3 + 2x", "algebra"),
    (r"x \in [-2,7]", "[-2,7]", "rule"),
    (r"x \in [-2,7]", r"-2 \le x \le 7", "algebra"),
    (r"(0,9) \cup (9,36)", r"(9,36)\cup(0,9)", "algebra"),
    ("6 - 5i", "-5i+6", "algebra"),
    (r"\cot x", r"\frac{\cos x}{\sin x}", "algebra"),
    ("1024", "2^{10}", "algebra"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix} -\frac13 \\ \frac23 \end{pmatrix}", "algebra"),
    ("8n^2 + 4n + 1", "1 + 4n(2n+1)", "algebra"),
]

DIFFERENT = [
    ("10", "1"),
    ("1", "10"),
    ("100", "10 0"),
    ("12", "1 2"),
    ("3", "1 2"),  # math-verify alone reads "1 2" as a sum
    ("0.36", "1.2.3"),
    ("(1,2)", "[1,2]"),
    ("[1,2]", "(1,2)"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "2,1"),
    ("(1,2)", r"\{1,2\}"),
    (r"\{1,2\}", "(1,2)"),
    ("(3,4]", "(3,4)"),
    ("(-2,1)", "[-2,1)"),
    ("1,-2", "1"),
    ("1,-2", "1,-2,3"),
    ("5", "5, 6"),
    ("5", "5 or 6"),
    ("1,1,2", "1,2,2"),
    (r"\frac{1}{3}", "0.33"),
    ("5", "4.9999999"),
    (".0000672", "0.0000674"),
    (r"\sqrt{2}", "1.41"),
    (r"\frac{\pi}{3000000}", "0.000001"),  # equal to six decimal places, which is no agreement
    (r"\text{even}", "odd"),
    (r"\text{even}", r"\text{not even}"),
    (r"\text{(C)}", "(B)"),
    ("52_8", "52_9"),
    ("52_8", "42"),
    ("3t", "3"),  # t is no unit
    ("0", "5x - 7y + 11z + 4 = 0"),
    ("x=5", "y=6"),
    ("y = 2x + 3", "y = 2x - 3"),
    ("5", "5 garbage"),
    ("5", r"\foo{5}"),
    ("2k+2", "2k+1"),
    ("p - q", "q - p"),
    ("6 - 5i", "6 + 5i"),
    ("25", "52"),
    ("-3", "3"),
    ("1000", "1,00"),
    ("90", r"\frac{\pi}{2}"),
]

# kind: gold answer, answers that are it, answers that are not
KINDS = {
    "exact values": [
        (r"\frac{50!}{52!}", [r"\frac{1}{2652}"], [r"\frac{49!}{52!}"]),
        (r"\frac{2^{100}-1}{2^{100}}", ["1-2^{-100}"], [r"\frac{1}{2^{100}}", "1"]),
        (r"\frac{1}{2004!}", [r"\frac{2005}{2005!}"], [r"\frac{1}{2006!}", "0"]),
        ("e^{-50}", [r"\frac{1}{e^{50}}", r"1.928750\times10^{-22}"], ["e^{-51}", "0", r"1.929\times10^{-22}"]),
        (r"(1-2^{-200})\sqrt{2}", [r"\sqrt2-2^{-200}\sqrt2"], [r"\sqrt2"]),
        (r"\frac{x}{2^{99}}", [r"2^{-99}x"], [r"\frac{x}{2^{98}}"]),
        (r"\begin{pmatrix}2^{-99}\\1\end{pmatrix}", [], [r"\begin{pmatrix}2^{-98}\\1\end{pmatrix}"]),
        (r"\sqrt{3+2\sqrt2}", [r"1+\sqrt2", "2.414214"], ["2.4142"]),
        ("0.5x", [r"\frac{x}{2}"], ["0.5000001x"]),
    ],
    "powers of variables": [
        (r"\frac{1}{\sqrt{n}}", [r"\sqrt{1/n}", r"\frac{\sqrt n}{n}"], [r"\frac{1}{\sqrt{n+1}}"]),
        (r"\ln|x|", [], [r"\ln x"]),
        (r"2\cdot3^{n}", [r"6\cdot3^{n-1}"], [r"6\cdot3^{n+1}"]),
        ("x", [], [r"\sqrt{x^2}", "|x|"]),
    ],
    "choices": [
        (
            r"\text{(C)}",
            ["C", "(C)", r"\textbf{(C)}\ 12", "C. 12", r"\mathbf{(C)}"],
            [
                "(C) or (D)",
                "(C)(D)(A)(B)(E)",
                r"\text{(C) or (B)}",
                "(C), (B)",
                "C or D",
                "A, C",
                r"(C) \text{ and } (D)",
                "(B)",
            ],
        )
    ],
    "units": [
        (
            "12",
            [r"12\text{ cm}", "12 apples", r"\$12", "€12", "12 km/h"],
            ["12 million", r"12\text{ dozen}", r"12 \text{ is wrong}"],
        ),
        ("12000000", [r"12 \text{ million}", "12 million people", r"\$12 \text{ million}"], ["12"]),
        (r"6{:}30\text{ p.m.}", ["6:30 PM", "6:30"], [r"6:30\text{ a.m.}", "6:31 p.m."]),
        (r"30^\circ\text{ N}", [r"30^\circ \text{N}"], [r"30^\circ\text{ S}", r"30^\circ"]),
        ("30 N", [], ["30 S"]),
        (
            r"5\text{ minutes}",
            ["5", "300 seconds", r"\frac{1}{12}\text{ hours}"],
            [r"5\text{ hours}", "5 kg", r"5\text{ garbage}"],
        ),
        (r"25^\circ\text{C}", ["25", r"25^\circ", "25 degrees Celsius"], [r"25^\circ\text{F}"]),
        (r"15\mbox{ cm}^2", ["15", "15 square units", r"0.0015\text{ m}^2"], ["15 cm"]),
        (r"\$0.50", ["50 cents", "0.5 dollars"], ["£0.50", "0.5 cents"]),
        (r"\frac{\pi}{2}\text{ hours}", [r"30\pi\text{ minutes}"], [r"\frac{\pi}{2}\text{ minutes}"]),
        ("9.8", [r"9.8\,\mathrm{m\,s^{-2}}", "9.8 m/s^2"], ["9.8m"]),
        (r"1, 2\text{ cm}", ["1, 2", r"1\text{ cm and }2\text{ cm}"], [r"1, 2\text{ m}", r"1, 2\text{ s}"]),
        ("10 years", ["10 years old"], ["10 months"]),
        ("110", [r"100\times1.1"], [r"100\times1.100001"]),
        ("60 mph", ["60 miles per hour"], ["60 km/h"]),
        (r"5 \pmod 7", ["5", "5 mod 7", r"x \equiv 5 \pmod{7}"], [r"5 \pmod 8", "12"]),
    ],
    "roots": [
        ("3", ["√9"], ["√13", "√19"]),
        (r"\sqrt{13}", ["√13", "√(13)", r"\sqrt13"], ["3√1"]),
        ("4", ["√16", "√(10+6)", "√√256", "∛64"], []),
    ],
    "spelling": [
        (r"\text{13}", ["13", r"\text{13 cm}"], [r"\text{31}"]),
        (r"\text{June 20}", ["June 20", r"June \text{20}"], ["June 21", "20"]),
        (r"\text{even}", ["Even"], ["neve"]),
        (r"\frac13", [r"0.\overline{3}", r"0.\bar3", "0.(3)"], ["0.3"]),
        (r"\frac16", [r"0.1\overline{6}"], [r"0.\overline{16}"]),
        ("1.75", ["1¾", r"1\frac34"], ["¾"]),
        ("x^{10}", ["x¹⁰"], ["x10"]),
        ("10,000", ["10 000", "10 000 units"], ["10 00", "10 0000"]),
        ("73", ["73,", "73;", r"73\\", r"\ 73\ ", "**73**", r"\text{The answer is }73", "= 73"], ["not 73"]),
        (r"1-\frac1e", [r"1-\frac{1}{\mathrm{e}}"], []),
        ("3+4i", [r"3+4\mathrm{i}"], [r"3-4\mathrm{i}"]),
        (r"\emptyset", [r"\varnothing", r"\{\}", "∅"], ["0", r"\{0\}"]),
        (
            r"(-\infty,1)\cup[2,\infty)",
            [r"x<1 \text{ or } x \ge 2", "x>=2 or 1>x"],
            ["x<1 or x>2", r"x<1 \text{ and } x\ge2"],
        ),
        ("2F_{16}", [r"\text{2F}_{16}"], ["2F_{8}"]),
    ],
    "equations": [
        ("5", ["5=x", "2+3=5", "x=2+3=5"], ["2+2=5", "5=6", "x^2=5"]),
        ("0.5", [r"1/2 = 50\%"], [r"1/2 = 60\%"]),
    ],
}


@pytest.mark.parametrize(("gold", "answer", "how"), EQUAL)
def test_equal_answers(gold, answer, how):
    verdict = grade(boxed(answer), gold)
    assert verdict.correct, verdict
    assert verdict.reason == ("equal" if how == "rule" else "equal by math-verify")


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers(gold, answer):
    verdict = grade(boxed(answer), gold)
    assert not verdict.correct
    assert verdict.extracted == answer
    assert verdict.reason


@pytest.mark.parametrize(
    ("gold", "same", "others"),
    [pytest.param(*case, id=f"{kind}: {case[0]}") for kind, cases in KINDS.items() for case in cases],
)
def test_kinds_of_answers(gold, same, others):
    verdicts = {answer: grade(boxed(answer), gold) for answer in [gold, *same, *others]}
    assert {answer: verdict.correct for answer, verdict in verdicts.items()} == {
        **dict.fromkeys([gold, *same], True),
        **dict.fromkeys(others, False),
    }


def test_labelled_pairs():
    if not PAIRS.exists():
        pytest.skip("grader_pairs.json is not at ../shared/data")
    pairs = json.loads(PAIRS.read_text(encoding="utf-8"))
    wrong = [pair for pair in pairs if grade(boxed(pair["answer"]), pair["gold"]).correct != pair["correct"]]
    assert wrong == []


@pytest.mark.parametrize(
    ("completion", "answer", "correct"),
    [
        ("Answer: not $7$", "7", False),
        ("Answer: $5$ is wrong, it is 6", "5", False),
        ("Answer: 7 (since $n=3$)", "7", True),
        ("Answer: 12 apples at $5$ each", "12", True),
        ("Answer: $12 apples", "12", True),
        ("Answer: $5$ cm", r"5\text{ cm}", True),
        ("Answer: $12$ million", "12", False),
        ("Answer: $1$ or $2$", "1", False),
    ],
)
def test_answer_lines(completion, answer, correct):
    assert grade(completion, answer).correct is correct


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x : x > 1 \right.}", r"\left\{ x : x > 1 \right."),
        (r"$\boxed 5$", "5"),
        (r"$\boxed5.$", "5"),
        (r"\boxed \frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{8}", "8"),
        (r"\boxed{1} \fbox{2}", "2"),
        (r"\fbox{1} \boxed{2}", "2"),
        (r"\boxed{x = \fbox{3}}", r"x = \fbox{3}"),
        (r"\boxed{3} Answer: 4", "3"),
        ("Answer: 4", "4"),
        ("reasoning\nThe answer is: 12", "12"),
        ("Answer: 3\nNo, wait.\nAnswer: $4$.", "4"),
        ("**Answer:** 17", "17"),
        ("### Final Answer:\n\n$5$", "5"),
        ("ANSWER: The value is $\\frac12$", "\\frac12"),
        (r"answer : \(9\)", "9"),
        ("Answer: not $7$", "not $7$"),
        ("Answer: $12$ million", "$12$ million"),
        ("Answer: 7 (since $n=3$)", "7"),
        ("Answer: 12 apples at $5$ each", "12 apples"),
        ("Answer: 5 at least", "5 at least"),
        ("Answer: 7 (or 8)", "7 (or 8)"),
    ],
)
def test_the_last_answer_is_extracted(completion, answer):
    assert extract_answer(completion) == (answer, "")


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "no boxed answer"),
        ("The result is 5.", "no boxed answer"),
        (r"\boxed{}", "empty"),
        (r"\boxed{5} as asked in \boxed{{}}", "empty"),
        (r"\boxed{5} and \boxed{6", "never closed"),
        (r"\boxed", "empty"),
        ("Answer:   ", "empty"),
        (r"\boxedtext{5}", "no boxed answer"),
    ],
)
def test_no_answer_has_a_reason(completion, reason):
    verdict = grade(completion, "5")
    assert verdict == Grade(False, None, verdict.reason)
    assert reason in verdict.reason


def test_gold_may_be_boxed():
    assert grade(boxed("7"), r"thus \boxed{7}").correct


@pytest.mark.parametrize(
    ("completion", "answer", "correct", "extracted"),
    [
        ("v3 f1 v7 f2 v9 # v9", "v9", True, "v9"),
        ("v3 f1 v7 # v7 f2 # v9", "v9", True, "v9"),
        ("v3 f1 v7 f2 v9 # v9 v9", "v9", False, "v9 v9"),
        ("# a  b\n", " a b", True, "a b"),
        ("v3 f1 v7 # v70", "v7", False, "v70"),
        ("v9", "v9", False, None),
        ("v3 # ", "v9", False, None),
        ("v3 #v9", "v9", False, None),
        (r"\boxed{v9}", "v9", False, None),
        ("", "v9", False, None),
        ("#", "", False, None),
    ],
)
def test_exact_mode(completion, answer, correct, extracted):
    verdict = grade(completion, answer, mode="exact")
    assert (verdict.correct, verdict.extracted) == (correct, extracted)


def test_grade_many_keeps_order_and_refuses_unequal_lengths():
    assert [g.correct for g in grade_many([boxed("1"), boxed("2")], ["1", "1"])] == [True, False]
    with pytest.raises(ValueError, match=r"longer|shorter"):
        grade_many([boxed("1")], ["1", "2"])


def test_unknown_mode_and_impossible_time_limit_are_refused():
    with pytest.raises(StudyError, match="fuzzy"):
        grade("", "", mode="fuzzy")
    for limit in (0, -1, float("nan"), float("inf")):
        with pytest.raises(StudyError, match="time limit"):
            grade("", "", timeout_s=limit)


@settings(max_examples=200, deadline=None)
@given(st.fractions(max_denominator=10**4), st.integers(0, 6))
def test_numbers_are_equal_to_their_other_spellings_and_to_nothing_else(value, zeros):
    gold = str(value)
    sign = "-" if value < 0 else ""
    top, bottom = abs(value.numerator), value.denominator
    latex = rf"{sign}\frac{{{top * 3}}}{{{bottom * 3}}}"
    assert grade(boxed(latex), gold).correct
    assert not grade(boxed(rf"{sign}\frac{{{top * 3 + 1}}}{{{bottom * 3}}}"), gold).correct
    if bottom == 1:
        assert grade(boxed(f"{sign}{'0' * zeros}{top:,}"), gold).correct or zeros
        assert grade(boxed(f"{sign}{'0' * zeros}{top}.0"), gold).correct


@pytest.fixture(scope="module")
def math_500():
    if not MATH_500.exists():
        pytest.skip("MATH-500 is not at ../shared/data")
    return [json.loads(line) for line in MATH_500.read_text(encoding="utf-8").splitlines()]


def test_reference_solutions_of_math_500_are_correct(math_500):
    wrong = [row["unique_id"] for row in math_500 if not grade(row["solution"], row["answer"]).correct]
    assert wrong == []


def test_gold_answers_of_math_500_differ_from_each_other(math_500):
    # The full table (301 distinct answers) takes a quarter of an hour; every answer against 3 others here.
    golds = sorted({row["answer"] for row in math_500})
    alike = []
    for index, gold in enumerate(golds):
        for step in (1, 7, 150):
            other = golds[(index + step) % len(golds)]
            if grade(boxed(other), gold).correct:
                alike.append((gold, other))
    # a number and the same number with its unit: equal, also to a reader
    assert alike == [("120", r"120^\circ"), ("15", r"15\mbox{ cm}^2"), ("30", r"30^\circ"), ("36", r"36^\circ")]


def test_other_spellings_of_math_500_answers_are_equal(math_500):
    wrong = []
    for row in math_500:
        gold = row["answer"]
        spelled = gold.replace(r"\frac", r"\dfrac").replace(r"\left", "").replace(r"\right", "").replace("(", "( ")
        if not grade(f"**Answer:** $ {spelled} $.", gold).correct:
            wrong.append((gold, spelled))
    assert wrong == []
