"""Two hops through tables in the prompt: small, exactly checkable problems whose difficulty can be dialled.

A prompt holds a table from keys to middles, a table from middles to values with its rows in another order, and a key:
`k3 m5 k1 m2 m2 v9 m5 v4 k3 ?` asks for what k3's middle stands for, and is answered by naming the hops: `k3 m5 v4 # v4`.
Nothing has to be memorised, since every problem brings its own tables; finding the right row among many is *skill*
(rare words seldom had to be found), writing the middle down is *style*.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from s2d_lib.problems.world import Document, SpecialWords, World, distinct, zipf_shares


class Tables(NamedTuple):
    """Two tables of the same number of rows and which row is asked for."""

    keys: list[int]
    middles: list[int]  # of the keys
    values: list[int]  # of the middles
    order: list[int]  # in which the second table lists the rows
    asked: int  # row of the first table


@dataclass(frozen=True)
class TableLookupWorld(World):
    """The words: `names` keys, middles and values each.

    Words are used with frequency proportional to 1 / rank**zipf in the corpus and in ordinary problems, in an order of
    rank drawn from `seed`, so that the last ones are rarely met.
    """

    names: int
    zipf: float
    seed: int

    special: ClassVar[SpecialWords] = SpecialWords(pad="<pad>", end="<eos>", unknown="<unk>")
    parts: ClassVar[str] = "rows"
    grows_with: ClassVar[str] = "names"

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each key, middle and value in ordinary use, shape (3, names)."""
        rng = np.random.default_rng(self.seed)
        return np.stack([rng.permutation(zipf_shares(self.names, self.zipf)) for _ in range(3)])

    @property
    def words(self) -> list[str]:
        """The vocabulary, special words first; a word's place is its token id."""
        return [*self.special, "?", "#", self.marker, *(f"{kind}{i}" for kind in "kmv" for i in range(self.names))]

    @property
    def longest(self) -> int:
        """A table names a word once."""
        return self.names

    def draw(self, rng: np.random.Generator, length: int, rare: bool = False) -> Tables:
        """Tables of `length` rows each; `rare` draws all words equally often."""
        keys, middles, values = (distinct(rng, share, length, rare) for share in self.frequency)
        return Tables(keys, middles, values, rng.permutation(length).tolist(), int(rng.integers(length)))

    def prompt(self, tables: Tables) -> str:
        """The question, for instance `k3 m5 k1 m2 m2 v9 m5 v4 k3 ?`."""
        first = [f"k{key} m{middle}" for key, middle in zip(tables.keys, tables.middles, strict=True)]
        second = [f"m{tables.middles[row]} v{tables.values[row]}" for row in tables.order]
        return " ".join([*first, *second, f"k{tables.keys[tables.asked]}", "?"])

    def solution(self, tables: Tables, rng: np.random.Generator | None = None, slip: float = 0.0) -> tuple[str, str]:
        """The worked lookup and its value; with `slip` each hop lands, with that chance, in any row."""

        def landing(row: int) -> int:
            return int(rng.integers(len(tables.keys))) if slip and rng.random() < slip else row

        middle = landing(tables.asked)
        value = tables.values[landing(middle)]
        return f"k{tables.keys[tables.asked]} m{tables.middles[middle]} v{value} # v{value}", f"v{value}"

    def same(self, prompt: str) -> str:
        """The order of a table's rows doesn't matter."""
        *tables, key, question = prompt.split()
        rows = sorted(zip(tables[::2], tables[1::2], strict=True))
        return " ".join([*(word for row in rows for word in row), key, question])

    def opening(self, prompt: str) -> str:
        """The key that is asked for."""
        return prompt.split()[-2]

    def problem(self, rng: np.random.Generator, length: int, rare: bool) -> tuple[str, str]:
        """Tables with a key, and the key's value."""
        tables = self.draw(rng, length, rare)
        return self.prompt(tables), self.solution(tables)[1]

    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """Any value of the world."""
        return f"# v{rng.integers(self.names)} {self.special.end}"

    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """Tables with a key, looked up or with any value of the world in place of its solution."""
        tables = self.draw(rng, length)
        prompt = self.prompt(tables)
        if quality == "guess":
            return Document(prompt, self.guess(rng, prompt))
        text, _ = self.solution(tables, rng, slip if quality == "sloppy" else 0.0)
        return Document(prompt, f"{text} {self.special.end}")
