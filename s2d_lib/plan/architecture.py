"""A model's shape: enough to count its parameters, its FLOPs and its memory without loading it."""

import json
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, ValidationError

from s2d_lib.errors import StudyError
from s2d_lib.study.load import project_root, read_yaml, validated
from s2d_lib.study.resolve import RELEASED
from s2d_lib.study.strict import Strict

NAMED = Path(__file__).with_name("architectures.yaml")


class Architecture(Strict):
    """A decoder of the Qwen3 or Llama architecture: no biases, RMSNorm, gated MLP, grouped-query attention."""

    family: Literal["qwen3", "llama"]  # `model_type` in config.json
    vocabulary: PositiveInt  # rows of the embedding and of the head
    width: PositiveInt  # of the residual stream
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_size: PositiveInt
    mlp: PositiveInt
    tied: bool  # the head is the embedding
    parameters: PositiveInt

    @property
    def query_width(self) -> int:
        """Width of a layer's queries, and of what its attention gives."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Width of a layer's keys, and of its values."""
        return self.kv_heads * self.head_size

    @property
    def multiplied(self) -> int:
        """Parameters that a token is multiplied with: all but an embedding that is only looked up."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.width)

    @property
    def embeddings(self) -> int:
        """Parameters of the embedding and of a head of its own."""
        return (1 if self.tied else 2) * self.vocabulary * self.width

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return (self.parameters - self.embeddings - self.width) // self.layers


def count_parameters(shape: dict) -> int:
    """Parameters of an architecture from its other fields, shared ones once."""
    width, queries, keys = shape["width"], shape["heads"] * shape["head_size"], shape["kv_heads"] * shape["head_size"]
    attention = 2 * width * queries + 2 * width * keys  # q and o, k and v
    norms = 2 * width + (2 * shape["head_size"] if shape["family"] == "qwen3" else 0)  # Qwen3 has one for q and k each
    layer = attention + 3 * width * shape["mlp"] + norms
    embeddings = (1 if shape["tied"] else 2) * shape["vocabulary"] * width
    return embeddings + shape["layers"] * layer + width


@cache
def named() -> dict[str, Architecture]:
    """The architectures that come with the package, by the model's name."""
    return {name: validated(Architecture, facts, f"{NAMED.name}, {name}") for name, facts in read_yaml(NAMED).items()}


def architecture_of(model: str) -> Architecture:
    """The architecture of a role's model: from its config.json where the model is a folder, else one of `named`.

    Raises:
        StudyError: A model of which nothing is known here, or of another architecture.
    """
    if model in named():
        return named()[model]
    folder = RELEASED / model.removeprefix("micro/") if model.startswith("micro/") else project_root() / model
    config = Path(folder).expanduser() / "config.json"
    if not config.is_file():
        raise StudyError(
            f"the planner does not know the shape of model {model!r}: add the numbers of its config.json to "
            f"s2d_lib/plan/{NAMED.name}, or let the role's `model` be a local folder that holds it."
        )
    return from_config(json.loads(config.read_text(encoding="utf-8")), model)


def from_config(config: dict, model: str) -> Architecture:
    """The architecture that a config.json describes.

    Raises:
        StudyError: When it is neither Qwen3 nor Llama, or lacks a number.
    """
    heads = config.get("num_attention_heads") or 1
    shape = {
        "family": config.get("model_type"),
        "vocabulary": config.get("vocab_size"),
        "width": config.get("hidden_size"),
        "layers": config.get("num_hidden_layers"),
        "heads": config.get("num_attention_heads"),
        "kv_heads": config.get("num_key_value_heads"),
        "head_size": config.get("head_dim") or (config.get("hidden_size") or 0) // heads,
        "mlp": config.get("intermediate_size"),
        "tied": config.get("tie_word_embeddings", False),
    }
    try:
        return Architecture(**shape, parameters=count_parameters(shape))
    except (ValidationError, TypeError):
        raise StudyError(
            f"the planner knows the Qwen3 and the Llama architecture, but the config.json of {model!r} describes "
            f"{shape['family']!r} with {shape}."
        ) from None
