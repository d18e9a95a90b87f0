"""The micro problem types: small, exactly checkable problems whose difficulty can be dialled.

Knowing the facts is *skill*, those of rare words seldom seen; writing the steps down instead of guessing the end is *style*.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.world import Slips, SpecialWords, World, distinct, zipf_shares
from s2d_lib.study.pretraining import Pretraining
from s2d_lib.study.problem_sets import MicroProblems, ProblemSets

SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]
RANKS = 11  # symbols in the longest list to select from: with a reprompt and its answer it fills a context of 64 tokens


@dataclass(frozen=True, kw_only=True)
class ChainWorld(World):
    """Chains of functions, each a random permutation of a few values.

    The prompt `v3 f1 f4 ?` asks for f4(f1(v3)); a worked solution names every intermediate value: `v3 f1 v9 f4 v2 # v2`.
    """

    functions: int
    values: int
    withheld: float = 0.0  # share of the facts, drawn at random, that only sets which say so need
    marker = "?"  # no word of its own: models with and without reprompts share one vocabulary
    signs = ("?", "#")
    letters: ClassVar = {"v": "values", "f": "functions"}
    parts = hideable = "functions"

    @cached_property
    def table(self) -> np.ndarray:
        """Function values, int array of shape (functions, values)."""
        rng = np.random.default_rng(self.seed)
        return np.stack([rng.permutation(self.values) for _ in range(self.functions)])

    @cached_property
    def kept_back(self) -> np.ndarray:
        """Which facts are withheld, bool array of shape (functions, values)."""
        facts = np.random.default_rng([self.seed, 1]).permutation(self.functions * self.values)
        return facts.reshape(self.functions, self.values) < round(self.withheld * facts.size)

    def draw(self, rng, length, rare=False):
        functions = distinct(rng, self.frequency, length, rare)
        return int(rng.integers(self.values)), functions

    def prompt(self, start: int, functions: list[int]):
        return " ".join([f"v{start}", *(f"f{f}" for f in functions), "?"])

    def work(self, value: int, functions: list[int], slips: Slips):
        steps = [f"v{value}"]
        for f in functions:
            value = slips.land(self.table[f, value], self.values)
            steps += [f"f{f}", f"v{value}"]
        return steps, f"v{value}"

    def withholds(self, prompt):
        value, *functions = (int(word[1:]) for word in prompt.split()[:-1])
        for f in functions:
            if self.kept_back[f, value]:
                return True
            value = self.table[f, value]
        return False


@dataclass(frozen=True, kw_only=True)
class ConversionWorld(World):
    """Conversions along a ring of units: a permutation without a rule turns a reading in the unit before into one in the next.

    The prompt `w3 v5 in w7 ?` asks for the reading in unit w7 where w3 shows v5: `w3 v5 w0 v9 w7 v2 # v2`. Other than in a
    chain, which unit comes next and when to stop must be known too. `zipf` is of the units that problems start at.
    """

    units: int
    values: int
    signs = ("in", "?", "#", "again")
    letters: ClassVar = {"v": "values", "w": "units"}
    parts = "steps"
    grows_with = hideable = "units"

    @cached_property
    def facts(self) -> tuple[np.ndarray, np.ndarray]:
        """The unit at every place of the ring, shape (units,), and every place's table, shape (units, values)."""
        rng = np.random.default_rng(self.seed)
        ring = rng.permutation(self.units)
        return ring, np.stack([rng.permutation(self.values) for _ in range(self.units)])

    @cached_property
    def by_use(self):  # round the ring
        return [f"w{unit}" for unit in self.facts[0]]

    def needs(self, length):  # the start, and a unit a step
        return length + 1

    @property
    def longest(self):  # a conversion doesn't come back to its start
        return self.units - 1

    def draw(self, rng, length, rare=False):
        start = int(rng.choice(self.units, p=None if rare else self.frequency))
        return start, int(rng.integers(self.values)), length

    def prompt(self, start: int, value: int, length: int):
        return f"{self.by_use[start]} v{value} in {self.by_use[(start + length) % self.units]} ?"

    def work(self, start: int, value: int, length: int, slips: Slips):
        steps = [self.by_use[start], f"v{value}"]
        for place in (np.arange(start + 1, start + length + 1) % self.units).tolist():
            value = slips.land(self.facts[1][place, value], self.values)
            steps += [self.by_use[place], f"v{value}"]
        return steps, f"v{value}"


@dataclass(frozen=True, kw_only=True)
class SortingWorld(World):
    """Lists to be sorted by a random order of the symbols.

    The prompt `ko ba mi :` asks for the symbols in that order, and the answer is the sorted list, `# mi ko ba`.
    """

    symbols: int  # at most as many as there are syllables
    special = SpecialWords(pad="<|pad|>", end="<|end|>", unknown="<|unknown|>")
    marker = ":"  # no word of its own, as in chains
    signs = (":", "#")
    parts = hideable = "symbols"
    has_steps = False

    @cached_property
    def place(self) -> np.ndarray:
        """Every symbol's place in the order, shape (symbols,)."""
        return np.random.default_rng(self.seed).permutation(self.symbols)

    @property
    def words(self):
        return [*self.by_use, *self.signs, *self.special]

    @property
    def by_use(self):
        return SYLLABLES[: self.symbols]

    def draw(self, rng, length, rare=False):
        return (distinct(rng, self.frequency, length, rare),)

    def prompt(self, symbols: list[int]):
        return " ".join([*(SYLLABLES[s] for s in symbols), ":"])

    def in_order(self, symbols: list[int], slips: Slips) -> list[str]:
        """The symbols sorted; a step that slips takes any of the others that are left."""
        left, taken = sorted(symbols, key=lambda s: self.place[s]), []
        while left:
            first = 1 + slips.land(-1, len(left) - 1) if len(left) > 1 else 0
            taken.append(SYLLABLES[left.pop(first)])
        return taken

    def work(self, symbols: list[int], slips: Slips):
        return [], " ".join(self.in_order(symbols, slips))

    def same(self, prompt):  # lists of the same symbols have the same answer
        return " ".join(sorted(prompt.split()))

    def guess(self, rng, prompt):
        return " ".join(rng.permutation(prompt.split()[:-1]))


@dataclass(frozen=True, kw_only=True)
class SelectionWorld(SortingWorld):
    """The m-th symbol of a list in a random order of the symbols.

    The prompt `ko ba mi n2 :` asks for the second, and is answered by counting up to it: `n1 mi n2 ko # ko`.
    """

    marker = "again"
    signs = (":", "#", marker)
    has_steps = True

    @property
    def words(self):
        return [*self.by_use, *(f"n{i + 1}" for i in range(self.longest)), *self.signs, *self.special]

    @property
    def longest(self):
        return min(self.symbols, RANKS)

    def opening(self, prompt):
        return "n1"

    def draw(self, rng, length, rare=False):
        return *super().draw(rng, length, rare), 1 + int(rng.integers(length))

    def prompt(self, symbols: list[int], rank: int):
        return " ".join([*(SYLLABLES[s] for s in symbols), f"n{rank}", ":"])

    def work(self, symbols: list[int], rank: int, slips: Slips):
        counted = self.in_order(symbols, slips)[:rank]
        return [word for i, symbol in enumerate(counted, 1) for word in (f"n{i}", symbol)], counted[-1]

    def guess(self, rng, prompt):
        return SYLLABLES[rng.integers(self.symbols)]


@dataclass(frozen=True, kw_only=True)
class ArithmeticWorld(World):
    """Running sums with the carries written out: two digits of a base, and one-digit addends.

    The prompt `u7 t2 +8 +5 =` asks for 27 + 8 + 5 (units before tens, as one adds by hand), with for every addend the new
    units, whether they carry, and the new tens: `u7 c0 t2 +8 u5 c1 t3 +5 u0 c1 t4 # u0 t4`. Both digits must be right.
    """

    base: int
    signs = ("=", "#", "again")
    letters: ClassVar = {"u": "base", "t": "base"}
    parts = hideable = "addends"
    grows_with = "base"

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each addend 1 .. base - 1 in ordinary use, shape (base - 1,)."""
        return np.random.default_rng(self.seed).permutation(zipf_shares(self.base - 1, self.zipf))

    @property
    def words(self):
        return [*super().words, "c0", "c1", *(f"+{i}" for i in range(1, self.base))]

    @property
    def by_use(self):
        return [f"+{1 + i}" for i in np.argsort(-self.frequency, kind="stable")]

    @property
    def longest(self):  # a sum uses an addend once, so that the next one is found by looking for the last
        return self.base - 1

    def draw(self, rng, length, rare=False):
        addends = [1 + i for i in distinct(rng, self.frequency, length, rare)]
        # Every addend carries at most once, so that the total stays below base**2 as the start does.
        return int(rng.integers(self.base - length)) * self.base + int(rng.integers(self.base)), addends

    def prompt(self, start: int, addends: list[int]):
        tens, units = divmod(start, self.base)
        return " ".join([f"u{units}", f"t{tens}", *(f"+{a}" for a in addends), "="])

    def work(self, start: int, addends: list[int], slips: Slips):
        tens, units = divmod(start, self.base)
        steps = [f"u{units}", "c0", f"t{tens}"]
        for addend in addends:
            carry, units = divmod(units + addend, self.base)
            units, tens = slips.land(units, self.base), tens + carry
            steps += [f"+{addend}", f"u{units}", f"c{carry}", f"t{tens}"]
        return steps, f"u{units} t{tens}"

    def same(self, prompt):  # the order of the addends doesn't matter
        units, tens, *addends, question = prompt.split()
        return " ".join([units, tens, *sorted(addends), question])

    def guess(self, rng, prompt):
        return f"u{rng.integers(self.base)} t{rng.integers(self.base)}"


@dataclass(frozen=True, kw_only=True)
class TableLookupWorld(World):
    """Two hops through tables in the prompt, from keys to middles and, in another order of rows, from middles to values.

    `k3 m5 k1 m2 m2 v9 m5 v4 k3 ?` is answered by naming the hops, `k3 m5 v4 # v4`. Nothing has to be memorised.
    """

    names: int  # of keys, middles and values each

    letters: ClassVar = {"k": "names", "m": "names", "v": "names"}
    parts = "rows"
    grows_with = "names"

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each key, middle and value in ordinary use, shape (3, names)."""
        rng = np.random.default_rng(self.seed)
        return np.stack([rng.permutation(zipf_shares(self.names, self.zipf)) for _ in range(3)])

    def draw(self, rng, length, rare=False):
        """Keys, their middles, the middles' values, the second table's order of rows, and which row is asked for."""
        keys, middles, values = (distinct(rng, share, length, rare) for share in self.frequency)
        return keys, middles, values, rng.permutation(length).tolist(), int(rng.integers(length))

    def prompt(self, keys: list[int], middles: list[int], values: list[int], order: list[int], asked: int):
        first = [f"k{key} m{middle}" for key, middle in zip(keys, middles, strict=True)]
        return " ".join([*first, *(f"m{middles[row]} v{values[row]}" for row in order), f"k{keys[asked]}", "?"])

    def work(self, keys: list[int], middles: list[int], values: list[int], order: list[int], asked: int, slips: Slips):
        middle = slips.land(asked, len(keys))  # a hop that slips lands in any row
        value = f"v{values[slips.land(middle, len(keys))]}"
        return [f"k{keys[asked]}", f"m{middles[middle]}", value], value

    def same(self, prompt):  # the order of a table's rows doesn't matter
        *tables, key, question = prompt.split()
        return str([*sorted(zip(tables[::2], tables[1::2], strict=True)), key, question])

    def opening(self, prompt):
        return prompt.split()[-2]


@dataclass(frozen=True, kw_only=True)
class ToolCallWorld(World):
    """From a request and tool specifications to the right call; which tool serves a verb is memorised.

    The prompt `f3 a1 a4 f8 a2 a6 d5 a6 x1 a4 x7 a2 x2 a1 x9 ?` specifies two tools, each with its arguments in order, and
    requests with a verb and more values than are needed. The answer is the call of the tool that serves it: `# f3 a1 x9 a4 x7`.
    """

    verbs: int  # at least as many as tools, so that every tool serves one
    tools: int
    arguments: int
    values: int

    letters: ClassVar = {"f": "tools", "d": "verbs", "a": "arguments", "x": "values"}
    parts = "arguments"
    grows_with = "arguments` and `values"
    hideable = "verbs"
    has_steps = False

    @cached_property
    def serves(self) -> np.ndarray:
        """The tool that serves each verb, shape (verbs,)."""
        return np.random.default_rng(self.seed).permutation(self.verbs) % self.tools

    def needs(self, length):  # a request has one verb, however many arguments
        return 1

    @property
    def longest(self):  # both tools' arguments are different ones, and so are the values
        return min(self.arguments, self.values) // 2

    def draw(self, rng, length, rare=False):
        """Two tools as specified, the tool's name before its arguments; a verb; the values of arguments as requested."""
        (verb,) = distinct(rng, self.frequency, 1, rare)
        serving = int(self.serves[verb])
        other = (serving + 1 + int(rng.integers(self.tools - 1))) % self.tools
        names = [f"a{i}" for i in distinct(rng, zipf_shares(self.arguments, self.zipf), 2 * length, rare)]
        values = [f"x{i}" for i in distinct(rng, zipf_shares(self.values, self.zipf), 2 * length, rare)]
        first, second = (serving, other) if rng.random() < 0.5 else (other, serving)
        tools = [[f"f{first}", *names[:length]], [f"f{second}", *names[length:]]]
        return tools, f"d{verb}", dict(zip(rng.permutation(names).tolist(), values, strict=True))

    def prompt(self, tools: list[list[str]], verb: str, values: dict[str, str]):
        return " ".join([*tools[0], *tools[1], verb, *map(" ".join, values.items()), "?"])

    def work(self, tools: list[list[str]], verb: str, values: dict[str, str], slips: Slips):
        right = [tool for tool, *_ in tools].index(f"f{self.serves[int(verb[1:])]}")
        tool, *names = tools[slips.land(right, 2)]  # a slip calls either tool, and takes any of the request's values
        named, given = list(values), list(values.values())
        return [], " ".join([tool, *(f"{n} {given[slips.land(named.index(n), len(named))]}" for n in names)])

    def parsed(self, prompt: str) -> tuple[list[list[str]], str, dict[str, str]]:
        """A problem as it was drawn, from its prompt."""
        *tools, (verb, *request) = (part.split() for part in re.split(r" (?=[fd])", prompt.removesuffix(" ?")))
        return tools, verb, dict(zip(request[::2], request[1::2], strict=True))

    def same(self, prompt):  # the order of the tools and of the request's values doesn't matter
        tools, verb, values = self.parsed(prompt)
        return self.prompt(sorted(tools), verb, dict(sorted(values.items())))

    def guess(self, rng, prompt):
        return self.work(*self.parsed(prompt), slips=Slips(rng, 1.0))[1]


WORLDS: dict[str, type[World]] = {
    "function_chains": ChainWorld,
    "sorting": SortingWorld,
    "arithmetic": ArithmeticWorld,
    "selection": SelectionWorld,
    "conversion": ConversionWorld,
    "table_lookup": TableLookupWorld,
    "tool_calls": ToolCallWorld,
}


def world_of(problems: MicroProblems | ProblemSets) -> World:
    """The world behind a profile's or a run's micro problems."""
    return WORLDS[problems.source](**problems.world.model_dump())


def refuse_what_teaches_nothing(problems: MicroProblems, pretraining: Pretraining) -> None:
    """Refuse a corpus of problems longer than the world has, base models from which so much is hidden that nothing of the
    corpus, or nothing like a label pool's problems, is left, and an opening where solutions begin as guesses do."""
    world, corpus = world_of(problems), pretraining.corpus
    world.check_lengths("the corpus", corpus.lengths)
    for name, model in pretraining.models.items():
        try:
            for lengths in (corpus.lengths, *(pool.lengths for pool in problems.pools.values())):
                world.rarest(getattr(model, "hidden", 0), min(lengths))
        except StudyError as error:
            raise StudyError(f"base model {name!r}: {error}") from None
        if model.opening and not world.has_steps:
            raise StudyError(
                f"base model {name!r}: solutions of {problems.source} begin as guesses do, so that there is nothing to open: "
                "leave out `opening`."
            )
