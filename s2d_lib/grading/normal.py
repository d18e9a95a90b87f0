"""Answers as plain text: LaTeX spelling removed, numbers read, words and lists recognised. No sympy here."""

import re
from dataclasses import dataclass
from fractions import Fraction

_UNICODE = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2014": "-",  # minus sign and dashes
        "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u00f7": "/", "\u00b1": r"\pm ", "\u221a": r"\sqrt ",
        "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u00b0": r"^\circ ", "\u00b2": "^2", "\u00b3": "^3",
        "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u222a": r"\cup ", "\u2208": r"\in ",
        "\uff05": "%", "\uff0c": ",", "\uff08": "(", "\uff09": ")",  # as Chinese text has them
        "\u00a0": " ", "\u2009": " ", "\u202f": " ",  # spaces that do not break
    }
)  # fmt: skip

_REWRITES = [
    (re.compile(r"\\(?:boxed|fbox|displaystyle|textstyle)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (
        re.compile(r"\\(?:textbf|textit|textrm|textsf|textup|textnormal|mbox|hbox|mathrm|mathbf|mathit)\s*\{"),
        r"\\text{",
    ),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\l?brace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    # 1{,}000, 1,\!000, 1\,000: thousands, whatever the spelling
    (re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\,)\s*(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\[,;:! ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\?\$|(?<!\\)\\[()\[\]]"), ""),
    (re.compile(r"\\text\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|\s(?:and|or)\s"), ","),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\s+"), " "),
]

_UNIT_WORD = (
    "degrees?|deg|dollars?|cents?|inch(?:es)?|feet|foot|ft|yards?|miles?|mph|meters?|metres?|centimeters?|"
    "kilometers?|cm|mm|km|kg|grams?|pounds?|liters?|litres?|hours?|minutes?|seconds?|days?|weeks?|months?|years?|units?"
)
# Single letters are no units here: 3m may be an expression.
_UNIT = re.compile(
    rf"(?:\^\s*\{{?\s*\\circ\s*\}}?|\\degrees?|\\text\s*\{{[^{{}}]*\}}|(?<=[\d}})\s])\s?(?:(?:square|sq|cubic) )?"
    rf"(?:{_UNIT_WORD}))(?:\s*\^\s*\{{?[23]\}}?)?\s*$"
)
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*percent\s*\}|(?<=[\d}\s])percent)\s*$")


@dataclass(frozen=True)
class Clean:
    """An answer without its spelling: ``text`` is what is compared; ``percent``: a percent sign was dropped."""

    text: str
    percent: bool = False


def clean(answer: str) -> Clean:
    r"""Spelling removed: ``\left``, spacing, ``\$``, thousands, a unit, degree or percent sign at the end, a full stop.

    Units are dropped, not compared: the problem states the unit, and solutions spell it in many ways.
    """
    text = answer.translate(_UNICODE)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _unbrace(text.strip().rstrip(".").strip())
    percent = _PERCENT.search(text)
    if percent and percent.start():
        text = text[: percent.start()]
    for _ in range(3):
        unit = _UNIT.search(text)
        if not (unit and re.search(r"\d|\\[a-z]", text[: unit.start()])):  # \text{east} alone is no unit
            break
        text = text[: unit.start()].strip()
    return Clean(text.strip(), bool(percent))


def _unbrace(text: str) -> str:
    while text.startswith("{") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens ``text`` closes with its last character; ( ] may close each other (intervals)."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return index == len(text) - 1
    return False


def squash(text: str) -> str:
    """Without the spaces that carry no meaning: those not between two letters or digits."""
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text)


# ------------------------------------------------------------------ numbers
_INT = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = re.compile(rf"([+-]?)\s*({_INT})?(\.\d*)?(?:\s*(?:\\times|\\cdot|\*)\s*10\^\{{?\s*([+-]?\d{{1,3}})\s*\}}?"
                      r"|[eE]([+-]?\d{1,3}))?")  # fmt: skip
_FRACTION = re.compile(
    rf"([+-]?)\s*({_INT})?\s*(?:\\frac\s*(?:\{{\s*([+-]?{_INT})\s*\}}\s*\{{\s*([+-]?{_INT})\s*\}}|(\d)\s*(\d)"
    rf"|(\d)\s*\{{\s*({_INT})\s*\}}|\{{\s*({_INT})\s*\}}\s*(\d)))"
)
_SLASH = re.compile(rf"([+-]?)\s*(?:({_INT}) )?({_INT})\s*/\s*({_INT})")


@dataclass(frozen=True)
class Number:
    """A rational number as written. ``places``: digits after the point, None unless written as a decimal."""

    value: Fraction
    places: int | None = None
    digits: int = 0


def _int(text: str) -> int:
    return int(text.replace(",", ""))


def number(text: str) -> Number | None:
    r"""The number that ``text`` is, or None: 025, 1,000, .5, 6.7 \times 10^{-5}, 3/4, \frac34, 1\frac{3}{4}."""
    if len(text) > 200 or not re.search(r"\d", text):
        return None
    match = _DECIMAL.fullmatch(text)
    if match:
        sign, whole, tail, power, exponent = match.groups()
        if whole is None and tail in (None, "."):
            return None
        tail = (tail or "").lstrip(".")
        whole = (whole or "").replace(",", "")
        value = Fraction(int((whole + tail) or "0"), 10 ** len(tail)) * Fraction(10) ** int(power or exponent or 0)
        places = len(tail) - int(power or exponent or 0) if tail else None
        return Number(-value if sign == "-" else value, places, len((whole + tail).lstrip("0")))
    match = _FRACTION.fullmatch(text)
    if match:
        sign, whole, *parts = match.groups()
        top, bottom = (_int(part) for part in parts if part is not None)
    else:
        match = _SLASH.fullmatch(text)
        if not match:
            return None
        sign, whole, top, bottom = match[1], match[2], _int(match[3]), _int(match[4])
    if bottom == 0:
        return None
    value = Fraction(top, bottom) + (_int(whole) if whole else 0)
    return Number(-value if sign == "-" else value)


def numbers_equal(gold: Number, pred: Number, gold_percent: bool = False, pred_percent: bool = False) -> bool:
    r"""Whether two numbers are one answer: exactly, as percent, or rounded to six significant digits.

    50\% equals 50 as well as 0.5: problems ask for either. A decimal equals a non-integer fraction when it is that
    fraction rounded and shows at least six digits, as math-verify has it: 0.333333 is 1/3, 0.33 is not, 4.9999999
    is not 5.
    """
    if gold.value == pred.value:
        return True
    hundredfold = 100 if pred_percent else Fraction(1, 100)
    if gold_percent != pred_percent and pred.value == hundredfold * gold.value:
        return True
    for exact, rounded in ((gold, pred), (pred, gold)):
        if exact.places is None and exact.value.denominator > 1 and rounded.places is not None and rounded.digits >= 6:
            return abs(exact.value - rounded.value) <= Fraction(1, 2) * Fraction(10) ** -rounded.places
    return False


_BASED = re.compile(r"([0-9A-Z]+)\s*_\s*(?:\{\s*(\d+)\s*\}|(\d+))")


def based(text: str) -> tuple[str, str] | None:
    """Digits and base of an answer such as 52_8 or 4210_{5}."""
    match = _BASED.fullmatch(text)
    return (match[1], match[2] or match[3]) if match else None


def based_value(digits: str, base: str) -> int | None:
    """The integer that ``digits`` is in ``base``, or None where they do not fit."""
    try:
        return int(digits, int(base)) if len(digits) < 200 else None
    except ValueError:
        return None


# ------------------------------------------------------------------ words
def words(text: str) -> tuple[str, bool] | None:
    r"""The plain words an answer is, lower case, and whether the source marks them as text; None for mathematics."""
    match = re.fullmatch(r"\\text\s*\{([^{}\\]*)\}", text)
    if match:
        return " ".join(match[1].casefold().split()).strip(" ."), True
    if re.fullmatch(r"[A-Za-z][A-Za-z', -]{2,}", text):
        return " ".join(text.casefold().split()), False
    return None


def choice(text: str) -> str | None:
    r"""The letter of a multiple-choice answer, (C) or \text{(C)}: marked as such, since a bare C is a variable."""
    match = re.fullmatch(r"\\text\s*\{\s*\(?\s*([A-Z])\s*\)?\s*\.?\s*\}|\(\s*([A-Z])\s*\)", text)
    return (match[1] or match[2]) if match else None


# ------------------------------------------------------------------ assignments and lists
_ASSIGNMENT = re.compile(
    r"(\\?[A-Za-z]{1,12}(?:_(?:\w|\{\w+\}))?(?:\([A-Za-z](?:, ?[A-Za-z])*\))?)\s*(?:=|\\in(?![A-Za-z]))\s*([^=<>]+)"
)


def assignment(text: str) -> tuple[str, str] | None:
    r"""Left and right side of x = 5, f(x) = x + 1 or x \in [-2,7]."""
    match = _ASSIGNMENT.fullmatch(text)
    return (match[1].replace(" ", ""), match[2].strip()) if match else None


@dataclass(frozen=True)
class Listing:
    """A list of answers: how it opens and closes ("" without brackets), and its items."""

    opens: str
    closes: str
    items: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order of its items matters: points and intervals, not roots and sets."""
        return self.opens not in ("", "\\{")


def _split(text: str) -> list[str]:
    items, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char in ",;" and depth == 0:
            items.append(text[start:index].strip())
            start = index + 1
    return [*items, text[start:].strip()]


def listing(text: str) -> Listing | None:
    r"""The list an answer is: (a, b), [a, b), \{a, b\} or a, b; a \pm b counts as two items; None otherwise."""
    if "\\begin" in text:
        return None
    opens = closes = ""
    inner = text
    if text.startswith("\\{") and text.endswith("\\}") and _closes_at_end(text[1:-2] + "}"):
        opens, closes, inner = "\\{", "\\}", text[2:-2]
    elif text[:1] in ("(", "[") and _closes_at_end(text):
        opens, closes, inner = text[0], text[-1], text[1:-1]
    items = [inner] if number(inner) else _split(inner)
    if opens in ("", "\\{"):
        items = [signed for item in items for signed in _both_signs(item)]
    if not all(items) or (len(items) < 2 and opens != "\\{"):
        return None
    return Listing(opens, closes, tuple(items))


def _both_signs(item: str) -> list[str]:
    if item.count("\\pm") != 1 or "\\mp" in item:
        return [item]
    return [item.replace("\\pm", sign).strip().lstrip("+").strip() for sign in ("+", "-")]
