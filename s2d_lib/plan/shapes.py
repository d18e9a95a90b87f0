"""What the planner knows by name: the shape of a model, enough to count its parameters without loading it, and GPUs."""

import json
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.study.load import project_root
from s2d_lib.study.resolve import RELEASED
from s2d_lib.study.settings import Lora
from s2d_lib.study.strict import did_you_mean, read_yaml

HERE = Path(__file__).parent
BYTES = {"float32": 4, "bfloat16": 2}


class Shape:
    """A decoder of the Qwen3 or Llama architecture (no biases, RMSNorm, gated MLP, grouped-query attention) by config.json."""

    def __init__(self, config: dict):
        self.vocabulary, self.width, self.layers, self.mlp = (
            int(config[name]) for name in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size")
        )
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        head, width, mlp = config.get("head_dim") or self.width // heads, self.width, self.mlp
        self.queries, self.keys = queries, keys = heads * head, kv_heads * head  # their widths; values are as keys
        self.linear = {  # inputs and outputs of a layer's linear layers
            "q_proj": (width, queries), "k_proj": (width, keys), "v_proj": (width, keys), "o_proj": (queries, width),
            "gate_proj": (width, mlp), "up_proj": (width, mlp), "down_proj": (mlp, width),
        }  # fmt: skip
        norms = (
            2 * width + {"qwen3": 2 * head, "llama": 0}[config["model_type"]]
        )  # Qwen3's queries and keys have one each
        self.layer = sum(inputs * outputs for inputs, outputs in self.linear.values()) + norms  # parameters of one
        self.embedding = self.vocabulary * width  # and as many of the head, which may be the same ones
        self.multiplied = self.embedding + self.layers * self.layer + width  # with a token: not what is only looked up
        self.parameters = self.multiplied + (0 if config.get("tie_word_embeddings") else self.embedding)

    def adapters(self, lora: Lora) -> int:
        """Parameters of adapters: rank * (inputs + outputs) of every linear layer that has one."""
        named = self.linear if lora.target_modules == "all-linear" else [n.split(".")[-1] for n in lora.target_modules]
        return lora.rank * self.layers * sum(sum(sizes) for name, sizes in self.linear.items() if name in named)

    def cached(self, dtype: str) -> int:
        """Bytes that a KV cache holds of one token."""
        return 2 * self.layers * self.keys * BYTES[dtype]


def shape_of(model: str) -> Shape:
    """The shape of a role's model: from models.yaml, or the config.json of a folder.

    Raises:
        StudyError: A model of which nothing is known here, or of another architecture.
    """
    known = read_yaml(HERE / "models.yaml")
    folder = RELEASED / model.removeprefix("micro/") if model.startswith("micro/") else Path(model).expanduser()
    config = project_root() / folder / "config.json"
    try:
        return Shape(known[model] if model in known else json.loads(config.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError) as error:
        raise StudyError(
            f"the planner does not know the shape of model {model!r} ({type(error).__name__}: {error}): let the role's `model` "
            "be a folder with a config.json of the Qwen3 or Llama architecture, or add its numbers to s2d_lib/plan/models.yaml."
        ) from None


def gpu_named(name: str) -> dict[str, float]:
    """What gpus.yaml says of a GPU: `memory` (bytes), `flops` (peak dense bfloat16) and `bandwidth` (bytes), both per second.

    Raises:
        StudyError: An unknown name.
    """
    known = read_yaml(HERE / "gpus.yaml")
    if name not in known:
        raise StudyError(f"unknown GPU {name!r}; {did_you_mean(name, known)} (add others to s2d_lib/plan/gpus.yaml)")
    return known[name]
