"""Units that an answer may carry: a table, and what a unit at an answer's end means."""

import re
from collections import Counter
from fractions import Fraction
from itertools import product

MARK = "\x02"  # before each word that stood in \text{...}: see s2d_lib.grading.normal

# dimension, size in the dimension's first unit, names (with their plural in -s). A name in several rows means any of them.
_TABLE = r"""
length 1 m meter metre
length 1/1000 mm millimeter millimetre
length 1/100 cm centimeter centimetre
length 1/10 dm decimeter
length 1000 km kilometer kilometre
length 127/5000 in inch inches
length 381/1250 ft foot feet
length 1143/1250 yd yard
length 201168/125 mi mile
mass 1 g gram gramme
mass 1/1000 mg milligram
mass 1000 kg kilogram
mass 45359237/100000 lb lbs pound
mass 45359237/1600000 oz ounce
mass 1000000 ton tonne
mass 45359237/50 ton
time 1 s sec second
time 1/1000 ms millisecond
time 60 min mins minute
time 3600 h hr hrs hour
time 86400 day
time 604800 week
calendar 1 month
calendar 12 yr year
length^3 1/1000 L liter litre
length^3 1/1000000 mL milliliter millilitre
length^3 473176473/125000000000 gal gallon
length^3 473176473/500000000000 qt quart
length^3 473176473/1000000000000 pt pint
length^3 473176473/2000000000000 cup
angle 1 ^\circ degree deg
celsius 1 ^\circ degree celsius
fahrenheit 1 ^\circ degree fahrenheit
radian 1 rad radian
dollar 1 $ dollar USD
dollar 1/100 ¢ cent
euro 1 € euro EUR
euro 1/100 cent
sterling 1 £ pound GBP
sterling 1/100 penny pence
am 1 am a.m
pm 1 pm p.m
any 1 unit old long tall wide high deep
"""
# What is counted: each is a unit of its own.
_COUNTED = """
animal apple bag ball balloon banana bead bird block boat bolt book bottle box boxes boy candle candy candies car card
cat chair chicken child children cloud coin cookie cow crayon cupcake customer dog door egg employee face family families
fish flower friend fruit game girl glasses group guest home house kid leg lemon letter line loaves marble member
men movie muffin orange outcome page party parties pear pen pencil people person pet phone photo picture piece pizza plant
plate player point problem question rabbit rose sandwich sandwiches sheep shirt shoe side slice solution sticker student
teacher term ticket time tile toy tree triangle vertices way window women worker
"""

Unit = frozenset[tuple[frozenset[tuple[str, int]], Fraction]]
"""What a unit may mean: dimensions with their powers, and its size in their first units."""

_MEANINGS: dict[str, list[tuple[str, int, Fraction]]] = {}  # by name in lower case: dimension, its power, size
for _row in [*_TABLE.strip().splitlines(), *(f"{_noun} 1 {_noun}" for _noun in _COUNTED.split())]:
    _measures, _size, *_names = _row.split()
    _dimension, _, _power = _measures.partition("^")
    for _name in {form.lower() for name in _names for form in ([name, f"{name}s"] if len(name) > 2 else [name])}:
        _MEANINGS.setdefault(_name, []).append((_dimension, int(_power or 1), Fraction(_size)))

# A single letter is a unit only in \text{...}, or where a longer unit stands before it: 3m may be an expression.
_LONG = "|".join(sorted(map(re.escape, (n for n in _MEANINGS if len(n) > 1 or not n.isalpha())), key=len, reverse=True))
_SHORT = "[mgshlL]"
_NAMED = rf"{MARK}?(?i:{_LONG})(?![A-Za-z])|{MARK}{_SHORT}(?![A-Za-z])"
_EXPONENT = rf"(?: ?(?:{MARK}?(?:squared|cubed)|\^ ?\{{? ?[+-]?\d ?\}}?))?"
_ITEM = rf"(?:{MARK}?(?:square|sq|cubic|cu)\.? )?(?:{_NAMED}){_EXPONENT}"
_PER = rf" ?(?:/|{MARK}?per(?![A-Za-z])) ?"
_TAIL = re.compile(
    rf"(?<![A-Za-z\\{MARK}])(?:{_PER})?{_ITEM}(?:{_PER}(?:{_ITEM}|{_SHORT}(?![A-Za-z]){_EXPONENT})"
    rf"| ?(?:\\cdot|\*)? ?{_ITEM})*$|(?<=\d) m/s(?:\^\{{?2\}}?)?$"
)
_PIECE = re.compile(
    rf"(?P<per>{_PER})|{MARK}?(?P<power>square|sq|cubic|cu)\.? |{MARK}?(?P<name>(?i:{_LONG})|{_SHORT})(?![A-Za-z])"
    rf"(?: ?(?:{MARK}?(?P<after>squared|cubed)|\^ ?\{{? ?(?P<exponent>[+-]?\d)))?"
)
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_RATE = re.compile(r"(?<![A-Za-z\\])(?:(mph)|kph|kmh)$")
_CURRENCY = re.compile(r"([+-]?) ?([$£€])")
_MODULUS = re.compile(rf"[ (]*(?:\\[pb]?mod(?![a-z])|{MARK}?(?<![A-Za-z\\])mod(?![a-z]))[ {{]*(\d+)[ }})]*$")


def split_unit(text: str) -> tuple[str, Unit | None]:
    """An answer's text without its unit, and the unit; a modulus counts as one. None where it has none."""
    modulus = _MODULUS.search(text)
    if modulus and modulus.start():
        return text[: modulus.start()].strip(), frozenset({(frozenset({(f"mod {int(modulus[1])}", 1)}), Fraction(1))})
    text = _RATE.sub(lambda match: "mi/h" if match[1] else "km/h", text)
    powers: list[tuple[str, int]] = []
    tail = _TAIL.search(text)
    if tail and re.search(r"[A-Za-z0-9]", text[: tail.start()]):
        powers, text = _powers(tail[0]), text[: tail.start()].strip()
    sign = _CURRENCY.match(text)
    if sign and text[sign.end() :].strip():
        text = sign[1] + text[sign.end() :].strip()
        if not powers or powers[0][1] < 0:
            powers = [(sign[2], 1), *powers]
    return (text, _meanings(powers)) if powers else (text, None)


def _powers(tail: str) -> list[tuple[str, int]]:
    """The units of a tail with their powers: km/h^2 is km to 1 and h to -2."""
    found, sign, power = [], 1, 1
    for piece in _PIECE.finditer(tail):
        if piece["per"]:
            sign = -1
        elif piece["power"]:
            power = _POWERS[piece["power"]]
        else:
            exponent = int(piece["exponent"] or 0) or _POWERS.get(piece["after"] or "", 1)
            found.append((piece["name"], sign * power * exponent))
            power = 1
    return found


def _meanings(powers: list[tuple[str, int]]) -> Unit | None:
    made = set()
    for meanings in product(*(_MEANINGS[name.lower()] for name, _ in powers)):
        dimensions, size = Counter(), Fraction(1)
        for (dimension, each, one), (_, power) in zip(meanings, powers, strict=True):
            dimensions[dimension] += each * power
            size *= one**power
        if "any" in dimensions:  # square units, years old: of whatever
            return None
        made.add((frozenset(dimensions.items()), size))
    return frozenset(made)


def conversion(of: Unit, to: Unit) -> Fraction | None:
    """How many of one unit another is; None where they measure different things."""
    factors = {size / other for dimensions, size in of for same, other in to if same == dimensions}
    return Fraction(1) if 1 in factors else min(factors, key=lambda f: f.numerator + f.denominator, default=None)
