"""Conversion along a memorised ladder of units: small, exactly checkable problems whose difficulty can be dialled.

A *world* holds units on a ring and, for every unit, a table that turns a reading in the unit before it into a reading in
it: a permutation without a rule, like shoe sizes between countries. The prompt `w3 v5 in w7 ?` asks for the reading that
stands in unit w7 where w3 shows v5, and a worked solution goes from unit to unit until it is there:
`w3 v5 w0 v9 w7 v2 # v2`. Unlike in a function chain the steps don't stand in the prompt: which unit comes next, what the
reading becomes (both *skill*; units far from the popular starts are seldom seen) and when to stop must be known.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from s2d_lib.problems.world import Document, SpecialWords, World, zipf_shares


@dataclass(frozen=True)
class ConversionWorld(World):
    """The facts: an order of `units` units and their tables over `values` readings, drawn from `seed`.

    Ordinary problems and the corpus start at the ring's k-th unit with frequency proportional to 1 / k**zipf, so that
    the far side of the ring is rare. Where a corpus hides the last units, a model knows neither their tables nor their order: it
    can still convert up to them, and has a guess at the reading from there on.
    """

    units: int
    values: int
    zipf: float
    seed: int

    special: ClassVar[SpecialWords] = SpecialWords(pad="<pad>", end="<eos>", unknown="<unk>")
    parts: ClassVar[str] = "steps"
    grows_with: ClassVar[str] = "units"
    hideable: ClassVar[str] = "units"

    @cached_property
    def facts(self) -> tuple[np.ndarray, np.ndarray]:
        """The unit at every place of the ring, shape (units,), and every place's table, shape (units, values)."""
        rng = np.random.default_rng(self.seed)
        ring = rng.permutation(self.units)
        return ring, np.stack([rng.permutation(self.values) for _ in range(self.units)])

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each place of the ring as an ordinary problem's start, shape (units,)."""
        return zipf_shares(self.units, self.zipf)

    @property
    def words(self) -> list[str]:
        """The vocabulary, special words first; a word's place is its token id."""
        values, units = [f"v{i}" for i in range(self.values)], [f"w{i}" for i in range(self.units)]
        return [*self.special, "in", "?", "#", self.marker, *values, *units]

    @property
    def by_use(self) -> list[str]:
        """The units, from the most popular start round the ring."""
        return [self.unit(place) for place in range(self.units)]

    def needs(self, length: int) -> int:
        """The start, and a unit a step."""
        return length + 1

    @property
    def longest(self) -> int:
        """A conversion doesn't come back to its start."""
        return self.units - 1

    def unit(self, place: int) -> str:
        """The unit at a place of the ring."""
        return f"w{self.facts[0][place % self.units]}"

    def draw(self, rng: np.random.Generator, rare: bool = False) -> tuple[int, int]:
        """A start's place and reading; `rare` starts everywhere equally often."""
        start = rng.choice(self.units, p=None if rare else self.frequency)
        return int(start), int(rng.integers(self.values))

    def prompt(self, start: int, value: int, length: int) -> str:
        """The question, for instance `w3 v5 in w7 ?`."""
        return f"{self.unit(start)} v{value} in {self.unit(start + length)} ?"

    def solution(
        self, start: int, value: int, length: int, rng: np.random.Generator | None = None, slip: float = 0.0
    ) -> tuple[str, str]:
        """The worked conversion and its result; with `slip` each step lands on any reading with that chance."""
        words = [self.unit(start), f"v{value}"]
        for place in range(start + 1, start + length + 1):
            value = int(self.facts[1][place % self.units, value])
            if slip and rng.random() < slip:
                value = int(rng.integers(self.values))
            words += [self.unit(place), f"v{value}"]
        return " ".join([*words, "#", f"v{value}"]), f"v{value}"

    def opening(self, prompt: str) -> str:
        """The unit it starts from."""
        return prompt.split()[0]

    def problem(self, rng: np.random.Generator, length: int, rare: bool) -> tuple[str, str]:
        """A conversion and its result."""
        start, value = self.draw(rng, rare)
        return self.prompt(start, value, length), self.solution(start, value, length)[1]

    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """Any reading."""
        return f"# v{rng.integers(self.values)} {self.special.end}"

    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """A conversion, worked or with any reading in place of its solution."""
        start, value = self.draw(rng)
        prompt = self.prompt(start, value, length)
        if quality == "guess":
            return Document(prompt, self.guess(rng, prompt))
        text, _ = self.solution(start, value, length, rng, slip if quality == "sloppy" else 0.0)
        return Document(prompt, f"{text} {self.special.end}")
