"""What a training stage says of LoRA: training low-rank adapters instead of all weights."""

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from s2d_lib.study.strict import Strict

NOT_TARGETS = ("lm_head", "embed_tokens")


class Lora(Strict):
    """Low-rank adapters on linear layers (Hu et al. 2021, arXiv 2106.09685): W + alpha / rank * B A, W frozen."""

    rank: PositiveInt
    alpha: float = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)  # on the adapters' inputs, in training
    target_modules: Literal["all-linear"] | list[str] = "all-linear"  # names of linear layers; the head is none of them
    # merged: a normal checkpoint. adapter: only the adapters, a small file over the checkpoint that training began with.
    save: Literal["merged", "adapter"] = "merged"

    @field_validator("target_modules")
    @classmethod
    def _layers_that_can_learn(cls, names: str | list[str]) -> str | list[str]:
        if not names:
            raise ValueError("no layer has an adapter, so nothing would be trained: name some, or all-linear")
        for name in names if isinstance(names, list) else ():
            if name in NOT_TARGETS:
                raise ValueError(
                    f"{name} can't have an adapter: losses read the head's weights themselves, and it may share them with "
                    "the embeddings"
                )
        return names
