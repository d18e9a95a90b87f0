"""Whether an answer is the gold answer: exact rules first, math-verify (in the worker) for what they leave open."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from s2d_lib.grading.extract import MAX_ANSWER_CHARS
from s2d_lib.grading.normal import (
    Clean,
    Listing,
    assignment,
    based,
    based_value,
    chain,
    choice,
    listing,
    measured,
    number,
    numbers_equal,
    only_letter,
    same_words,
    spelled,
    squash,
    unmarked,
    words,
)
from s2d_lib.grading.units import MARK, conversion

Ask = Callable[[Sequence[tuple[str, str]]], list[bool]]

MAX_DEPTH = 25
MAX_ITEMS = 12
# What would only keep the worker busy until its time limit: numbers with millions of digits.
_POWER = r"\^\s*[{(]*\s*[+-]?\d+\s*"
_HUGE = re.compile(
    rf"\^\s*[{{(]*\s*[+-]?\d{{6,}}|\d{{6,}}\s*\)?\s*!|{_POWER}\^\s*[{{(]*\s*\d{{2,}}|{_POWER}{_POWER}\^|!\s*!\s*!"
)
# math-verify reads "1 2" as the sum and "1.2.3" as a product of two numbers; as answers both are nonsense.
_NONSENSE = re.compile(r"\d\s+\d|\d\.\d+\.\d")


def refusal(text: str) -> str | None:
    """Why an answer is not given to math-verify at all, or None."""
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"the answer nests deeper than {MAX_DEPTH} brackets"
    if _HUGE.search(text):
        return "the answer has a power or factorial that is too large to evaluate"
    if _NONSENSE.search(text):
        return "the answer is not one expression"
    return None


def compare(gold: str, pred: str, ask: Ask) -> tuple[bool, str]:
    """Compare two answers.

    Args:
        gold: The gold answer's text.
        pred: The text of the answer to judge.
        ask: Tells for (gold, pred) pairs of LaTeX whether math-verify holds them equal; may raise.

    Returns:
        Whether they are equal, and how that was found. Of a chain of equations (1/2 = 50%) every side must be.
    """
    if max(len(gold), len(pred)) > MAX_ANSWER_CHARS:
        return gold.strip() == pred.strip(), f"an answer is longer than {MAX_ANSWER_CHARS} characters"
    gold, pred = (spelled(text.replace(MARK, "")) for text in (gold, pred))
    whole = "=" in gold or assignment(pred) or listing(pred) or "\\begin" in pred
    for side in [pred] if whole else chain(pred):
        verdict = _compare(measured(gold), measured(side), ask)
        if not verdict[0]:
            break
    return verdict


def _compare(gold: Clean, pred: Clean, ask: Ask) -> tuple[bool, str]:
    decided = _decide(gold, pred)
    if decided is not None:
        return decided, "equal" if decided else "not equal"
    refused = refusal(pred.text)
    if refused:
        return False, refused
    gold_text, pred_text = _same_side(gold.text, pred.text)
    gold_list, pred_list = listing(gold_text), listing(pred_text)
    if gold_list and pred_list and len(gold_list.items) <= MAX_ITEMS:
        equal = _match(gold_list, pred_list, ask)
    else:
        equal = ask([_question(gold, pred)])[0]
    return equal, "equal by math-verify" if equal else "not equal by math-verify"


def _question(gold: Clean, pred: Clean) -> tuple[str, str]:
    """The LaTeX that math-verify is asked for, the answer in the gold answer's unit."""
    texts = [re.sub(rf"{MARK}([^\W\d_]+)", r"\\text{\1}", text) for text in _same_side(gold.text, pred.text)]
    factor = _factor(gold, pred)
    return texts[0], texts[1] if factor == 1 else rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}({texts[1]})"


def _factor(gold: Clean, pred: Clean) -> Fraction | None:
    """What turns the answer into the gold answer's unit: 1 where one of them has none, None where there is no such."""
    return conversion(pred.unit, gold.unit) if gold.unit and pred.unit else Fraction(1)


def _same_side(gold: str, pred: str) -> tuple[str, str]:
    """x = 5 against 5: the right side counts. x = 5 against x = 6: both right sides; against y = 5: all of both."""
    gold_sides, pred_sides = assignment(gold), assignment(pred)
    if gold_sides and pred_sides:
        return (gold_sides[1], pred_sides[1]) if gold_sides[0] == pred_sides[0] else (gold, pred)
    if gold_sides and "=" not in pred:
        return gold_sides[1], pred
    if pred_sides and "=" not in gold:
        return gold, pred_sides[1]
    return gold, pred


def _decide(gold: Clean, pred: Clean) -> bool | None:
    """Equal or not where exact rules tell; None where only algebra can."""
    factor = _factor(gold, pred)
    if factor is None:
        return False
    if factor == 1 and squash(gold.text) == squash(pred.text):
        return bool(gold.text)
    letter = choice(gold.text)
    if letter:
        return only_letter(unmarked(pred.text)) == letter
    if factor == 1 and same_words(gold.text, pred.text):
        return True
    gold_text, pred_text = _same_side(gold.text, pred.text)
    if (gold_text, pred_text) != (gold.text, pred.text):
        return _decide(replace(gold, text=gold_text), replace(pred, text=pred_text))
    gold_number, pred_number = number(gold_text), number(pred_text)
    if gold_number and pred_number:
        return numbers_equal(gold_number, pred_number.times(factor), gold.percent, pred.percent)
    gold_based, pred_based = based(gold_text), based(pred_text)
    if gold_based and pred_based:
        return gold_based == pred_based
    if gold_based and pred_number:
        return pred_text == gold_based[0]  # "in base 8" is part of the question
    if pred_based and gold_number:
        return gold_text == pred_based[0] or gold_number.value == based_value(*pred_based)
    gold_list, pred_list = listing(gold_text), listing(pred_text)
    if gold_list and pred_list:
        return _decide_lists(gold_list, pred_list) if factor == 1 else False
    if (gold_number and pred_list and len(pred_list.items) > 1) or (gold_list and pred_number):
        return False
    return None if words(gold_text) == words(pred_text) else False


def _fit(gold: Listing, pred: Listing) -> bool:
    """Whether two lists may be one answer by their brackets: (1, 2) is neither [1, 2] nor the set of 1 and 2."""
    if len(gold.items) != len(pred.items):
        return False
    if gold.opens in ("", "\\{"):
        return pred.opens in ("", "\\{") or (gold.opens == "" and pred.opens == "(" and pred.closes == ")")
    if pred.opens == "":
        return gold.opens == "(" and gold.closes == ")"
    return (gold.opens, gold.closes) == (pred.opens, pred.closes)


def _table(gold: Listing, pred: Listing) -> list[list[bool | None]]:
    return [[_decide(measured(g), measured(p)) for p in pred.items] for g in gold.items]


def _decide_lists(gold: Listing, pred: Listing) -> bool | None:
    if not _fit(gold, pred):
        return False
    if len(gold.items) > MAX_ITEMS:
        return None
    table = _table(gold, pred)
    if gold.ordered:
        diagonal = [table[i][i] for i in range(len(table))]
        return False if False in diagonal else None if None in diagonal else True
    # Items that are equal to each other make no difference to a greedy match.
    rows = [any(cell is not False for cell in row) for row in table]
    columns = [any(row[j] is not False for row in table) for j in range(len(table))]
    if not (all(rows) and all(columns)):
        return False
    return None if any(cell is None for row in table for cell in row) else _assign(table)


def _assign(table: list[list[bool | None]]) -> bool:
    free = set(range(len(table)))
    for row in table:
        hit = next((j for j in sorted(free) if row[j]), None)
        if hit is None:
            return False
        free.discard(hit)
    return True


def _match(gold: Listing, pred: Listing, ask: Ask) -> bool:
    """Compare lists item by item; only the pairs that the exact rules leave open are asked, all at once."""
    table = _table(gold, pred)
    size = range(len(table))
    wanted = [(i, i) for i in size] if gold.ordered else [(i, j) for i in size for j in size]
    wanted = [(i, j) for i, j in wanted if table[i][j] is None]
    pairs = [_question(measured(gold.items[i]), measured(pred.items[j])) for i, j in wanted]
    for (i, j), equal in zip(wanted, ask(pairs), strict=True):
        table[i][j] = equal
    return all(table[i][i] for i in size) if gold.ordered else _assign(table)
