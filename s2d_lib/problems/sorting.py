"""Sorting by a memorised order: small, exactly checkable problems whose difficulty can be dialled.

A *world* holds a random order of a few symbols. The prompt `ko ba mi :` asks for the symbols in that order, and a
solution is the sorted list, `# mi ko ba <|end|>`: every word of it is the smallest symbol that has not been written yet.
Which of two symbols comes first is *skill* (a fact that has to be known for every pair, and rare symbols are seldom
seen), and not putting one before its turn is *style*. All of the list must be right.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from s2d_lib.problems.world import Document, SpecialWords, World, zipf_shares

SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]


@dataclass(frozen=True)
class SortingWorld(World):
    """The facts: a random order of `symbols` symbols, drawn from `seed`.

    Symbols are used with frequency proportional to 1 / rank**zipf in the corpus and in ordinary problems, so that the
    places of the last ones in the order are rare facts. Where a corpus hides these, a model can still sort the other symbols of
    a list: of n places for one that it can't, one is right.
    """

    symbols: int  # at most as many as there are syllables
    zipf: float
    seed: int

    special: ClassVar[SpecialWords] = SpecialWords(pad="<|pad|>", end="<|end|>", unknown="<|unknown|>")
    parts: ClassVar[str] = "symbols"
    hideable: ClassVar[str] = "symbols"
    marker: ClassVar[str] = ":"  # no word of its own: models with and without reprompts share one vocabulary

    @cached_property
    def place(self) -> np.ndarray:
        """Every symbol's place in the order, shape (symbols,)."""
        return np.random.default_rng(self.seed).permutation(self.symbols)

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each symbol in ordinary use, shape (symbols,)."""
        return zipf_shares(self.symbols, self.zipf)

    @property
    def words(self) -> list[str]:
        """The vocabulary, symbols first; a word's place is its token id."""
        return [*self.by_use, ":", "#", *self.special]

    @property
    def by_use(self) -> list[str]:
        """The symbols, from the most used to the rarest."""
        return SYLLABLES[: self.symbols]

    @property
    def longest(self) -> int:
        """A list names a symbol once."""
        return self.symbols

    def draw(self, rng: np.random.Generator, length: int, rare: bool = False) -> list[int]:
        """`length` distinct symbols; `rare` draws all symbols equally often."""
        return rng.choice(self.symbols, size=length, replace=False, p=None if rare else self.frequency).tolist()

    def prompt(self, symbols: list[int]) -> str:
        """The question, for instance `ko ba mi :`."""
        return " ".join([*(SYLLABLES[s] for s in symbols), ":"])

    def in_order(self, symbols: list[int], rng: np.random.Generator | None = None, slip: float = 0.0) -> list[int]:
        """The symbols sorted; with `slip` each step takes, with that chance, any of the others that are left."""
        left, taken = sorted(symbols, key=lambda s: self.place[s]), []
        while left:
            slips = slip and len(left) > 1 and rng.random() < slip
            taken.append(left.pop(int(rng.integers(1, len(left))) if slips else 0))
        return taken

    def same(self, prompt: str) -> str:
        """Lists of the same symbols have the same answer."""
        return " ".join(sorted(prompt.split()))

    def problem(self, rng: np.random.Generator, length: int, rare: bool) -> tuple[str, str]:
        """A list and the symbols in order."""
        symbols = self.draw(rng, length, rare)
        return self.prompt(symbols), " ".join(SYLLABLES[s] for s in self.in_order(symbols))

    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """The list's symbols in any order."""
        return " ".join(["#", *rng.permutation(prompt.split()[:-1]), self.special.end])

    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """A list and an order; a guess is any order."""
        symbols = self.draw(rng, length)
        prompt = self.prompt(symbols)
        if quality == "guess":
            return Document(prompt, self.guess(rng, prompt))
        order = self.in_order(symbols, rng, slip if quality == "sloppy" else 0.0)
        return Document(prompt, " ".join(["#", *(SYLLABLES[s] for s in order), self.special.end]))
