"""What every micro problem type is: a world of facts to be memorised, problems about them, and text to learn them from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem
from s2d_lib.study.problem_sets import MicroSet

# Share of reprompts whose given solution is the question's own. Not all, or a model would copy without reading the question.
# Most, as those that don't fit teach to distrust what is given, and in self-distillation they always fit.
FITTING = 0.75


class SpecialWords(NamedTuple):
    """The words of a vocabulary that are no content."""

    pad: str
    end: str  # of a document, and of a completion
    unknown: str


class Document(NamedTuple):
    """One pretraining text: a prompt and what is written after it, the end included."""

    prompt: str
    solution: str


class Slips(NamedTuple):
    """Steps of a solution that go wrong, each with the same chance."""

    rng: np.random.Generator | None = None
    chance: float = 0.0

    def land(self, right: int, count: int) -> int:
        """Where the next step lands: where it should or, after a slip, on any of `count` places."""
        return int(self.rng.integers(count)) if self.chance and self.rng.random() < self.chance else int(right)


def zipf_shares(count: int, exponent: float) -> np.ndarray:
    """Probabilities proportional to 1 / rank**exponent, shape (count,)."""
    share = 1.0 / np.arange(1, count + 1) ** exponent
    return share / share.sum()


def distinct(rng: np.random.Generator, share: np.ndarray, count: int, rare: bool) -> list[int]:
    """`count` distinct indices of `share`, drawn by it, or all equally often if `rare`."""
    return rng.choice(len(share), size=count, replace=False, p=None if rare else share).tolist()


@dataclass(frozen=True, kw_only=True)
class World(ABC):
    """The facts of one problem type. Prompts end with a word that asks; an answer stands behind the last `#`."""

    zipf: float  # frequency in the corpus and in ordinary problems is proportional to 1 / rank**zipf: the last facts are rare
    seed: int  # of the facts

    special: ClassVar[SpecialWords] = SpecialWords(pad="<pad>", end="<eos>", unknown="<unk>")
    marker: ClassVar[str] = "again"  # the word between a given solution and the question
    signs: ClassVar[tuple[str, ...]] = ("?", "#", marker)
    letters: ClassVar[dict[str, str]] = {}  # of words that are numbered, and the parameter that says how many there are
    parts: ClassVar[str]  # what a problem's length counts, in words
    hideable: ClassVar[str] = ""  # whose facts a corpus can hide, in words; empty: problems bring all their facts along
    grows_with: ClassVar[str] = ""  # the world's parameter that bounds the length, where it isn't named like the parts
    has_steps: ClassVar[bool] = True  # worked solutions have, by which they begin otherwise than guesses

    @abstractmethod
    def draw(self, rng: np.random.Generator, length: int, rare: bool = False) -> tuple[Any, ...]:
        """A random problem of that length, as `prompt` and `work` take it; `rare` uses all parts equally often."""

    @abstractmethod
    def prompt(self, *drawn: Any) -> str:
        """The question."""

    @abstractmethod
    def work(self, *drawn: Any, slips: Slips) -> tuple[list[str], str]:
        """The steps of a solution, in words, and its answer."""

    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """An answer out of the air, of who has not learned what it takes: any value."""
        return f"v{rng.integers(getattr(self, self.letters['v']))}"

    def numbered(self, *letters: str) -> list[str]:
        """The words that begin with some of the `letters`."""
        return [f"{letter}{i}" for letter in letters for i in range(getattr(self, self.letters[letter]))]

    @property
    def words(self) -> list[str]:
        """The vocabulary; a word's place is its token id."""
        return [*self.special, *self.signs, *self.numbered(*self.letters)]

    @property
    def by_use(self) -> list[str]:
        """The words of what is `hideable`, from the most used to the rarest."""
        return self.numbered(*(letter for letter, parameter in self.letters.items() if parameter == self.hideable))

    @cached_property
    def frequency(self) -> np.ndarray:
        """Probability of each of these in ordinary use."""
        return zipf_shares(len(self.by_use), self.zipf)

    @property
    def longest(self) -> int:
        """The length that no problem can exceed, as it uses no part twice."""
        return getattr(self, self.grows_with or self.parts)

    def needs(self, length: int) -> int:
        """How many of these a problem of that length needs."""
        return length

    def same(self, prompt: str) -> str:
        """What prompts that ask the same have in common; such problems count as one."""
        return prompt

    def opening(self, prompt: str) -> str:
        """The word that a solution with steps begins with."""
        return prompt.split()[0]

    def withholds(self, prompt: str) -> bool:
        """Whether the problem needs a fact that is withheld from ordinary sets; no world but chains withholds any."""
        return False

    def solution(self, *drawn: Any, slips: Slips | None = None) -> tuple[str, str]:
        """The worked solution of a problem as drawn, and its answer."""
        steps, answer = self.work(*drawn, slips=slips or Slips())
        return " ".join([*steps, "#", answer]), answer

    def guessed(self, rng: np.random.Generator, prompt: str) -> Document:
        """A prompt with a guess behind it."""
        return Document(prompt, f"# {self.guess(rng, prompt)} {self.special.end}")

    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """A random pretraining text: a `guess` (out of the air), `sloppy` (each step goes wrong with chance `slip`), `right`,
        or `reprompted`: right, behind a prompt that carries a right solution, `FITTING` of them that of the same problem, the
        others that of another problem of the same length, where the world has one.
        """
        if quality == "reprompted":
            asked = given = self.document(rng, length, "right", 0.0)
            for _ in range(50 if rng.random() >= FITTING else 0):
                given = self.document(rng, length, "right", 0.0)
                if self.same(given.prompt) != self.same(asked.prompt):
                    break
            return Document(self.reprompt(asked.prompt, given.solution), asked.solution)
        drawn = self.draw(rng, length)
        prompt = self.prompt(*drawn)
        if quality == "guess":
            return self.guessed(rng, prompt)
        text, _ = self.solution(*drawn, slips=Slips(rng, slip if quality == "sloppy" else 0.0))
        return Document(prompt, f"{text} {self.special.end}")

    def reprompt(self, prompt: str, solution: str) -> str:
        """The prompt that carries a given solution, without its end: `v3 f1 v9 # v9 ? v3 f1 ?`.

        A solution names what its problem is made of, so that a reader can tell whether it fits the question.
        """
        return f"{solution.removesuffix(self.special.end).rstrip()} {self.marker} {prompt}"

    def rarest(self, hidden: int, length: int) -> frozenset[str]:
        """The `hidden` last words of `by_use`, refused where no problem of that length is left without them."""
        if hidden and not self.hideable:
            what = "as its problems bring their facts along: leave out `hidden`."
            raise StudyError(f"{type(self).__name__} has nothing to hide, {what}")
        words = self.by_use
        most = max(0, len(words) - self.needs(length))
        if hidden > most:
            raise StudyError(
                f"`hidden: {hidden}` of {len(words)} {self.hideable} leaves no problem of {length} {self.parts} to learn: hide "
                f"at most {most}."
            )
        return frozenset(words[len(words) - hidden :])

    def check_lengths(self, what: str, lengths: list[int]) -> None:
        """Refuse lengths, asked for by `what`, that the world has no problems of."""
        if max(lengths) > self.longest:
            raise StudyError(
                f"{what} asks for problems of {max(lengths)} {self.parts} but the world has {self.longest}: lower `lengths` "
                f"or raise `{self.grows_with or self.parts}`."
            )

    def problems(self, name: str, spec: MicroSet, taken: set[str]) -> list[Problem]:
        """A set of distinct problems, its lengths in equal shares; none asks what a prompt in `taken` does, and theirs are added.

        Raises StudyError if it asks for longer ones than the world has, for more, or for openings where there are none.
        """
        self.check_lengths(f"problem set {name!r}", spec.lengths)
        if spec.opened and not self.has_steps:
            raise StudyError(f"{type(self).__name__} has no opening of worked solutions: leave out `opened`.")
        rng = np.random.default_rng(spec.seed)
        found: list[Problem] = []
        known = {self.same(prompt) for prompt in taken}
        for attempt in range(50 * spec.count):
            if len(found) == spec.count:
                break
            length = spec.lengths[attempt % len(spec.lengths)]
            drawn = self.draw(rng, length, spec.rare)
            prompt = self.prompt(*drawn)
            if self.same(prompt) not in known and self.withholds(prompt) == spec.withheld:
                known.add(self.same(prompt))
                taken.add(prompt)
                identity = f"{name}/{'-'.join(prompt.split()[:-1])}"
                asked = f"{prompt} {self.opening(prompt)}" if spec.opened else prompt
                found.append(Problem(identity, asked, self.solution(*drawn)[1], str(length)))
        if len(found) < spec.count:
            few = f"only {len(found)} of {spec.count} distinct problems found"
            raise StudyError(f"problem set {name!r}: {few}: lower `count` or enlarge the world.")
        return found


def corpus(
    world: World, count: int, mix: dict[str, float], slip: float, lengths: list[int], seed: int, hidden: int = 0
) -> list[Document]:
    """`count` documents (see `World.document`) with qualities in the shares of `mix` and lengths in equal shares.

    Of what is `hideable`, the `hidden` rarest are never seen worked: a document that names one of these becomes a guess at its
    question. A solution names what its problem is made of, so that none is missed.
    """
    world.check_lengths("the corpus", lengths)
    rare = world.rarest(hidden, min(lengths))
    rng = np.random.default_rng(seed)
    qualities = rng.choice(list(mix), size=count, p=np.array(list(mix.values())) / sum(mix.values()))
    documents = []
    for quality, length in zip(qualities, rng.choice(lengths, size=count), strict=True):
        found = world.document(rng, int(length), quality, slip)
        if not rare.isdisjoint(" ".join(found).split()):  # a given solution would be a worked one
            found = world.guessed(rng, found.prompt.split(f" {world.marker} ", 1)[-1])
        documents.append(found)
    return documents
