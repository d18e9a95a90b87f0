"""Function chains: small, exactly checkable problems whose difficulty can be dialled.

A *world* holds random permutations of a few values (functions to be memorised). The prompt `v3 f1 f4 ?` asks for
f4(f1(v3)); a worked solution names every intermediate value: `v3 f1 v9 f4 v2 # v2 <eos>`. Each intermediate value is a
lookup of the two tokens before it, so the chain is *skill* (knowing the facts) times *style* (writing the steps down
instead of guessing the end).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem

EOS, PAD, UNK = "<eos>", "<pad>", "<unk>"


@dataclass(frozen=True)
class World:
    """The facts: `functions` random permutations of `values` values, drawn from `seed`.

    Functions are used with frequency proportional to 1 / rank**zipf in the corpus and in ordinary problems, so that
    the last ones are rare facts.
    """

    functions: int
    values: int
    zipf: float
    seed: int

    @cached_property
    def table(self) -> np.ndarray:
        """Function values, int array of shape (functions, values)."""
        rng = np.random.default_rng(self.seed)
        return np.stack([rng.permutation(self.values) for _ in range(self.functions)])

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each function in ordinary use, shape (functions,)."""
        share = 1.0 / np.arange(1, self.functions + 1) ** self.zipf
        return share / share.sum()

    @property
    def words(self) -> list[str]:
        """The vocabulary, special tokens first; a word's place is its token id."""
        values = [f"v{i}" for i in range(self.values)]
        return [PAD, EOS, UNK, "?", "#", *values, *(f"f{i}" for i in range(self.functions))]

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

    def problems(
        self, name: str, count: int, lengths: list[int], rare: bool, seed: int, exclude: set[str] = frozenset()
    ) -> list[Problem]:
        """`count` distinct problems with chains of the given lengths in equal shares, none of them in `exclude`.

        Raises:
            StudyError: When a chain would need more functions than the world has, or the world is too small for
                `count` distinct problems.
        """
        if max(lengths) > self.functions:
            raise StudyError(
                f"problem set {name!r} asks for chains of {max(lengths)} functions but the world has "
                f"{self.functions}: lower `lengths` or raise `functions`."
            )
        rng = np.random.default_rng(seed)
        found: dict[str, Problem] = {}
        for attempt in range(50 * count):
            if len(found) == count:
                return list(found.values())
            length = lengths[attempt % len(lengths)]
            start, functions = self.chain(rng, length, rare)
            prompt = self.prompt(start, functions)
            if prompt not in found and prompt not in exclude:
                _, value = self.solution(start, functions)
                found[prompt] = Problem(f"{name}/{prompt[:-2].replace(' ', '-')}", prompt, f"v{value}", str(length))
        raise StudyError(
            f"problem set {name!r}: only {len(found)} of {count} distinct problems found: lower `count` or enlarge the "
            "world."
        )


def corpus(world: World, count: int, mix: dict[str, float], slip: float, lengths: list[int], seed: int) -> list[str]:
    """Pretraining text of mixed quality, one document a string.

    Args:
        world: The facts.
        count: Number of documents.
        mix: Shares of `guess` (an answer out of the air), `sloppy` (worked, slips) and `right` (worked, correct).
        slip: Chance that a step of a sloppy solution lands on a random value.
        lengths: Chain lengths, in equal shares.
        seed: Of the corpus.

    Returns:
        Documents `prompt solution <eos>`.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.choice(list(mix), size=count, p=np.array(list(mix.values())) / sum(mix.values()))
    documents = []
    for kind, length in zip(kinds, rng.choice(lengths, size=count), strict=True):
        start, functions = world.chain(rng, int(length))
        if kind == "guess":
            text = f"# v{rng.integers(world.values)}"
        else:
            text, _ = world.solution(start, functions, rng, slip if kind == "sloppy" else 0.0)
        documents.append(f"{world.prompt(start, functions)} {text} {EOS}")
    return documents
