"""What every micro problem type is: a world of facts to be memorised, problems about them, and text to learn them from.

A type is one subclass of `World` in a file of its own, its parameters in s2d_lib.study.problem_sets, and one line in
s2d_lib.problems.micro.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem


class SpecialWords(NamedTuple):
    """The words of a vocabulary that are no content."""

    pad: str
    end: str  # of a document, and of a completion
    unknown: str


class Document(NamedTuple):
    """One pretraining text: a prompt and what is written after it, the end included."""

    prompt: str
    solution: str


FITTING = 0.75
"""Share of reprompts whose given solution is the question's own.

Not all of them: a model that only ever saw fitting solutions would copy without reading the question, and its opinion
of a rollout would say nothing about the question. Most of them: where self-distillation gives a solution it always fits,
and every one that doesn't trains the model to distrust what it is given.
"""


def zipf_shares(count: int, exponent: float) -> np.ndarray:
    """Probabilities proportional to 1 / rank**exponent, shape (count,)."""
    share = 1.0 / np.arange(1, count + 1) ** exponent
    return share / share.sum()


def distinct(rng: np.random.Generator, share: np.ndarray, count: int, rare: bool) -> list[int]:
    """`count` distinct indices of `share`, drawn by it, or all equally often if `rare`."""
    return rng.choice(len(share), size=count, replace=False, p=None if rare else share).tolist()


class World(ABC):
    """The facts of one problem type. Prompts end with a word that asks; an answer stands behind the last `#`."""

    special: ClassVar[SpecialWords]
    parts: ClassVar[str]  # what a problem's length counts, in words
    grows_with: ClassVar[str] = ""  # the world's parameter that bounds the length, where it isn't named like the parts
    hideable: ClassVar[str] = ""  # whose facts a corpus can hide, in words; empty: problems bring all their facts along
    marker: ClassVar[str] = "again"  # the word between a given solution and the question

    @property
    @abstractmethod
    def words(self) -> list[str]:
        """The vocabulary, special words included; a word's place is its token id."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """The length that no problem can exceed."""

    @abstractmethod
    def problem(self, rng: np.random.Generator, length: int, rare: bool) -> tuple[str, str]:
        """A random prompt of that length and its answer; `rare` uses all parts equally often."""

    @abstractmethod
    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """A random pretraining text about a problem of that length.

        Args:
            rng: Where randomness comes from.
            length: Of the problem.
            quality: `guess` (an answer out of the air), `sloppy` (worked, slips) or `right` (worked, correct).
            slip: Chance that a step of a sloppy solution goes wrong.
        """

    @abstractmethod
    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """An answer out of the air to a prompt, the end included: the solution of who has not learned what it takes."""

    @property
    def by_use(self) -> list[str]:
        """The words of what is `hideable`, from the most used to the rarest."""
        return []

    def needs(self, length: int) -> int:
        """How many of these a problem of that length needs."""
        return length

    def rarest(self, hidden: int, length: int) -> frozenset[str]:
        """The words of the `hidden` rarest of what is `hideable`.

        Raises:
            StudyError: The world has nothing to hide, or no problem of that length is left without them.
        """
        if not self.hideable:
            raise StudyError(
                f"{type(self).__name__} has nothing to hide, as its problems bring their facts along: leave out `hidden`."
            )
        words, needed = self.by_use, self.needs(length)
        if hidden > len(words) - needed:
            raise StudyError(
                f"`hidden: {hidden}` of {len(words)} {self.hideable} leaves no problem of {length} {self.parts} to learn: hide "
                f"at most {max(0, len(words) - needed)}."
            )
        return frozenset(words[len(words) - hidden :])

    def withholds(self, prompt: str) -> bool:
        """Whether the problem needs a fact that is withheld from ordinary sets; no world but chains withholds any."""
        return False

    def opening(self, prompt: str) -> str:
        """The word that a worked solution begins with.

        Raises:
            StudyError: Worked solutions of this world begin as its guesses do.
        """
        raise StudyError(f"{type(self).__name__} has no opening of worked solutions: leave out `opened`.")

    @property
    def reprompt_template(self) -> str:
        """How a prompt carries a given solution, over words of the vocabulary: what base models that were pretrained
        on reprompts have seen, and so what a self-teacher is to be shown.

        A solution names what its problem is made of, so that a reader can tell whether it fits the question after it.
        """
        return f"{{solution}} {self.marker} {{prompt}}"

    def reprompt(self, prompt: str, solution: str) -> str:
        """The prompt that carries a given solution, for instance `v3 f1 v9 # v9 ? v3 f1 ?`; the solution's end is
        dropped, as it would stop a model."""
        given = " ".join(word for word in solution.split() if word != self.special.end)
        return self.reprompt_template.format(solution=given, prompt=prompt)

    def reprompted(self, rng: np.random.Generator, length: int) -> Document:
        """A right document whose prompt carries a right solution: `FITTING` of them that of the same problem, the
        others that of another problem of the same length, where the world has one."""
        asked = given = self.document(rng, length, "right", 0.0)
        if rng.random() >= FITTING:
            for _ in range(50):
                given = self.document(rng, length, "right", 0.0)
                if self.same(given.prompt) != self.same(asked.prompt):
                    break
        return Document(self.reprompt(asked.prompt, given.solution), asked.solution)

    def same(self, prompt: str) -> str:
        """What prompts that ask the same have in common; such problems count as one."""
        return prompt

    def check_lengths(self, what: str, lengths: list[int]) -> None:
        """Whether the world has problems of these lengths.

        Raises:
            StudyError: It has not; `what` asks for them.
        """
        if max(lengths) > self.longest:
            raise StudyError(
                f"{what} asks for problems of {max(lengths)} {self.parts} but the world has {self.longest}: lower `lengths` "
                f"or raise `{self.grows_with or self.parts}`."
            )

    def problems(
        self,
        name: str,
        count: int,
        lengths: list[int],
        rare: bool,
        seed: int,
        exclude: set[str] = frozenset(),
        withheld: bool = False,
    ) -> list[Problem]:
        """`count` distinct problems of the given lengths in equal shares, none of them asked by a prompt in `exclude`; all of
        them with a withheld fact, or none.

        Raises:
            StudyError: When a problem would need more parts than the world has, or the world is too small for `count`
                distinct problems.
        """
        self.check_lengths(f"problem set {name!r}", lengths)
        rng = np.random.default_rng(seed)
        taken = {self.same(prompt) for prompt in exclude}
        found: list[Problem] = []
        for attempt in range(50 * count):
            if len(found) == count:
                break
            length = lengths[attempt % len(lengths)]
            prompt, answer = self.problem(rng, length, rare)
            if self.same(prompt) not in taken and self.withholds(prompt) == withheld:
                taken.add(self.same(prompt))
                found.append(Problem(f"{name}/{'-'.join(prompt.split()[:-1])}", prompt, answer, str(length)))
        if len(found) < count:
            raise StudyError(
                f"problem set {name!r}: only {len(found)} of {count} distinct problems found: lower `count` or enlarge "
                "the world."
            )
        return found


def corpus(
    world: World, count: int, mix: dict[str, float], slip: float, lengths: list[int], seed: int, hidden: int = 0
) -> list[Document]:
    """Pretraining text of mixed quality.

    Args:
        world: The facts.
        count: Number of documents.
        mix: Shares of `guess`, `sloppy`, `right` and `reprompted` documents.
        slip: Chance that a step of a sloppy solution goes wrong.
        lengths: Of the problems, in equal shares.
        seed: Of the corpus.
        hidden: How many of what is `hideable` are never seen worked: a document that names one of these, the rarest, becomes a
            guess at its question. A solution names what its problem is made of, so that none is missed.

    Raises:
        StudyError: The world can't hide so many, or has no problems so long.
    """
    world.check_lengths("the corpus", lengths)
    rare = world.rarest(hidden, min(lengths)) if hidden else frozenset()
    rng = np.random.default_rng(seed)
    qualities = rng.choice(list(mix), size=count, p=np.array(list(mix.values())) / sum(mix.values()))

    def document(quality: str, length: int) -> Document:
        reprompted = quality == "reprompted"
        found = world.reprompted(rng, length) if reprompted else world.document(rng, length, quality, slip)
        if rare.isdisjoint(" ".join(found).split()):
            return found
        question = found.prompt.split(f" {world.marker} ", 1)[-1]  # a given solution would be a worked one
        return Document(question, world.guess(rng, question))

    lengths = rng.choice(lengths, size=count)
    return [document(str(quality), int(length)) for quality, length in zip(qualities, lengths, strict=True)]
