"""The shapes of published models: their parameters are the published ones, and those that transformers builds."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from s2d_lib.errors import StudyError
from s2d_lib.plan.architecture import Architecture, architecture_of, count_parameters, from_config, named
from s2d_lib.study.resolve import RELEASED, released_record

CLASSES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def transformers_config(model: Architecture) -> Qwen3Config | LlamaConfig:
    """The same shape as transformers has it."""
    return CLASSES[model.family][0](
        vocab_size=model.vocabulary,
        hidden_size=model.width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_size,
        intermediate_size=model.mlp,
        tie_word_embeddings=model.tied,
    )


def test_qwen3_1_7b_has_the_published_number_of_parameters_counted_by_hand():
    attention = 2 * 2048 * 16 * 128 + 2 * 2048 * 8 * 128
    layer = attention + 3 * 2048 * 6144 + 2 * 2048 + 2 * 128
    assert 28 * layer + 151936 * 2048 + 2048 == 1_720_574_976
    assert architecture_of("Qwen/Qwen3-1.7B").parameters == 1_720_574_976


@pytest.mark.parametrize("name", named())
def test_the_published_number_of_parameters_is_that_of_the_shape(name):
    model = named()[name]
    assert count_parameters(model.model_dump()) == model.parameters


@pytest.mark.parametrize("name", ["Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct"])
def test_transformers_builds_a_model_of_that_many_parameters(name):
    model = named()[name]
    with torch.device("meta"):
        built = CLASSES[model.family][1](transformers_config(model))
    assert built.num_parameters() == model.parameters


@pytest.mark.parametrize("name", [folder.name for folder in sorted(RELEASED.iterdir())])
def test_a_released_models_shape_is_read_from_its_config(name):
    assert architecture_of(f"micro/{name}").parameters == released_record(RELEASED / name)["parameters"]


def test_an_embedding_that_is_only_looked_up_multiplies_nothing():
    tied, untied = named()["Qwen/Qwen3-1.7B"], named()["Qwen/Qwen3-8B"]
    assert tied.multiplied == tied.parameters
    assert untied.multiplied == untied.parameters - 151936 * 4096


@pytest.mark.parametrize(
    ("config", "sentence"),
    [({"model_type": "gemma3"}, "describes 'gemma3'"), ({"model_type": "llama", "vocab_size": 5}, "describes 'llama'")],
)
def test_another_architecture_gets_one_sentence(config, sentence):
    with pytest.raises(StudyError, match=sentence):
        from_config(config, "some/model")


def test_a_model_of_unknown_shape_gets_one_sentence_with_the_remedy():
    with pytest.raises(StudyError, match=r"shape of model 'org/unknown': add the numbers of its config\.json"):
        architecture_of("org/unknown")
