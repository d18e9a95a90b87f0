"""How a micro family's base models are made (notebook 10)."""

import math
from typing import Annotated, Literal

from pydantic import Discriminator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Tag

from s2d_lib.study.strict import Strict, unless

Opening = Annotated[float, Field(ge=1e-9, le=0.99)]  # a probability; below the least float32 does not tell it from 0


class CorpusMix(Strict):
    """Shares of the documents of a mixed-quality corpus."""

    guess: NonNegativeFloat  # an answer out of the air
    sloppy: NonNegativeFloat  # worked, each step goes wrong with chance `slip`
    right: NonNegativeFloat  # worked, correct
    reprompted: NonNegativeFloat = 0.0  # right, after a prompt that carries a given solution

    def _refusals(self):
        yield not sum(self.model_dump().values()), "a corpus of no documents: give one of the shares"

    @property
    def worked(self) -> float:
        """Share of worked documents, right or wrong, among those whose prompt carries no solution; NaN if there are none."""
        plain = self.guess + self.sloppy + self.right
        return 1.0 - self.guess / plain if plain else math.nan


class Corpus(Strict):
    """What micro base models are pretrained on."""

    mix: CorpusMix
    slip: float = Field(ge=0, le=1)
    lengths: list[PositiveInt] = Field(min_length=1)


class MicroModel(Strict):
    """Architecture and pretraining of one micro base model (head size 32)."""

    architecture: Literal["qwen3", "llama"] = "qwen3"  # its name in transformers
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    mlp: PositiveInt
    init: PositiveFloat  # standard deviation of the initial weights
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: PositiveFloat  # the peak of a one-cycle schedule
    seed: NonNegativeInt
    mix: CorpusMix | None = unless(None)  # null: the corpus's
    # Dial of knowledge: how many of the rarest functions, symbols or whatever the world can hide (World.hideable) the model never
    # sees worked; what is asked of them is guessed.
    hidden: NonNegativeInt = unless(0)
    # Dial of opening: how often the finished model begins a worked solution, where it would guess else (see
    # s2d_lib.models.micro_family.settle); null: as often as the corpus does.
    opening: Opening | None = unless(None)
    # Characters are its tokens: a model of the same world that shares no vocabulary with the others.
    split: bool = unless(False)


class Resettled(Strict):
    """A model of the same pretraining that knows the same as another and has another opening."""

    of: str  # the other, made before it
    opening: Opening


def _form(model: object) -> str:
    """Which of the two it is meant to be, so that an error is said of that form alone."""
    resettled = isinstance(model, Resettled) or (isinstance(model, dict) and "of" in model)
    return "resettled" if resettled else "pretrained"


Model = Annotated[
    Annotated[MicroModel, Tag("pretrained")] | Annotated[Resettled, Tag("resettled")], Discriminator(_form)
]


class Pretraining(Strict):
    """How notebook 10 makes a micro family's base models."""

    corpus: Corpus
    models: dict[str, Model]

    def pretrained(self, name: str) -> MicroModel:
        """What is pretrained of a model: itself, or that which it is resettled from."""
        model = self.models[name]
        return self.models[model.of] if isinstance(model, Resettled) else model

    def mix(self, name: str) -> CorpusMix:
        """What a model reads."""
        return self.pretrained(name).mix or self.corpus.mix

    def _refusals(self):
        earlier: set[str] = set()
        for name, spec in self.models.items():
            if isinstance(spec, MicroModel):
                earlier.add(name)
            else:
                later = f"model {name!r} is made of {spec.of!r}, which must be a model above it"
                yield spec.of not in earlier, later
            between = "is learned from guesses and worked documents: give its mix both"
            without = spec.opening and not 0 < self.mix(name).worked < 1
            yield without, f"model {name!r} has an `opening`, which {between}"
