"""Paper B's five micro benchmarks: every answer checked by a second implementation that reads the prompt alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.arithmetic import ArithmeticWorld
from s2d_lib.problems.conversion import ConversionWorld
from s2d_lib.problems.selection import SelectionWorld
from s2d_lib.problems.sorting import SYLLABLES
from s2d_lib.problems.table_lookup import TableLookupWorld, Tables
from s2d_lib.problems.tool_calls import Request, ToolCallWorld
from s2d_lib.problems.world import corpus

ADD = ArithmeticWorld(base=10, zipf=1.0, seed=3)
SELECT = SelectionWorld(symbols=12, zipf=1.0, seed=3)
CONVERT = ConversionWorld(units=9, values=16, zipf=1.0, seed=3)
LOOK_UP = TableLookupWorld(names=12, zipf=1.0, seed=3)
CALL = ToolCallWorld(verbs=12, tools=4, arguments=14, values=14, zipf=1.0, seed=3)
WORLDS = [ADD, SELECT, CONVERT, LOOK_UP, CALL]
NAMES = [type(world).__name__ for world in WORLDS]


def added(prompt: str) -> str:
    """The sum, in plain arithmetic."""
    units, tens, *addends, question = prompt.split()
    assert question == "="
    tens, units = divmod(10 * int(tens[1:]) + int(units[1:]) + sum(int(a) for a in addends), 10)
    assert tens < 10
    return f"u{units} t{tens}"


def selected(prompt: str) -> str:
    """The symbol before which exactly rank - 1 others come."""
    *symbols, rank, question = prompt.split()
    place = {name: SELECT.place[i] for i, name in enumerate(SYLLABLES[:12])}
    (found,) = [s for s in symbols if sum(place[other] < place[s] for other in symbols) == int(rank[1:]) - 1]
    assert question == ":"
    return found


def converted(prompt: str) -> str:
    """The reading, unit by unit round the ring."""
    start, value, _, end, _ = prompt.split()
    ring, tables = CONVERT.facts
    names = [f"w{unit}" for unit in ring]
    place, reading = names.index(start), int(value[1:])
    while names[place] != end:
        place = (place + 1) % 9
        reading = tables[place][reading]
    return f"v{reading}"


def looked_up(prompt: str) -> str:
    """The two rows, by dictionaries."""
    *words, key, _ = prompt.split()
    rows = dict(zip(words[::2], words[1::2], strict=True))
    return rows[rows[key]]


def called(prompt: str) -> str:
    """The call, from the specification of the tool that serves the verb."""
    words = prompt.split()[:-1]
    verb = next(i for i, w in enumerate(words) if w.startswith("d"))
    second = next(i for i, w in enumerate(words) if w.startswith("f") and i)
    specified = {words[0]: words[1:second], words[second]: words[second + 1 : verb]}
    given_values = dict(zip(words[verb + 1 :: 2], words[verb + 2 :: 2], strict=True))
    tool = f"f{CALL.serves[int(words[verb][1:])]}"
    return " ".join([tool, *(part for name in specified[tool] for part in (name, given_values[name]))])


BY_HAND = [added, selected, converted, looked_up, called]


def test_small_cases():
    assert ADD.prompt(27, [8, 5]) == "u7 t2 +8 +5 ="
    assert ADD.solution(27, [8, 5]) == ("u7 c0 t2 +8 u5 c1 t3 +5 u0 c1 t4 # u0 t4", "u0 t4")
    first, second, third = (int(s) for s in np.argsort(SELECT.place)[:3])
    one, two, three = (SYLLABLES[s] for s in (first, second, third))
    assert SELECT.question([third, first, second], 2) == f"{three} {one} {two} n2 :"
    assert SELECT.solution([third, first, second], 2) == (f"n1 {one} n2 {two} # {two}", two)
    ring, tables = CONVERT.facts
    mid, end = tables[1][5], tables[2][tables[1][5]]
    assert CONVERT.prompt(0, 5, 2) == f"w{ring[0]} v5 in w{ring[2]} ?"
    assert CONVERT.solution(0, 5, 2) == (f"w{ring[0]} v5 w{ring[1]} v{mid} w{ring[2]} v{end} # v{end}", f"v{end}")
    tables = Tables(keys=[3, 1], middles=[5, 2], values=[4, 9], order=[1, 0], asked=0)
    assert LOOK_UP.prompt(tables) == "k3 m5 k1 m2 m2 v9 m5 v4 k3 ?"
    assert LOOK_UP.solution(tables) == ("k3 m5 v4 # v4", "v4")
    verb = int(np.flatnonzero(CALL.serves == 3)[0])
    request = Request(verb, [3, 0], [[1, 4], [2, 6]], {6: 1, 4: 7, 2: 2, 1: 9})
    assert CALL.prompt(request) == f"f3 a1 a4 f0 a2 a6 d{verb} a6 x1 a4 x7 a2 x2 a1 x9 ?"
    assert CALL.call(request) == "f3 a1 x9 a4 x7"


@pytest.mark.parametrize(("world", "by_hand"), zip(WORLDS, BY_HAND, strict=True), ids=NAMES)
@given(seed=st.integers(0, 2**20), length=st.integers(1, 7), rare=st.booleans())
@settings(max_examples=25, deadline=None)
def test_answers_are_right_and_sets_are_disjoint_and_repeatable(world, by_hand, seed, length, rare):
    first = world.problems("a", 4, [length], rare, seed)
    assert [p.answer for p in first] == [by_hand(p.prompt) for p in first]
    assert first == world.problems("a", 4, [length], rare, seed)
    second = world.problems("b", 4, [length], rare, seed, exclude={p.prompt for p in first})
    assert len({world.same(p.prompt) for p in first + second}) == 8
    assert {p.level for p in first} == {str(length)}


@pytest.mark.parametrize(("world", "by_hand"), zip(WORLDS, BY_HAND, strict=True), ids=NAMES)
@given(seed=st.integers(0, 2**20), length=st.integers(1, 7), quality=st.sampled_from(["guess", "sloppy", "right"]))
@settings(max_examples=40, deadline=None)
def test_documents_speak_the_vocabulary_and_right_ones_are_right(world, by_hand, seed, length, quality):
    prompt, solution = world.document(np.random.default_rng(seed), length, quality, 0.25)
    words = [*prompt.split(), *solution.split()]
    assert set(words) <= set(world.words)
    assert words[-1] == world.special.end
    assert solution.startswith("#") == (quality == "guess" or world is CALL)  # a call is its own working
    assert (
        quality != "right"
        or grade(solution.removesuffix(" <eos>").removesuffix(" <|end|>"), by_hand(prompt), mode="exact").correct
    )


@pytest.mark.parametrize("world", WORLDS, ids=NAMES)
def test_words_are_distinct_and_new_facts_come_with_a_new_seed(world):
    assert len(set(world.words)) == len(world.words)
    assert set(world.special) | {"#", world.marker} < set(world.words)
    documents = [corpus(replace(world, seed=seed), 50, {"right": 1.0}, 0.0, [3], seed=0) for seed in (3, 4)]
    assert documents[0] != documents[1]


RIGHT_OF_SLOPPY = [
    # Units stay right with chance 0.75, or slip back with 0.25 / 10: once wrong, later carries may be wrong too.
    (ADD, added, (0.775**3, 0.775**3 + 0.06)),
    (SELECT, selected, (0.60, 0.85)),
    (CONVERT, converted, ((0.75 + 0.25 / 16) ** 3 - 0.03, (0.75 + 0.25 / 16) ** 3 + 0.05)),
    (LOOK_UP, looked_up, (0.65, 0.75)),  # a hop is right with 0.75 + 0.25 / 3, and two wrong ones may meet
    (CALL, called, ((0.75 + 0.125) * (0.75 + 0.25 / 6) ** 3 - 0.04, (0.75 + 0.125) * (0.75 + 0.25 / 6) ** 3 + 0.04)),
]


@pytest.mark.parametrize(("world", "by_hand", "expected"), RIGHT_OF_SLOPPY, ids=NAMES)
def test_the_corpus_has_its_shares_and_its_slips(world, by_hand, expected):
    def right(mix):
        found = corpus(world, 1500, {"guess": 0.0, "sloppy": 0.0, "right": 0.0} | mix, 0.25, [3], seed=0)
        return np.mean([d.solution.split("# ")[1].rsplit(" ", 1)[0] == by_hand(d.prompt) for d in found])

    assert right({"right": 1.0}) == 1.0
    assert right({"guess": 1.0}) < 0.13
    low, high = expected
    assert low - 0.03 < right({"sloppy": 1.0}) < high + 0.03


@pytest.mark.parametrize(
    ("world", "ranked"),
    [(ADD, "+"), (SELECT, tuple(SYLLABLES)), (CONVERT, "w"), (LOOK_UP, "m"), (CALL, "d")],
    ids=NAMES,
)
def test_rare_sets_meet_rare_words_more_often(world, ranked):
    usual = Counter(w for d in corpus(world, 2000, {"right": 1.0}, 0.0, [2], seed=0) for w in d.prompt.split())
    rare = Counter(w for p in world.problems("x", 60, [2], True, 0) for w in p.prompt.split())
    words = sorted((w for w in world.words if w.startswith(ranked)), key=usual.get)

    def share_of_the_last(counts):
        return sum(counts[w] for w in words[: len(words) // 3]) / sum(counts[w] for w in words)

    assert share_of_the_last(rare) > 1.3 * share_of_the_last(usual)


@pytest.mark.parametrize(
    ("world", "too_long", "sentence"),
    [
        (ADD, 10, "problems of 10 addends but the world has 9: lower `lengths` or raise `base`"),
        (SELECT, 12, "problems of 12 symbols but the world has 11"),
        (CONVERT, 9, "problems of 9 steps but the world has 8: lower `lengths` or raise `units`"),
        (LOOK_UP, 13, "problems of 13 rows but the world has 12: lower `lengths` or raise `names`"),
        (CALL, 8, "problems of 8 arguments but the world has 7: lower `lengths` or raise `arguments` and `values`"),
    ],
    ids=NAMES,
)
def test_a_problem_longer_than_the_world_is_said(world, too_long, sentence):
    with pytest.raises(StudyError, match=sentence):
        world.problems("x", 1, [too_long], False, 0)
