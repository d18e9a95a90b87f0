"""The micro worlds: every answer checked by a second implementation that reads the prompt alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.micro import SYLLABLES, WORLDS, world_of
from s2d_lib.problems.sources import load_problems
from s2d_lib.problems.world import corpus
from s2d_lib.study import load_profile, profile_names, resolve
from s2d_lib.study.problem_sets import MicroProblems, MicroSet

CHAIN = WORLDS["function_chains"](functions=9, values=8, zipf=1.0, seed=3)
SORT = WORLDS["sorting"](symbols=12, zipf=1.0, seed=3)
ADD = WORLDS["arithmetic"](base=10, zipf=1.0, seed=3)
SELECT = WORLDS["selection"](symbols=12, zipf=1.0, seed=3)
CONVERT = WORLDS["conversion"](units=9, values=16, zipf=1.0, seed=3)
LOOK_UP = WORLDS["table_lookup"](names=12, zipf=1.0, seed=3)
CALL = WORLDS["tool_calls"](verbs=12, tools=4, arguments=14, values=14, zipf=1.0, seed=3)
PLACE = {name: SORT.place[i] for i, name in enumerate(SYLLABLES[:12])}  # of SELECT too


def chained(prompt: str) -> str:
    """The value, by looking every step up in the table."""
    start, *functions, question = prompt.split()
    assert question == "?"
    value = int(start[1:])
    for f in functions:
        value = CHAIN.table[int(f[1:])][value]
    return f"v{value}"


def ordered(prompt: str) -> str:
    """The symbols by how many of the list come before them."""
    symbols = prompt.split()[:-1]
    before = {sum(PLACE[other] < PLACE[s] for other in symbols): s for s in symbols}
    return " ".join(before[i] for i in range(len(symbols)))


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
    return ordered(" ".join([*symbols, question])).split()[int(rank[1:]) - 1]


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


WORLDS_HERE = (CHAIN, SORT, ADD, SELECT, CONVERT, LOOK_UP, CALL)
BY_HAND = dict(zip(WORLDS_HERE, (chained, ordered, added, selected, converted, looked_up, called), strict=True))
every_world = pytest.mark.parametrize("world", BY_HAND, ids=[type(world).__name__ for world in BY_HAND])


def asked(world, count, lengths, rare=False, seed=0, taken=None, name="x"):
    """A set of problems; the prompts of those before are `taken`."""
    spec = MicroSet(count=count, lengths=lengths, rare=rare, seed=seed)
    return world.problems(name, spec, set() if taken is None else taken)


@every_world
@given(seed=st.integers(0, 2**20), length=st.integers(1, 7), rare=st.booleans())
@settings(max_examples=15, deadline=None)
def test_answers_are_right_and_sets_are_disjoint_and_repeatable(world, seed, length, rare):
    taken = set()
    first = asked(world, 4, [length], rare, seed, taken, "a")
    second = asked(world, 4, [length], rare, seed, taken, "b")
    assert [p.answer for p in first] == [BY_HAND[world](p.prompt) for p in first]
    again, other = (asked(world, 4, [length], rare, number, name="a") for number in (seed, seed + 1))
    assert first == again != other
    assert len({world.same(p.prompt) for p in first + second}) == len({p.id for p in first + second}) == 8
    assert {p.level for p in first} == {str(length)}


@every_world
@given(seed=st.integers(0, 2**20), length=st.integers(1, 7), quality=st.sampled_from(["guess", "sloppy", "right"]))
@settings(max_examples=25, deadline=None)
def test_documents_speak_the_vocabulary_and_right_ones_are_right(world, seed, length, quality):
    prompt, solution = world.document(np.random.default_rng(seed), length, quality, 0.25)
    words = [*prompt.split(), *solution.split()]
    assert len(set(world.words)) == len(world.words)
    assert set(words) | set(world.special) | {"#", world.marker} <= set(world.words)
    assert words[-1] == world.special.end
    assert solution.startswith("#") == (quality == "guess" or not world.has_steps)
    said = solution.removesuffix(world.special.end).strip()
    assert quality != "right" or grade(said, BY_HAND[world](prompt), mode="exact").correct


RIGHT_OF_SLOPPY = [
    (CHAIN, (0.75 + 0.25 / 8) ** 3, 0.03),  # a slip lands on the right value with chance 1 / 8
    (SORT, 0.75**2, 0.03),  # of a list of three two steps can slip
    (ADD, 0.775**3 + 0.03, 0.06),  # units may slip back; once wrong, later carries may be wrong too
    (SELECT, 0.725, 0.155),
    (CONVERT, (0.75 + 0.25 / 16) ** 3 + 0.01, 0.07),
    (LOOK_UP, 0.7, 0.08),  # a hop is right with 0.75 + 0.25 / 3, and two wrong ones may meet
    (CALL, (0.75 + 0.125) * (0.75 + 0.25 / 6) ** 3, 0.07),
]


@pytest.mark.parametrize(("world", "expected", "within"), RIGHT_OF_SLOPPY)
def test_the_corpus_has_its_shares_and_its_slips(world, expected, within):
    def right(quality):
        found = corpus(world, 1500, {quality: 1.0}, 0.25, [3], seed=0)
        return np.mean([d.solution.split("# ")[1].rsplit(" ", 1)[0] == BY_HAND[world](d.prompt) for d in found])

    assert right("right") == 1.0
    assert right("guess") < (0.2 if world is SORT else 0.16)  # one of six orders, or of eight values
    assert right("sloppy") == pytest.approx(expected, abs=within)


@every_world
def test_rare_sets_meet_rare_words_more_often(world):
    kind = {CHAIN: "f", ADD: "+", CONVERT: "w", LOOK_UP: "m", CALL: "d"}.get(world, tuple(SYLLABLES))
    usual = Counter(w for d in corpus(world, 2000, {"right": 1.0}, 0.0, [2], seed=0) for w in d.prompt.split())
    rare = Counter(w for p in asked(world, 60, [2], rare=True) for w in p.prompt.split())
    words = sorted((w for w in world.words if w.startswith(kind)), key=usual.get)

    def share_of_the_last(counts):
        return sum(counts[w] for w in words[: len(words) // 3]) / sum(counts[w] for w in words)

    assert share_of_the_last(rare) > 1.3 * share_of_the_last(usual)


@pytest.mark.parametrize(("world", "longest"), zip(BY_HAND, (9, 12, 9, 11, 8, 12, 7), strict=True))
def test_a_problem_longer_than_the_world_is_said(world, longest):
    raised = "base|functions|symbols|units|names|arguments` and `values"
    sentence = f"problems of {longest + 1} {world.parts} but the world has {longest}: lower `lengths` or raise"
    with pytest.raises(StudyError, match=rf"{sentence} `({raised})`"):
        asked(world, 1, [longest + 1])


def test_too_small_a_world_is_said_and_lists_of_the_same_symbols_are_one_problem():
    with pytest.raises(StudyError, match="only 4 of 5 distinct problems"):  # of 24 lists of three of four symbols
        asked(replace(SORT, symbols=4, zipf=0.0), 5, [3])


@pytest.mark.parametrize("name", [n for n in profile_names() if isinstance(load_profile(n).problems, MicroProblems)])
def test_a_profiles_sets_are_disjoint_and_as_large_as_declared(name):
    declared = load_profile(name).problems
    world = world_of(declared)
    assert {key: getattr(world, key) for key in type(declared.world).model_fields} == dict(declared.world)
    loaded = load_problems(resolve(name, "student.grpo", 0).problems)
    sets = {**loaded.evaluations, "pool": loaded.pool, "validation": loaded.validation}
    assert {key: len(found) for key, found in sets.items()} == {
        **{key: one.count for key, one in declared.evaluations.items()},
        "pool": declared.labels or declared.pools["full"].count,
        "validation": declared.validation.count,
    }
    prompts = [world.same(p.prompt.partition("?")[0] + "?") for own in sets.values() for p in own]  # no opening
    assert len(set(prompts)) == len(prompts)
    assert loaded.grading == "exact"
