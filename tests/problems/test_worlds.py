"""The micro worlds: every answer checked by a second implementation that reads the prompt alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.micro import SYLLABLES, WORLDS
from s2d_lib.problems.sources import load_problems
from s2d_lib.results.bundle import read_bundle
from s2d_lib.stages.inputs import problems_content
from s2d_lib.study import Resolved
from s2d_lib.study.problem_sets import MicroSet
from tests.conftest import ROOT

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


BY_HAND = {
    CHAIN: chained,
    SORT: ordered,
    ADD: added,
    SELECT: selected,
    CONVERT: converted,
    LOOK_UP: looked_up,
    CALL: called,
}
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


@pytest.mark.parametrize(("world", "longest"), zip(BY_HAND, (9, 12, 9, 11, 8, 12, 7), strict=True))
def test_a_problem_longer_than_the_world_is_said(world, longest):
    raised = "base|functions|symbols|units|names|arguments` and `values"
    sentence = f"problems of {longest + 1} {world.parts} but the world has {longest}: lower `lengths` or raise"
    with pytest.raises(StudyError, match=rf"{sentence} `({raised})`"):
        asked(world, 1, [longest + 1])


def test_too_small_a_world_is_said_and_so_is_one_without_openings():
    with pytest.raises(StudyError, match="only 4 of 5 distinct problems"):  # whose order in the prompt does not count
        asked(replace(SORT, symbols=4, zipf=0.0), 5, [3])
    for world in (SORT, CALL):
        with pytest.raises(StudyError, match="leave out `opened`"):
            world.problems("x", MicroSet(count=1, lengths=[2], seed=0, opened=True), set())


@pytest.mark.parametrize("folder", sorted(ROOT.glob("figures/micro-*/results")), ids=lambda folder: folder.parent.name)
def test_the_problems_of_committed_runs_are_the_ones_that_they_read(folder):
    """Of every pool: whole, halves, label budgets; rare, withheld and opened sets; validation."""
    of_pools = {}
    for record in read_bundle(folder).records.values():
        of_pools[str((record["resolved"]["problems"], record["resolved"]["labels"]))] = record
    for record in of_pools.values():
        run = Resolved.model_validate(record["resolved"])
        found = load_problems(run.problems, run.labels)
        assert (found.report, found.grading) == (record["problems"], "exact")
        sets = [found.pool, found.validation, *found.evaluations.values()]
        read = [content for name, content in record["read"].items() if name.startswith("the problem set")]
        assert sorted(problems_content(some) for some in sets if some) == sorted(read)
