r"""Answers as plain text: spelling removed, units and numbers read, words and lists recognised. No sympy here.

The rules, in their order:

1. Spelling means nothing: Unicode or LaTeX, fonts, ``\left``, spaces, thousands, ``$``, markdown, punctuation around an
   answer, ``The answer is`` before it. ``√`` covers the whole number or group after it.
2. A word in ``\text{...}`` belongs to the answer and is marked as a word; ``e`` and ``i`` stay mathematics. "and" and "or"
   are commas; inequalities joined by "or" are the union of their intervals.
3. A percent sign is dropped and remembered: 50\% is 50 as well as 0.5.
4. A unit of the table in ``units`` at the end is dropped and remembered, a currency sign before the number and a modulus
   too. The problem states the unit, so either side may leave it out; two that measure different things are never equal,
   and others are converted. Any other word stays.
5. Numbers are exact fractions: decimals, fractions, mixed numbers, powers of ten, repeating decimals, and "12 million".
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from s2d_lib.grading.units import MARK, Unit, split_unit

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_UNICODE = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2014": "-",  # minus sign and dashes
        "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u00f7": "/", "\u2044": "/", "\u00b1": r"\pm ",
        "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u00b0": r"^\circ ", "\u2205": r"\emptyset ",
        "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u222a": r"\cup ", "\u2208": r"\in ",
    }
)  # fmt: skip

_ROOT = re.compile(
    r"(?:([√∛])|\\sqrt(?=\s*\d)) ?(\d+(?:\.\d+)?|[A-Za-z]|\\pi(?![A-Za-z])|\((?:[^()]|\([^()]*\))*\)|\\sqrt(?:\[3\])?\{[^{}]*\})"
)
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|mbox|hbox|mathrm)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_WORD = re.compile(rf"(?<![\\A-Za-z{MARK}])[^\W\d_]+(?:\.[^\W\d_]+)*")
_OR = rf"(?<![A-Za-z\\]){MARK}?or(?![A-Za-z])|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])"
_AND_OR = re.compile(rf"(?:, ?)?(?:{_OR}|(?<![A-Za-z\\]){MARK}?and(?![A-Za-z]))")

_REWRITES = [
    (re.compile(r"\\(?:boxed|fbox|displaystyle|textstyle|mathbf|mathit|mathsf|boldsymbol|bm)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"(?<=[A-Za-z])(?=\\(?:text|mathrm)\{[ei]\})"), " "),
    (re.compile(r"\\(?:text|mathrm)\{([ei])\}"), r"\1"),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\l?brace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\{([:.])\}"), r"\1"),  # 6{:}30
    # 1{,}000, 1,\!000, 1\,000: thousands, whatever the spelling
    (re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\,)\s*(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\[,;:! ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:pounds|textsterling)(?![A-Za-z])"), "£"),
    (re.compile(r"\\(?:euro|texteuro)(?![A-Za-z])"), "€"),
    (re.compile(r"(?<!\\)\$|(?<!\\)\\[()\[\]]"), ""),
    (re.compile(r"\\\$|\\textdollar(?![A-Za-z])"), "$"),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degrees?(?![A-Za-z])"), r"^\\circ "),
    (re.compile(r"\s+"), " "),
]
_DEGREES = [
    (
        re.compile(rf"(?:(?:\^\\circ|{MARK}?degrees?) ?{MARK}?|(?<=\d) ?{MARK}){short}(?:{long})?(?![A-Za-z_])"),
        f" {MARK}{short}{long}",
    )
    for short, long in (("C", "elsius"), ("F", "ahrenheit"))
]
_GROUPED = re.compile(r"(?<![\d.,/])(?<!\d )(\d{1,3}(?: \d{3})+)(?![\d/]| [\d/])")  # 10 000
_AROUND = re.compile(r"^(?:[\s,;:=]|\*\*|__|`)+|(?:[\s.,;:]|\\\\|\\(?=$)|\*\*|__|`)+$")
FILLER = re.compile(
    rf"(?:{MARK}?(?:so|thus|therefore|hence|the|final|answer|value|result|is|are|equals?|option|choice)(?![A-Za-z])[ ,:]*)+",
    re.I,
)
_PERCENT = re.compile(rf" ?(?:\\?%|{MARK}percent|(?<=[\d}} ])percent)$")


@dataclass(frozen=True)
class Clean:
    """An answer without its spelling: ``text`` is what is compared; the ``unit``, and whether a percent sign was dropped."""

    text: str
    percent: bool = False
    unit: Unit | None = None


def clean(answer: str) -> Clean:
    """An answer after rules 1 to 4 of this module."""
    return measured(spelled(answer))


def measured(text: str) -> Clean:
    """What is spelled already, or a part of it, after rules 3 and 4."""
    percent = _PERCENT.search(text)
    if percent and percent.start():
        text = text[: percent.start()]
    text, unit = split_unit(text)
    return Clean(_unbrace(text), bool(percent), unit)


def spelled(answer: str) -> str:
    """An answer after rules 1 and 2: words of the source's text carry a mark."""
    text = _SUPERSCRIPT.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", answer)
    text = _VULGAR.sub(
        lambda m: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", m[0]).split("\u2044")), text
    )
    text = unicodedata.normalize("NFKC", text).translate(_UNICODE)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    while (plain := _TEXT.sub(_marked, text)) != text:
        text = plain
    while (covered := _ROOT.sub(_root, text)) != text:
        text = covered
    for pattern, replacement in _DEGREES:
        text = pattern.sub(replacement, text)
    text = _GROUPED.sub(lambda m: m[0].replace(" ", ""), text.replace("√", r"\sqrt "))
    text = _unbrace(_AROUND.sub("", text)).replace("**", "^")
    filler = FILLER.match(text)
    text = text[filler.end() :] if filler and filler.end() < len(text) else text
    text = _AND_OR.sub(",", _union(text) or text)
    return _unbrace(_AROUND.sub("", re.sub(" +", " ", text)))


def _marked(match: re.Match) -> str:
    text = _WORD.sub(lambda word: MARK + word[0], match[1])
    return text + " " if text[-1:].isalpha() and match.string[match.end() :][:1].isalpha() else text


def _root(match: re.Match) -> str:
    inner = match[2][1:-1] if match[2].startswith("(") else match[2]
    return rf"\sqrt{'[3]' if match[1] == '∛' else ''}{{{inner}}}"


def _unbrace(text: str) -> str:
    text = text.strip()
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


def unmarked(text: str) -> str:
    """Without the marks of words."""
    return re.sub(rf"(?<=[A-Za-z]){MARK}", " ", text).replace(MARK, "")


def squash(text: str) -> str:
    """Without marks and without the spaces that carry no meaning: those not between two letters or digits."""
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", unmarked(text))


# ------------------------------------------------------------------ numbers
_INT = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_TIMES_TEN = r"(?: ?(?:\\times|\\cdot|\*) ?10 ?\^ ?\{? ?([+-]?\d{1,3}) ?\}?|[eE]([+-]?\d{1,3}))?"
_DECIMAL = re.compile(rf"({_INT})?(\.\d*)?{_TIMES_TEN}")
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot) ?(?:\{ ?(\d+) ?\}|(\d))|\((\d+)\))")
_FRACTION = re.compile(
    rf"({_INT})? ?(?:\\frac ?(?:\{{ ?([+-]?{_INT}) ?\}} ?\{{ ?([+-]?{_INT}) ?\}}|(\d) ?(\d)"
    rf"|(\d) ?\{{ ?({_INT}) ?\}}|\{{ ?({_INT}) ?\}} ?(\d)))"
)
_SLASH = re.compile(rf"(?:({_INT}) )?({_INT}) ?/ ?({_INT})")
_MULTIPLE = re.compile(rf" ?{MARK}?(hundred|thousand|million|billion|trillion|dozen)s?$", re.I)
_MULTIPLES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}


@dataclass(frozen=True)
class Number:
    """A rational number as written. ``places``: digits after the point, None unless written as a decimal."""

    value: Fraction
    places: int | None = None
    digits: int = 0

    def times(self, factor: Fraction) -> "Number":
        """As much in another unit."""
        return self if factor == 1 else Number(self.value * factor)


def _int(text: str | None) -> int:
    return int((text or "0").replace(",", ""))


def number(text: str) -> Number | None:
    r"""The number that ``text`` is, or None: 025, 1,000, .5, 6.7 \times 10^{-5}, 3/4, \frac34, 1\frac{3}{4}, 0.\bar{3}."""
    if len(text) > 200 or not re.search(r"\d", text):
        return None
    multiple = _MULTIPLE.search(text)
    if multiple:
        found = number(text[: multiple.start()])
        return found and found.times(Fraction(_MULTIPLES[multiple[1].lower()]))
    sign, text = (-1 if text[0] == "-" else 1), text.lstrip("+-").strip() if text[0] in "+-" else text
    match = _DECIMAL.fullmatch(text)
    if match:
        whole, tail, power, exponent = match.groups()
        if whole is None and tail in (None, "."):
            return None
        tail, whole = (tail or "").lstrip("."), (whole or "").replace(",", "")
        value = Fraction(int((whole + tail) or "0"), 10 ** len(tail)) * Fraction(10) ** int(power or exponent or 0)
        places = len(tail) - int(power or exponent or 0) if tail else None
        return Number(sign * value, places, len((whole + tail).lstrip("0")))
    match = _REPEATING.fullmatch(text)
    if match:
        whole, first, *again = match.groups()
        again = next(digits for digits in again if digits)
        nines = Fraction(_int(again), 10 ** len(again) - 1)
        return Number(sign * (_int(whole) + (_int(first or "0") + nines) / 10 ** len(first)))
    match = _FRACTION.fullmatch(text)
    if match:
        whole, *parts = match.groups()
        top, bottom = (_int(part) for part in parts if part is not None)
    else:
        match = _SLASH.fullmatch(text)
        if not match:
            return None
        whole, top, bottom = match[1], _int(match[2]), _int(match[3])
    return Number(sign * (Fraction(top, bottom) + _int(whole))) if bottom else None


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


_BASED = re.compile(r"([0-9A-Z]+) ?_ ?(?:\{ ?(\d+) ?\}|(\d+))")


def based(text: str) -> tuple[str, str] | None:
    """Digits and base of an answer such as 52_8 or 4210_{5}."""
    match = _BASED.fullmatch(unmarked(text))
    return (match[1], match[2] or match[3]) if match else None


def based_value(digits: str, base: str) -> int | None:
    """The integer that ``digits`` is in ``base``, or None where they do not fit."""
    try:
        return int(digits, int(base)) if len(digits) < 200 else None
    except ValueError:
        return None


# ------------------------------------------------------------------ words and choices
def words(text: str) -> list[str]:
    """The marked words of an answer, lower case."""
    return [word.casefold() for word in re.findall(rf"{MARK}([^\W\d_]+(?:\.[^\W\d_]+)*)", text)]


def same_words(one: str, other: str) -> bool:
    """Whether two answers in words are the same; case does not count where one of them is marked as text."""
    if not (MARK in one or MARK in other or all(re.fullmatch(r"[A-Za-z][A-Za-z', -]{2,}", t) for t in (one, other))):
        return False
    return squash(one).casefold() == squash(other).casefold()


def choice(text: str) -> str | None:
    r"""The letter of a multiple-choice answer, (C) or \text{(C)}: marked as such, since a bare C is a variable."""
    match = re.fullmatch(rf"\(? ?{MARK}([A-Z]) ?\)?|\( ?([A-Z]) ?\)", text)
    return (match[1] or match[2]) if match else None


_LETTER = re.compile(r"[(\[]? ?([A-Za-z])(?: ?[)\]][.:]?| ?$|[.:](?= |$))\s*", re.DOTALL)
_ANOTHER = re.compile(  # (B), B. and more, B alone, or "... or B" at the end
    r"\( ?[A-Z] ?\)|(?<![A-Za-z])[A-Z][.:)] \S|^\(?[A-Z][.:)]*$"
    r"|(?:[,/;&]|(?<![A-Za-z])(?:or|and)(?![A-Za-z])) ?\(?[A-Z]\)?[. ]*$"
)


def only_letter(text: str) -> str | None:
    """The letter that an answer chooses, alone or before the choice's text; None where it names none or several."""
    match = _LETTER.match(text)
    return match[1] if match and not _ANOTHER.search(text[match.end() :]) else None


# ------------------------------------------------------------------ equations, inequalities and lists
_SYMBOL = r"\\?[A-Za-z]{1,12}(?:_(?:\w|\{\w+\}))?(?:\([A-Za-z](?:, ?[A-Za-z])*\))?"
_ASSIGNMENT = re.compile(rf"({_SYMBOL}) ?(?:=|\\in(?![A-Za-z])|\\equiv(?![A-Za-z])) ?([^=<>]+)")
_REVERSED = re.compile(rf"([^=<>]+?) ?= ?({_SYMBOL})")


def assignment(text: str) -> tuple[str, str] | None:
    r"""Symbol and value of x = 5, 5 = x, f(x) = x + 1 or x \in [-2,7]."""
    match = _ASSIGNMENT.fullmatch(text)
    if match:
        return match[1].replace(" ", ""), match[2].strip()
    match = _REVERSED.fullmatch(text)
    return (match[2].replace(" ", ""), match[1].strip()) if match else None


def chain(text: str) -> list[str]:
    """The sides of a chain of equations that are no bare symbols: 1/2 and 50% of x = 1/2 = 50%."""
    sides = [side.strip() for side in re.split(r"(?<![<>!:])=(?!=)", text)]
    return [side for side in sides if not re.fullmatch(_SYMBOL, side)] or sides[-1:]


_RELATION = re.compile(r"(<=|>=|<|>|\\(?:leq?|geq?)(?:slant)?(?![A-Za-z])|\\[lg]t(?![A-Za-z]))")


def _interval(text: str) -> tuple[str, str] | None:
    """Variable and interval of an inequality such as x < 1 or 0 < x <= 1."""
    parts = [part.strip() for part in _RELATION.split(text)]
    if len(parts) == 3:  # the other end is infinite
        up = parts[1].startswith(("<", r"\l"))
        if re.fullmatch(_SYMBOL, parts[0]):
            parts = [*([r"-\infty", "<"] if up else [r"\infty", ">"]), *parts]
        else:
            parts += ["<", r"\infty"] if up else [">", r"-\infty"]
    if len(parts) != 5 or not re.fullmatch(_SYMBOL, parts[2]) or not all(parts):
        return None
    low, first, variable, second, high = parts
    up = [relation.startswith(("<", r"\l")) for relation in (first, second)]
    if up[0] != up[1]:
        return None
    if not up[0]:
        low, first, second, high = high, second, first, low
    closed = [relation not in ("<", ">", r"\lt", r"\gt") for relation in (first, second)]
    return variable, f"{'[' if closed[0] else '('}{low},{high}{']' if closed[1] else ')'}"


def _union(text: str) -> str | None:
    r"""x < 1 or x > 2 as (-\infty,1)\cup(2,\infty); None where the text is nothing like it."""
    parts = re.split(_OR, text)
    found = [_interval(part.strip(" ,")) for part in parts] if len(parts) > 1 else [None]
    if None in found or len({variable for variable, _ in found}) > 1:
        return None
    return r"\cup ".join(interval for _, interval in found)


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
