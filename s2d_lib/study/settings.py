"""A profile's models, sampling, evaluation and hardware."""

from typing import Literal

from pydantic import Field, PositiveInt

from s2d_lib.study.strict import Strict

Logging = Literal["none", "tensorboard", "trackio"]


class RoleModel(Strict):
    """Which model plays a role."""

    model: str  # Hub id, local directory, or `micro/<name>` for the models released in the package
    gguf_file: str | None = None  # name of the GGUF file when `model` is a directory that holds one
    chat: bool = False  # wrap prompts into the tokenizer's chat template
    eos_token: str | None = None  # what ends a turn, where the model's own setting is not it
    pad_token: str | None = None


class Sampling(Strict):
    """How policies are sampled, in training and evaluation alike unless evaluation says otherwise."""

    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: PositiveInt
    batch: PositiveInt = 64  # sequences sampled at a time outside the trainers


class Evaluation(Strict):
    """avg@k: `samples` independent samples for every problem."""

    samples: PositiveInt = 16
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)


class Validation(Strict):
    """Accuracy on problems of its own while a stage trains; no evaluation set and no label pool has a say in it."""

    every: PositiveInt  # optimiser steps
    samples: PositiveInt = 4  # of every validation problem


class Hardware(Strict):
    """Where a run computes."""

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; trained weights stay float32
    threads: PositiveInt = 1  # torch threads of one run; run jobs side by side rather than raising it
    gradient_checkpointing: bool = False
