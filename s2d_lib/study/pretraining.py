"""How a micro family's base models are made (notebook 10)."""

import math
from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from s2d_lib.study.strict import Strict


class CorpusMix(Strict):
    """Shares of the documents of a mixed-quality corpus."""

    guess: float = Field(ge=0)  # an answer out of the air
    sloppy: float = Field(ge=0)  # worked, each step goes wrong with chance `slip`
    right: float = Field(ge=0)  # worked, correct
    reprompted: float = Field(0.0, ge=0)  # right, after a prompt that carries a given solution

    @model_validator(mode="after")
    def _something_is_written(self):
        if not sum(self.model_dump().values()):
            raise ValueError("a corpus of no documents: give one of the shares")
        return self

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
    init: float = Field(gt=0)  # standard deviation of the initial weights
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: float = Field(gt=0)  # the peak of a one-cycle schedule
    seed: int = Field(ge=0)
    mix: CorpusMix | None = Field(None, exclude_if=lambda value: value is None)  # null: the corpus's
    # Dial of knowledge: how many of the rarest functions, symbols or whatever the world can hide (World.hideable) the model never
    # sees worked; what is asked of them is guessed.
    hidden: int = Field(0, ge=0, exclude_if=lambda value: not value)
    # Dial of opening: with which probability the finished model begins a worked solution, where it would guess else (see
    # s2d_lib.models.micro_family.settle); null: as often as the corpus does. Below 1e-9 float32 does not tell it from 0.
    opening: float | None = Field(None, ge=1e-9, le=0.99, exclude_if=lambda value: value is None)
    # Characters are its tokens: a model of the same world that shares no vocabulary with the others.
    split: bool = Field(False, exclude_if=lambda value: not value)


class Resettled(Strict):
    """A model of the same pretraining that knows the same as another and has another opening."""

    of: str  # the other, made before it
    opening: float = Field(ge=1e-9, le=0.99)


def _form(model: object) -> str:
    """Which of the two it is meant to be, so that an error is said of that form alone."""
    resettled = isinstance(model, Resettled) or (isinstance(model, dict) and "of" in model)
    return "resettled" if resettled else "pretrained"


class Pretraining(Strict):
    """How notebook 10 makes a micro family's base models."""

    corpus: Corpus
    models: dict[
        str,
        Annotated[
            Annotated[MicroModel, Tag("pretrained")] | Annotated[Resettled, Tag("resettled")],
            Discriminator(_form),
        ],
    ]

    def pretrained(self, name: str) -> MicroModel:
        """What is pretrained of a model: itself, or that which it is resettled from."""
        model = self.models[name]
        return self.models[model.of] if isinstance(model, Resettled) else model

    def mix(self, name: str) -> CorpusMix:
        """What a model reads."""
        return self.pretrained(name).mix or self.corpus.mix

    @model_validator(mode="after")
    def _made_before(self):
        earlier: set[str] = set()
        for name, spec in self.models.items():
            if isinstance(spec, Resettled) and spec.of not in earlier:
                raise ValueError(f"model {name!r} is made of {spec.of!r}, which must be a model above it")
            if isinstance(spec, MicroModel):
                earlier.add(name)
        return self

    @model_validator(mode="after")
    def _openings_are_between_both(self):
        for name, spec in self.models.items():
            if spec.opening and not 0 < self.mix(name).worked < 1:
                raise ValueError(
                    f"model {name!r} has an `opening`, which is learned from guesses and worked documents: give its mix both"
                )
        return self
