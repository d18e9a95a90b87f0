"""Selection by a memorised order: small, exactly checkable problems whose difficulty can be dialled.

The prompt `ko ba mi n2 :` asks for the second of three symbols in a world's order, and is answered by counting up to it:
`n1 mi n2 ko # ko`. Which of two symbols comes first is *skill* (known for every pair, rare symbols seldom seen), counting
instead of naming any symbol is *style*.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from s2d_lib.problems.sorting import SYLLABLES, SortingWorld
from s2d_lib.problems.world import Document

RANKS = 11
"""Symbols in the longest list: with a reprompt and its answer it fills a context of 64 tokens."""


@dataclass(frozen=True)
class SelectionWorld(SortingWorld):
    """The facts: a random order of `symbols` symbols, as in sorting. Where a corpus hides the places of the last ones, a model
    can still count up the other symbols of a list, which is right wherever the hidden one comes after the rank asked for.
    """

    marker: ClassVar[str] = "again"

    @property
    def words(self) -> list[str]:
        """The vocabulary, symbols first; a word's place is its token id."""
        ranks = [f"n{i + 1}" for i in range(self.longest)]
        return [*self.by_use, *ranks, ":", "#", self.marker, *self.special]

    @property
    def longest(self) -> int:
        """A list names a symbol once."""
        return min(self.symbols, RANKS)

    def question(self, symbols: list[int], rank: int) -> str:
        """The question, for instance `ko ba mi n2 :`; ranks count from 1."""
        return " ".join([*(SYLLABLES[s] for s in symbols), f"n{rank}", ":"])

    def solution(
        self, symbols: list[int], rank: int, rng: np.random.Generator | None = None, slip: float = 0.0
    ) -> tuple[str, str]:
        """The symbols counted up to the rank, and the last of them; with `slip` each step takes, with that chance, any
        of the others that are left."""
        counted = [SYLLABLES[s] for s in self.in_order(symbols, rng, slip)][:rank]
        steps = [word for place, symbol in enumerate(counted, 1) for word in (f"n{place}", symbol)]
        return " ".join([*steps, "#", counted[-1]]), counted[-1]

    def opening(self, prompt: str) -> str:
        """The first rank."""
        return "n1"

    def problem(self, rng: np.random.Generator, length: int, rare: bool) -> tuple[str, str]:
        """A list with a rank, and the symbol at it."""
        symbols, rank = self.draw(rng, length, rare), 1 + int(rng.integers(length))
        return self.question(symbols, rank), self.solution(symbols, rank)[1]

    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """Any symbol of the world."""
        return f"# {SYLLABLES[rng.integers(self.symbols)]} {self.special.end}"

    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """A list and a rank, counted up to it or with any symbol of the world in place of its solution."""
        symbols, rank = self.draw(rng, length), 1 + int(rng.integers(length))
        prompt = self.question(symbols, rank)
        if quality == "guess":
            return Document(prompt, self.guess(rng, prompt))
        text, _ = self.solution(symbols, rank, rng, slip if quality == "sloppy" else 0.0)
        return Document(prompt, f"{text} {self.special.end}")
