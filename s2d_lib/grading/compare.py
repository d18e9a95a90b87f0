r"""Whether an answer is the gold answer: exact rules first, algebra for what they leave open.

1. Spelling means nothing: Unicode or LaTeX, fonts, ``\left``, spaces, thousands, ``$``, markdown, punctuation around an
   answer, ``The answer is`` before it.
2. A word in ``\text{...}`` belongs to the answer and is marked as a word; ``e`` and ``i`` stay mathematics. "and" and "or"
   are commas; inequalities joined by "or" are a union.
3. A percent sign is dropped and remembered: 50\% is 50 as well as 0.5.
4. A unit of ``units.yaml`` at the end is dropped and remembered, a currency sign before the number, a modulus and a base
   too. The problem states the unit, so either side may leave it out; two that measure different things are never equal,
   and others are converted. Any other word stays.
5. Numbers are exact fractions: decimals, fractions, mixed numbers, powers of ten, repeating decimals, and "12 million".
6. Of x = 5 the right side counts; of a chain of equations (1/2 = 50%) every side must be the gold answer.
7. Lists are compared item by item: points and intervals in their order, roots, sets and unions in any.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import yaml

MAX_ANSWER_CHARS = 1_000  # a longer answer is never a competition answer; the cap bounds every later step
MARK = "\x02"  # before each word that stood in \text{...}

Algebra = Callable[[str, str], bool]
"""Whether gold answer and answer are equal, as LaTeX without dollars."""


class NeedsAlgebra(Exception):
    """The rules leave it open, and there is no algebra to ask."""


def compare(gold: str, pred: str, algebra: Algebra | None = None) -> bool:
    """Whether the answer `pred` is the gold answer.

    Raises:
        NeedsAlgebra: Without any, nothing can be said.
    """
    if max(len(gold), len(pred)) > MAX_ANSWER_CHARS:
        return gold.strip() == pred.strip()
    gold, pred = (spelled(text.replace(MARK, "")) for text in (gold, pred))
    whole = "=" in gold or _assignment(pred)[0] or _listing(pred) or "\\begin" in pred
    sides = [side.strip() for side in _EQUALS.split(pred)]
    values = [side for side in sides if not re.fullmatch(_SYMBOL, side)] or sides[-1:]
    return all(_same(measured(gold), measured(side), algebra) for side in ([pred] if whole else values))


# ------------------------------------------------------------------ rules 1 and 2: spelling
_SIGNS = {"\u00d7": "times", "·": "cdot", "±": "pm", "π": "pi", "∞": "infty", "∅": "emptyset", "≤": "le", "≥": "ge",
          "≠": "ne", "\u222a": "cup", "∈": "in"}  # fmt: skip
_UNICODE = str.maketrans("\u2212\u2013\u2014\u00f7\u2044", "---//")
_UNICODE |= {ord(sign): rf"\{name} " for sign, name in _SIGNS.items()}
_END = r"(?![A-Za-z])"  # of a command
_REWRITES = [
    (rf"\\(?:boxed|fbox|displaystyle|textstyle|mathbf|mathit|mathsf|boldsymbol|bm){_END}", ""),
    (rf"\\(?:left|right|[bB]igg?[lrm]?){_END}\.?", ""),
    (r"\\frac\{(\d+)/(\d+)\}(?!\{)", r"\\frac{\1}{\2}"),  # of a Unicode fraction
    (rf"\\[dtc]frac{_END}", r"\\frac"),
    (r"\\frac ?(\d) ?(?=\{|[\dA-Za-z](?!\d))", r"\\frac{\1}"),
    (r"(\\frac ?\{ ?[+-]?[\d,]+ ?\}) ?([\dA-Za-z])(?!\d)", r"\1{\2}"),
    (r"(?<=[A-Za-z])(?=\\(?:text|mathrm)\{[ei]\})", " "),
    (r"\\(?:text|mathrm)\{([ei])\}", r"\1"),
    (rf"\\langle{_END}", "("),
    (rf"\\rangle{_END}", ")"),
    (rf"\\(?:lbrace|brace){_END}", r"\\{"),
    (rf"\\rbrace{_END}", r"\\}"),
    (rf"\\varnothing{_END}|\\\{{\s*\\\}}", r"\\emptyset "),
    (r"\{([:.])\}", r"\1"),  # 6{:}30
    (r"(?<=\d)(?:\{,\}|,\s*\\!|\\,)\s*(?=\d{3}(?!\d))", ","),  # 1{,}000, 1,\!000, 1\,000
    (rf"(?<!\\)\\[,;:! ]|~|\\q?quad{_END}", " "),
    (r"(?<!\\)\$|(?<!\\)\\[()\[\]]", ""),
    (rf"\\\$|\\textdollar{_END}", "$"),
    (rf"°|\^\s*(?:\{{\s*\\circ\s*\}}|\\circ{_END})|\\degrees?{_END}", r"^\\circ "),
    (r"\s+", " "),
]
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|mbox|hbox|mathrm)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_WORD = re.compile(rf"(?<![\\A-Za-z{MARK}])[^\W\d_]+(?:\.[^\W\d_]+)*")
_ROOT = re.compile(  # √ covers the whole number or group after it
    rf"(?:([√∛])|\\sqrt(?=\s*\d)) ?(\d+(?:\.\d+)?|[A-Za-z]|\\pi{_END}|\((?:[^()]|\([^()]*\))*\)|\\sqrt(?:\[3\])?\{{[^{{}}]*\}})"
)
_DEGREES = re.compile(
    rf"(?:(?:\^\\circ|{MARK}?degrees?) ?{MARK}?|(?<=\d) ?{MARK})(?:(C)(?:elsius)?|F(?:ahrenheit)?)(?![A-Za-z_])"
)
_GROUPED = re.compile(r"(?<![\d.,/])(?<!\d )(\d{1,3}(?: \d{3})+)(?![\d/]| [\d/])")  # 10 000
_AROUND = re.compile(r"^(?:[\s,;:=]|\*\*|__|`)+|(?:[\s.,;:]|\\\\|\\(?=$)|\*\*|__|`)+$")
FILLER = re.compile(
    rf"(?:{MARK}?(?:so|thus|therefore|hence|the|final|answer|value|result|is|are|equals?|option|choice){_END}[ ,:]*)+",
    re.IGNORECASE,
)
_OR = rf"(?<![A-Za-z\\]){MARK}?or{_END}|\\lor{_END}|\\vee{_END}"
_AND_OR = re.compile(rf"(?:, ?)?(?:{_OR}|(?<![A-Za-z\\]){MARK}?and{_END})")
_RELATION = re.compile(rf"[<>]|\\(?:leq?|geq?|[lg]t)(?:slant)?{_END}")


def spelled(answer: str) -> str:
    """An answer after rules 1 and 2."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", r"^{\g<0>}", answer)
    text = re.sub("[¼½¾⅐-⅞]", r"\\frac{\g<0>}", text)  # 1¾ is not 13/4
    text = unicodedata.normalize("NFKC", text).translate(_UNICODE)
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    for pattern, inner in ((_TEXT, _marked), (_ROOT, _root)):
        while (within := pattern.sub(inner, text)) != text:
            text = within
    text = _DEGREES.sub(lambda found: f" {MARK}{'Celsius' if found[1] else 'Fahrenheit'}", text)
    text = _GROUPED.sub(lambda found: found[0].replace(" ", ""), text.replace("√", r"\sqrt "))
    text = _unbrace(_AROUND.sub("", text)).replace("**", "^")
    filler = FILLER.match(text)
    text = text[filler.end() :] if filler and filler.end() < len(text) else text
    parts = re.split(_OR, text)
    union = len(parts) > 1 and all(_RELATION.search(part) and not _EQUALS.search(part) for part in parts)
    text = r"\cup ".join(part.strip(" ,") for part in parts) if union else _AND_OR.sub(",", text)
    return _unbrace(_AROUND.sub("", re.sub(" +", " ", text)))


def _marked(match: re.Match) -> str:
    text = _WORD.sub(lambda word: MARK + word[0], match[1])
    return text + " " if text[-1:].isalpha() and match.string[match.end() :][:1].isalpha() else text


def _root(match: re.Match) -> str:
    inner = match[2][1:-1] if match[2].startswith("(") else match[2]
    return rf"\sqrt{'[3]' if match[1] == '∛' else ''}{{{inner}}}"


def _depths(text: str) -> list[int]:
    """How many brackets are open after each character; ( ] may close each other (intervals)."""
    return list(accumulate((char in "([{") - (char in ")]}") for char in text))


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens ``text`` closes with its last character."""
    depths = _depths(text)
    return 0 not in depths[:-1] and depths[-1:] == [0]


def _unbrace(text: str) -> str:
    text = text.strip()
    while text.startswith("{") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def unmarked(text: str) -> str:
    """Without the marks of words."""
    return re.sub(rf"(?<=[A-Za-z]){MARK}", " ", text).replace(MARK, "")


def _squash(text: str) -> str:
    """Without marks and without the spaces that carry no meaning: those not between two letters or digits."""
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", unmarked(text))


# ------------------------------------------------------------------ rules 3 and 4: percent and units
Unit = Sequence[tuple[Counter, Fraction]]
"""All that a unit may mean: dimensions with their powers, and the size in their first units."""


def _read_units() -> dict[str, Unit]:
    """What each name may mean, in lower case."""
    table = yaml.safe_load(Path(__file__).with_name("units.yaml").read_text(encoding="utf-8"))
    rows = [(what, names, size) for what, units in table["measures"].items() for names, size in units.items()]
    meanings = {}
    for what, names, size in [*rows, *((noun, noun, 1) for noun in table["counted"].split())]:
        powers = re.findall(r"(/?)([a-z]+)\^?(\d*)", what)
        dimensions = Counter({name: int(power or 1) * (-1 if per else 1) for per, name, power in powers})
        for form in {f"{name}{plural}".lower() for name in names.split() for plural in ("", "s" * (len(name) > 2))}:
            meanings.setdefault(form, []).append((dimensions, Fraction(size)))
    return meanings


_MEANINGS = _read_units()
# A single letter is a unit only in \text{...}, or where a longer unit stands before it: 3m may be an expression.
_LONG = "|".join(map(re.escape, sorted((n for n in _MEANINGS if len(n) > 1 or not n.isalpha()), key=len, reverse=True)))
_UNIT = re.compile(
    rf"(?P<per> ?(?:/|{MARK}?per{_END}) ?)?(?<![A-Za-z\\{MARK}])(?:{MARK}?(?P<before>square|sq|cubic|cu)\.? )?"
    rf"(?:{MARK}?(?P<name>(?i:{_LONG}))|{MARK}(?P<marked>[mgshlL])|(?<=[a-z][a-z]/)(?P<letter>[mgshlL])){_END}"
    rf"(?: ?(?:{MARK}?(?P<after>squared|cubed)|\^ ?\{{? ?(?P<exponent>[+-]?\d) ?\}}?))?(?: ?(?:\\cdot|\*))?$"
)
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3, None: 1}
_PERCENT = re.compile(rf" ?(?:\\?%|{MARK}percent|(?<=[\d}} ])percent)$")
_CURRENCY = re.compile(r"([+-]?) ?([$£€])(?=.*\S)")
_MODULUS = re.compile(rf"(.+?)[ (]*(?:\\[pb]?mod{_END}|{MARK}?(?<![A-Za-z\\])mod{_END})[ {{]*(\d+)[ }})]*")
_BASE = re.compile(rf"([0-9A-Z{MARK}]*\d[0-9A-Z{MARK}]*) ?_ ?\{{? ?(\d+) ?\}}?")


@dataclass(frozen=True)
class Measured:
    """What is compared of an answer, and what was dropped of it."""

    text: str
    percent: bool = False
    unit: Unit = ()
    base: int = 0


def measured(text: str) -> Measured:
    """What is spelled already, or a part of it, after rules 3 and 4."""
    percent = bool((sign := _PERCENT.search(text)) and sign.start())
    text = _PERCENT.sub("", text) if percent else text
    if found := _MODULUS.fullmatch(text):
        return Measured(_unbrace(found[1]), percent, [(Counter({f"modulo {int(found[2])}": 1}), Fraction(1))])
    number, powers, piece = text, [], None
    while len(powers) < 6 and (found := _UNIT.search(number)) and re.search(r"[A-Za-z0-9]", number[: found.start()]):
        piece, number = found, number[: found.start()].rstrip()
        power = _POWERS[piece["before"]] * int(piece["exponent"] or _POWERS[piece["after"]])
        powers.append((piece["name"] or piece["marked"] or piece["letter"], -power if piece["per"] else power))
    if piece and piece["letter"]:
        return Measured(_unbrace(text), percent)
    if sign := _CURRENCY.match(number):
        number = sign[1] + number[sign.end() :].strip()
        powers += [(sign[2], 1)] if not piece or piece["per"] else []
    based = _BASE.fullmatch(number := _unbrace(number))
    return Measured(
        based[1] if based else number, percent, _unit(powers) if powers else (), int(based[2]) if based else 0
    )


def _unit(powers: list[tuple[str, int]]) -> Unit:
    """What named units to some powers may mean; nothing for units of whatever: square units, years old."""
    unit = ((Counter(), Fraction(1)),)
    for name, power in powers:
        unit = tuple(
            (Counter({d: dimensions[d] + power * more[d] for d in {*dimensions, *more}}), size * one**power)
            for dimensions, size in unit
            for more, one in _MEANINGS[name.lower()]
        )
    return () if any("any" in dimensions for dimensions, _ in unit) else unit


def _conversion(gold: Measured, pred: Measured) -> Fraction | None:
    """What turns the answer into the gold answer's unit: 1 where one of them has none, None where nothing does."""
    factors = {size / other for dimensions, size in pred.unit for same, other in gold.unit if same == dimensions}
    if 1 in factors or not (gold.unit and pred.unit):
        return Fraction(1)
    return min(factors, key=lambda factor: factor.numerator + factor.denominator, default=None)


# ------------------------------------------------------------------ rule 5: numbers
_INT = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = re.compile(
    rf"({_INT}(?:\.\d*)?|\.\d+)(?: ?(?:\\times|\\cdot|\*) ?10 ?\^ ?\{{? ?([+-]?\d{{1,3}}) ?\}}?|[eE]([+-]?\d{{1,3}}))?"
)
_REPEATING = re.compile(r"(\d*\.\d*)(?:\\(?:overline|bar|dot) ?(?:\{ ?(\d+) ?\}|(\d))|\((\d+)\))")
_FRACTION = re.compile(rf"({_INT})? ?\\frac ?\{{ ?([+-]?{_INT}) ?\}} ?\{{ ?([+-]?{_INT}) ?\}}")
_SLASH = re.compile(rf"(?:({_INT}) )?({_INT}) ?/ ?({_INT})")
_MULTIPLES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_MULTIPLE = re.compile(rf" ?{MARK}?({'|'.join(_MULTIPLES)})s?$", re.IGNORECASE)


def number(text: str) -> tuple[Fraction, int | None] | None:
    r"""The number that ``text`` is, such as 025, 1,000, .5, 6.7 \times 10^{-5}, 3/4, 1\frac{3}{4}, 0.\bar{3} or 12 million, and
    of a decimal the places after its point; None of anything else."""
    if len(text) > 200 or not re.search(r"\d", text):
        return None
    if multiple := _MULTIPLE.search(text):
        found = number(text[: multiple.start()])
        return found and (found[0] * _MULTIPLES[multiple[1].lower()], None)
    sign, text = (-1, text[1:].strip()) if text[0] == "-" else (1, text.removeprefix("+").strip())
    if match := _DECIMAL.fullmatch(text):
        written, exponent = match[1].replace(",", ""), int(match[2] or match[3] or 0)
        places = len(written.partition(".")[2])
        return sign * Fraction(f"{written}e{exponent}"), places - exponent if places else None
    if match := _REPEATING.fullmatch(text):
        start, again = match[1], match[2] or match[3] or match[4]
        nines = Fraction(int(again), 10 ** len(again) - 1)
        return sign * (Fraction(f"0{start}") + nines / 10 ** len(start.partition(".")[2])), None
    if match := _FRACTION.fullmatch(text) or _SLASH.fullmatch(text):
        whole, top, bottom = (int((part or "0").replace(",", "")) for part in match.groups())
        return (sign * (whole + Fraction(top, bottom)), None) if bottom else None
    return None


def _equal_numbers(gold: tuple, pred: tuple, hundredfold: Fraction | int) -> bool:
    """Exactly, as percent, or as a fraction rounded to six significant digits or more, which is what math-verify takes:
    0.333333 is 1/3, 0.33 is not, 4.9999999 is not 5."""
    if pred[0] in (gold[0], gold[0] * hundredfold):
        return True
    for (exact, whole), (rounded, places) in ((gold, pred), (pred, gold)):
        if whole is None and exact.denominator > 1 and places is not None:
            last = Fraction(10) ** -places
            return abs(rounded) >= 10**5 * last and abs(exact - rounded) <= last / 2
    return False


# ------------------------------------------------------------------ choices and words
_CHOICE = re.compile(rf"\(? ?{MARK}([A-Z]) ?\)?|\( ?([A-Z]) ?\)")  # marked as such, since a bare C is a variable
_LETTER = re.compile(r"[(\[]? ?([A-Za-z])(?: ?[)\]][.:]?| ?$|[.:](?= |$))\s*", re.DOTALL)
_ANOTHER = re.compile(  # (B), B. and more, B alone, or "... or B" at the end
    r"\( ?[A-Z] ?\)|(?<![A-Za-z])[A-Z][.:)] \S|^\(?[A-Z][.:)]*$"
    r"|(?:[,/;&]|(?<![A-Za-z])(?:or|and)(?![A-Za-z])) ?\(?[A-Z]\)?[. ]*$"
)


def only_letter(text: str) -> str | None:
    """The letter that an answer chooses, alone or before the choice's text; None where it names none or several."""
    match = _LETTER.match(text)
    return match[1] if match and not _ANOTHER.search(text[match.end() :]) else None


def _words(text: str) -> list[str]:
    return [word.casefold() for word in re.findall(rf"{MARK}([^\W\d_]+(?:\.[^\W\d_]+)*)", text)]


def _same_words(one: str, other: str) -> bool:
    """Whether two answers in words are the same; case does not count where one of them is marked as text."""
    in_words = MARK in one + other or all(re.fullmatch(r"[A-Za-z][A-Za-z', -]{2,}", text) for text in (one, other))
    return in_words and _squash(one).casefold() == _squash(other).casefold()


# ------------------------------------------------------------------ rules 6 and 7: equations and lists
_SYMBOL = r"\\?[A-Za-z]{1,12}(?:_(?:\w|\{\w+\}))?(?:\([A-Za-z](?:, ?[A-Za-z])*\))?"
_ASSIGNMENT = re.compile(rf"({_SYMBOL}) ?(?:=|\\in{_END}|\\equiv{_END}) ?([^=<>]+)")
_EQUALS = re.compile(r"(?<![<>!:])=(?!=)")
_REVERSED = re.compile(rf"([^=<>]+?) ?= ?({_SYMBOL})")


def _assignment(text: str) -> tuple[str, str]:
    r"""Symbol and value of x = 5, 5 = x, f(x) = x + 1 or x \in [-2,7]; no symbol and the text itself of anything else."""
    if match := _ASSIGNMENT.fullmatch(text):
        return match[1].replace(" ", ""), match[2].strip()
    match = _REVERSED.fullmatch(text)
    return (match[2].replace(" ", ""), match[1].strip()) if match else ("", text)


def _same_side(gold: str, pred: str) -> tuple[str, str]:
    """x = 5 against 5: the right side counts. x = 5 against x = 6: both right sides; against y = 5: all of both."""
    (symbol, value), (other, found) = _assignment(gold), _assignment(pred)
    bare = (not other and "=" not in pred) or (not symbol and "=" not in gold)
    return (value, found) if symbol == other or bare else (gold, pred)


def _listing(text: str) -> tuple[str, list[str]] | None:
    r"""Brackets and items of (a, b), [a, b), \{a, b\}, a, b or A \cup B; a \pm b counts as two items. None otherwise."""
    if "\\begin" in text:
        return None
    brackets, inner = "", text
    if text.startswith("\\{") and text.endswith("\\}") and _closes_at_end(text[1:-2] + "}"):
        brackets, inner = "{}", text[2:-2]
    elif text[:1] in ("(", "[") and _closes_at_end(text):
        brackets, inner = text[0] + text[-1], text[1:-1]
    cuts = [] if number(inner) else [i for i, depth in enumerate(_depths(inner)) if depth == 0 and inner[i] in ",;"]
    items = [inner[start + 1 : end].strip() for start, end in pairwise([-1, *cuts, len(inner)])]
    if brackets in ("", "{}"):
        items = [signed for item in items for signed in _both_signs(item)]
    if not brackets and len(items) == 1 and "\\cup" in text and not _EQUALS.search(text):
        return "\\cup", [part.strip() for part in text.split("\\cup")]
    return (brackets, items) if all(items) and (len(items) > 1 or brackets == "{}") else None


def _both_signs(item: str) -> list[str]:
    if item.count("\\pm") != 1 or "\\mp" in item:
        return [item]
    return [item.replace("\\pm", sign).strip().lstrip("+").strip() for sign in "+-"]


def _same_items(gold: tuple[str, list[str]], pred: tuple[str, list[str]], algebra: Algebra | None) -> bool:
    """(1, 2) is neither [1, 2] nor the set of 1 and 2; without brackets it may be a point, and two roots may be a set."""
    brackets, others = gold[0], pred[0]
    if len(gold[1]) != len(pred[1]) or (brackets != others and {brackets, others} not in ({"", "{}"}, {"", "()"})):
        return False
    items, free = ([measured(item) for item in found[1]] for found in (gold, pred))
    if brackets not in ("", "{}", "\\cup"):
        return all(_same(item, other, algebra) for item, other in zip(items, free, strict=True))
    for item in items:  # items that are equal to each other make no difference to a greedy match
        hit = next((other for other in free if _same(item, other, algebra)), None)
        if hit is None:
            return False
        free.remove(hit)
    return True


# ------------------------------------------------------------------ the comparison
# math-verify reads "1 2" as the sum and "1.2.3" as a product of two numbers; as answers both are nonsense.
_NONSENSE = re.compile(r"\d\s+\d|\d\.\d+\.\d")


def _same(gold: Measured, pred: Measured, algebra: Algebra | None) -> bool:
    factor = _conversion(gold, pred)
    if factor is None or (gold.base and pred.base and gold.base != pred.base):
        return False
    if factor == 1 and _squash(gold.text) == _squash(pred.text):
        return bool(gold.text)
    if letter := _CHOICE.fullmatch(gold.text):
        return only_letter(unmarked(pred.text)) == (letter[1] or letter[2])
    if factor == 1 and _same_words(gold.text, pred.text):
        return True
    sides = _same_side(gold.text, pred.text)
    if sides != (gold.text, pred.text):
        return _same(replace(gold, text=sides[0]), replace(pred, text=sides[1]), algebra)
    one, other = map(number, sides)
    if one and other:
        other = other if factor == 1 else (other[0] * factor, None)
        return _equal_numbers(one, other, Fraction(100) ** (pred.percent - gold.percent))
    items, others = map(_listing, sides)
    if items and others:
        alike = factor == 1 and _same_items(items, others, algebra)
        if alike or "\\cup" not in (items[0], others[0]):  # unions of other parts may be equal
            return alike
    if (one and others and len(others[1]) > 1) or (items and other):
        return False
    if _words(sides[0]) != _words(sides[1]) or _NONSENSE.search(sides[1]):
        return False
    if algebra is None:
        raise NeedsAlgebra
    latex = [re.sub(rf"{MARK}([^\W\d_]+)", r"\\text{\1}", side) for side in sides]
    scale = "" if factor == 1 else rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}"
    return algebra(latex[0], f"{scale}({latex[1]})" if scale else latex[1])
