"""Function chains: small, exactly checkable problems whose difficulty can be dialled.

A *world* holds random permutations of a few values (functions to be memorised). The prompt `v3 f1 f4 ?` asks for
f4(f1(v3)); a worked solution names every intermediate value: `v3 f1 v9 f4 v2 # v2 <eos>`. Each intermediate value is a
lookup of the two tokens before it, so the chain is *skill* (knowing the facts) times *style* (writing the steps down
instead of guessing the end).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from s2d_lib.problems.world import Document, SpecialWords, World, zipf_shares


@dataclass(frozen=True)
class ChainWorld(World):
    """The facts: `functions` random permutations of `values` values, drawn from `seed`.

    Functions are used with frequency proportional to 1 / rank**zipf in the corpus and in ordinary problems, so that
    the last ones are rare facts. Where a corpus hides these, a model has no more than a guess at the value behind one.
    """

    functions: int
    values: int
    zipf: float
    seed: int
    withheld: float = 0.0  # share of the facts, drawn at random, that only sets which say so need

    special: ClassVar[SpecialWords] = SpecialWords(pad="<pad>", end="<eos>", unknown="<unk>")
    parts: ClassVar[str] = "functions"
    hideable: ClassVar[str] = "functions"
    marker: ClassVar[str] = "?"  # no word of its own: models with and without reprompts share one vocabulary

    @cached_property
    def table(self) -> np.ndarray:
        """Function values, int array of shape (functions, values)."""
        rng = np.random.default_rng(self.seed)
        return np.stack([rng.permutation(self.values) for _ in range(self.functions)])

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each function in ordinary use, shape (functions,)."""
        return zipf_shares(self.functions, self.zipf)

    @cached_property
    def kept_back(self) -> np.ndarray:
        """Which facts are withheld, bool array of shape (functions, values)."""
        rng = np.random.default_rng([self.seed, 1])
        facts = rng.permutation(self.functions * self.values).reshape(self.functions, self.values)
        return facts < round(self.withheld * facts.size)

    @property
    def words(self) -> list[str]:
        """The vocabulary, special words first; a word's place is its token id."""
        values = [f"v{i}" for i in range(self.values)]
        return [*self.special, "?", "#", *values, *self.by_use]

    @property
    def longest(self) -> int:
        """A chain uses a function once."""
        return self.functions

    def chain(self, rng: np.random.Generator, length: int, rare: bool = False) -> tuple[int, list[int]]:
        """A start value and `length` distinct functions; `rare` draws all functions equally often."""
        p = None if rare else self.frequency
        functions = rng.choice(self.functions, size=length, replace=False, p=p)
        return int(rng.integers(self.values)), [int(f) for f in functions]

    def prompt(self, start: int, functions: list[int]) -> str:
        """The question, for instance `v3 f1 f4 ?`."""
        return " ".join([f"v{start}", *(f"f{f}" for f in functions), "?"])

    def solution(self, start: int, functions: list[int], rng: np.random.Generator | None = None, slip: float = 0.0):
        """The worked solution and its final value; with `slip` each step lands on a random value with that chance."""
        words, value = [f"v{start}"], start
        for f in functions:
            value = int(self.table[f, value])
            if slip and rng.random() < slip:
                value = int(rng.integers(self.values))
            words += [f"f{f}", f"v{value}"]
        return " ".join([*words, "#", f"v{value}"]), value

    @staticmethod
    def parsed(prompt: str) -> tuple[int, list[int]]:
        """The start value and the functions of a prompt."""
        start, *functions = (int(word[1:]) for word in prompt.split() if word != "?")
        return start, functions

    def withholds(self, prompt: str) -> bool:
        """Whether a fact on the chain's way is withheld."""
        value, functions = self.parsed(prompt)
        for f in functions:
            if self.kept_back[f, value]:
                return True
            value = int(self.table[f, value])
        return False

    def opening(self, prompt: str) -> str:
        """The start value."""
        return prompt.split()[0]

    @property
    def by_use(self) -> list[str]:
        """The functions, from the most used to the rarest."""
        return [f"f{i}" for i in range(self.functions)]

    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """Any value of the world in place of a solution."""
        return f"# v{rng.integers(self.values)} {self.special.end}"

    def problem(self, rng: np.random.Generator, length: int, rare: bool) -> tuple[str, str]:
        """A chain and its final value."""
        start, functions = self.chain(rng, length, rare)
        return self.prompt(start, functions), f"v{self.solution(start, functions)[1]}"

    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """A chain, worked or with a random value in place of its solution; a slip lands on a random value."""
        start, functions = self.chain(rng, length)
        prompt = self.prompt(start, functions)
        if quality == "guess":
            return Document(prompt, self.guess(rng, prompt))
        text, _ = self.solution(start, functions, rng, slip if quality == "sloppy" else 0.0)
        return Document(prompt, f"{text} {self.special.end}")
