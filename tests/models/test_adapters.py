"""Adapters: what they train, what merging them gives, and how they are kept."""

import copy

import pytest
import torch
from peft import get_peft_model

from s2d_lib.models.adapters import is_adapter, lora_config, merge_adapters, merged, plain, save_adapter
from s2d_lib.models.policy import load_policy, save_policy
from s2d_lib.study.settings import Hardware, Lora, RoleModel

LORA = Lora(rank=4, alpha=8)
IDS = torch.tensor([[5, 9, 13, 20, 7, 31]])


@pytest.fixture
def policy():
    return load_policy(RoleModel(model="micro/chains-student"), Hardware())


def adapted(model, seed: int):
    """The model with an adapter that does something."""
    wrapped = get_peft_model(model, lora_config(model, LORA))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in wrapped.parameters():
            if weights.requires_grad:
                weights.copy_(0.1 * torch.randn(weights.shape, generator=generator))
    return wrapped


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def test_a_merged_model_is_the_adapters_model_and_w_plus_ba_by_hand(policy):
    base = policy.model.model.layers[0].self_attn.q_proj.weight.double()
    model = adapted(policy.model.double(), 1)
    expected, layer = logits(model), plain(model).model.layers[0].self_attn.q_proj
    by_hand = base + LORA.alpha / LORA.rank * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    result = merged(model)
    torch.testing.assert_close(logits(result), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.model.layers[0].self_attn.q_proj.weight.double(), by_hand, atol=1e-6, rtol=0)
    assert not any("lora" in name for name in result.state_dict())
    assert plain(result) is result


def test_stored_adapters_name_no_place_and_are_merged_one_after_the_other(policy, tmp_path):
    base, first, second = logits(policy.model), tmp_path / "first", tmp_path / "second"
    for seed, folder in enumerate((first, second)):
        save_adapter(adapted(copy.deepcopy(policy.model), seed), policy.tokenizer, folder)
        assert is_adapter(folder)
        assert "chains-student" not in (folder / "adapter_config.json").read_text()
    spec = RoleModel(model="micro/chains-student")
    one, both = (load_policy(spec, Hardware(), adapters=a).model for a in ([first], [first, second]))
    weight = lambda model: model.model.layers[1].mlp.up_proj.weight  # noqa: E731
    added = weight(merge_adapters(copy.deepcopy(policy.model), [second])) - weight(policy.model)
    torch.testing.assert_close(weight(both) - weight(one), added, atol=1e-6, rtol=0)
    assert not torch.allclose(logits(one), base, atol=1e-3)
    half, place = Hardware(dtype="bfloat16"), first.with_name("merged")
    save_policy(load_policy(spec, Hardware(), adapters=[first]), place)
    rounded, checkpoint = (load_policy(spec, half, *where).model for where in ((None, [first]), (place,)))
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(logits(rounded), logits(checkpoint))
