"""From a request and tool specifications to the right call: small, exactly checkable problems.

The prompt `f3 a1 a4 f8 a2 a6 d5 a6 x1 a4 x7 a2 x2 a1 x9 ?` specifies two tools, each with its arguments in order, and
brings a request: a verb and more values than are needed, each with its argument's name. The answer is the call of the
tool that serves the verb, its arguments in the order of its specification, with their values from the request:
`# f3 a1 x9 a4 x7`. Which tool serves a verb is memorised (*skill*; rare verbs are seldom seen), copying every argument
in its turn is *style*. All of the call must be right.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from s2d_lib.problems.world import Document, SpecialWords, World, distinct, zipf_shares


class Request(NamedTuple):
    """Two specified tools and what is asked of them."""

    verb: int
    tools: list[int]  # as specified, shape (2,)
    arguments: list[list[int]]  # of each tool, in the order of its specification, shape (2, length)
    values: dict[int, int]  # argument -> value, in the order of the request


@dataclass(frozen=True)
class ToolCallWorld(World):
    """The facts: which of `tools` tools serves each of `verbs` verbs, drawn from `seed`; every tool serves one at least.

    Verbs, arguments and values are used with frequency proportional to 1 / rank**zipf in the corpus and in ordinary
    problems, so that the tools of the last verbs are rare facts. Where a corpus hides these verbs, a model can still call one of
    the two specified tools with the right values, which is right on half of the requests.
    """

    verbs: int  # at least as many as tools
    tools: int
    arguments: int
    values: int
    zipf: float
    seed: int

    special: ClassVar[SpecialWords] = SpecialWords(pad="<pad>", end="<eos>", unknown="<unk>")
    parts: ClassVar[str] = "arguments"
    grows_with: ClassVar[str] = "arguments` and `values"
    hideable: ClassVar[str] = "verbs"

    @cached_property
    def serves(self) -> np.ndarray:
        """The tool that serves each verb, shape (verbs,)."""
        return np.random.default_rng(self.seed).permutation(self.verbs) % self.tools

    @property
    def words(self) -> list[str]:
        """The vocabulary, special words first; a word's place is its token id."""
        kinds = {"f": self.tools, "d": self.verbs, "a": self.arguments, "x": self.values}
        named = [f"{kind}{i}" for kind, count in kinds.items() for i in range(count)]
        return [*self.special, "?", "#", self.marker, *named]

    @property
    def by_use(self) -> list[str]:
        """The verbs, from the most used to the rarest."""
        return [f"d{i}" for i in range(self.verbs)]

    def needs(self, length: int) -> int:
        """A request has one verb, however many arguments."""
        return 1

    @property
    def longest(self) -> int:
        """Both tools' arguments are different ones, and so are the values."""
        return min(self.arguments, self.values) // 2

    def draw(self, rng: np.random.Generator, length: int, rare: bool = False) -> Request:
        """A request for one of two tools with `length` arguments each; `rare` draws all words equally often."""
        (verb,) = distinct(rng, zipf_shares(self.verbs, self.zipf), 1, rare)
        serving = int(self.serves[verb])
        other = (serving + 1 + int(rng.integers(self.tools - 1))) % self.tools
        arguments = distinct(rng, zipf_shares(self.arguments, self.zipf), 2 * length, rare)
        values = distinct(rng, zipf_shares(self.values, self.zipf), 2 * length, rare)
        tools = [serving, other] if rng.random() < 0.5 else [other, serving]
        named = dict(zip(rng.permutation(arguments).tolist(), values, strict=True))
        return Request(verb, tools, [arguments[:length], arguments[length:]], named)

    def prompt(self, request: Request) -> str:
        """The question: both specifications, then the request."""
        specified = [
            word
            for tool, names in zip(request.tools, request.arguments, strict=True)
            for word in (f"f{tool}", *(f"a{name}" for name in names))
        ]
        asked = [word for name, value in request.values.items() for word in (f"a{name}", f"x{value}")]
        return " ".join([*specified, f"d{request.verb}", *asked, "?"])

    def call(self, request: Request, rng: np.random.Generator | None = None, slip: float = 0.0) -> str:
        """The right call; with `slip` the tool and each value are, with that chance, any that the prompt names."""

        def slips() -> bool:
            return bool(slip) and rng.random() < slip

        chosen = int(rng.integers(2)) if slips() else request.tools.index(int(self.serves[request.verb]))
        words = [f"f{request.tools[chosen]}"]
        for name in request.arguments[chosen]:
            value = int(rng.choice(list(request.values.values()))) if slips() else request.values[name]
            words += [f"a{name}", f"x{value}"]
        return " ".join(words)

    @staticmethod
    def parsed(prompt: str) -> Request:
        """The request of a prompt."""
        words = [(word[0], int(word[1:])) for word in prompt.split()[:-1]]
        first, second, verb = (place for place, (kind, _) in enumerate(words) if kind in "fd")
        numbers = [number for _, number in words]
        arguments = [numbers[first + 1 : second], numbers[second + 1 : verb]]
        values = dict(zip(numbers[verb + 1 :: 2], numbers[verb + 2 :: 2], strict=True))
        return Request(numbers[verb], [numbers[first], numbers[second]], arguments, values)

    def same(self, prompt: str) -> str:
        """The order of the tools and of the request's values doesn't matter."""
        verb, tools, arguments, values = self.parsed(prompt)
        order = np.argsort(tools)
        sides = [[side[i] for i in order] for side in (tools, arguments)]
        return self.prompt(Request(verb, *sides, dict(sorted(values.items()))))

    def problem(self, rng: np.random.Generator, length: int, rare: bool) -> tuple[str, str]:
        """A request and the right call."""
        request = self.draw(rng, length, rare)
        return self.prompt(request), self.call(request)

    def guess(self, rng: np.random.Generator, prompt: str) -> str:
        """A call of either tool with any of the request's values."""
        return f"# {self.call(self.parsed(prompt), rng, slip=1.0)} {self.special.end}"

    def document(self, rng: np.random.Generator, length: int, quality: str, slip: float) -> Document:
        """A request and a call; a guess calls either tool with any of the values."""
        request = self.draw(rng, length)
        prompt = self.prompt(request)
        if quality == "guess":
            return Document(prompt, self.guess(rng, prompt))
        call = self.call(request, rng, slip if quality == "sloppy" else 0.0)
        return Document(prompt, f"# {call} {self.special.end}")
