"""Running sums with the carries written out: small, exactly checkable problems whose difficulty can be dialled.

The prompt `u7 t2 +8 +5 =` asks for 27 + 8 + 5 (units before tens, as one adds by hand) and is answered by
`u7 c0 t2 +8 u5 c1 t3 +5 u0 c1 t4 # u0 t4`: for every addend the new units, whether they carry, and the new tens. What a
digit and an addend make is *skill* (base * (base - 1) facts, those of rare addends seldom seen), writing the carry down
is *style*. Both digits must be right, so guessing hardly ever is.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from s2d_lib.problems.world import Document, SpecialWords, World, distinct, zipf_shares


@dataclass(frozen=True)
class ArithmeticWorld(World):
    """The number system: two digits of a base, and one-digit addends.

    Addends are used with frequency proportional to 1 / rank**zipf in the corpus and in ordinary problems, in a random
    order of rank drawn from `seed`, so that sums with the last ones are rare facts. Where a corpus hides these addends, a model
    can still add the others; of one that it can't, it has a guess at the units and at whether they carry.
    """

    base: int
    zipf: float
    seed: int

    special: ClassVar[SpecialWords] = SpecialWords(pad="<pad>", end="<eos>", unknown="<unk>")
    parts: ClassVar[str] = "addends"
    grows_with: ClassVar[str] = "base"
    hideable: ClassVar[str] = "addends"

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each addend 1 .. base - 1 in ordinary use, shape (base - 1,)."""
        return np.random.default_rng(self.seed).permutation(zipf_shares(self.base - 1, self.zipf))

    @property
    def words(self) -> list[str]:
        """The vocabulary, special words first; a word's place is its token id."""
        digits = range(self.base)
        units, tens = [f"u{i}" for i in digits], [f"t{i}" for i in digits]
        return [*self.special, "=", "#", self.marker, *units, *tens, "c0", "c1", *(f"+{i}" for i in digits if i)]

    @property
    def by_use(self) -> list[str]:
        """The addends, from the most used to the rarest."""
        return [f"+{1 + i}" for i in np.argsort(-self.frequency, kind="stable")]

    @property
    def longest(self) -> int:
        """A sum uses an addend once, so that the next one is found by looking for the last."""
        return self.base - 1

    def draw(self, rng: np.random.Generator, length: int, rare: bool = False) -> tuple[int, list[int]]:
        """A start below base**2 and `length` distinct addends; every addend carries at most once, so that the total
        stays below base**2 too."""
        addends = [1 + i for i in distinct(rng, self.frequency, length, rare)]
        return int(rng.integers(self.base - length)) * self.base + int(rng.integers(self.base)), addends

    def prompt(self, start: int, addends: list[int]) -> str:
        """The question, for instance `u7 t2 +8 +5 =`."""
        tens, units = divmod(start, self.base)
        return " ".join([f"u{units}", f"t{tens}", *(f"+{a}" for a in addends), "="])

    def solution(
        self, start: int, addends: list[int], rng: np.random.Generator | None = None, slip: float = 0.0
    ) -> tuple[str, str]:
        """The worked sum and its total; with `slip` the units of each step are, with that chance, any digit."""
        tens, units = divmod(start, self.base)
        words = [f"u{units}", "c0", f"t{tens}"]
        for addend in addends:
            carry, units = divmod(units + addend, self.base)
            tens += carry
            if slip and rng.random() < slip:
                units = int(rng.integers(self.base))
            words += [f"+{addend}", f"u{units}", f"c{carry}", f"t{tens}"]
        answer = f"u{units} t{tens}"
        return " ".join([*words, "#", answer]), answer

    def same(self, prompt: str) -> str:
        """The order of the addends doesn't matter."""
        units, tens, *addends, question = prompt.split()
        return " ".join([units, tens, *sorted(addends), question])

    def opening(self, prompt: str) -> str:
        """The units it starts from."""
        return prompt.split()[0]

    def problem(self, rng: np.random.Generator, length: int, rare: bool) -> tuple[str, str]:
        """A sum and its total."""
        start, addends = self.draw(rng, length, rare)
        return self.prompt(start, addends), self.solution(start, addends)[1]

    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """Any total."""
        return f"# u{rng.integers(self.base)} t{rng.integers(self.base)} {self.special.end}"

    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """A sum, worked or with any total in place of its solution."""
        start, addends = self.draw(rng, length)
        prompt = self.prompt(start, addends)
        if quality == "guess":
            return Document(prompt, self.guess(rng, prompt))
        text, _ = self.solution(start, addends, rng, slip if quality == "sloppy" else 0.0)
        return Document(prompt, f"{text} {self.special.end}")
