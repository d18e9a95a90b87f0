"""FLOPs: 6ND by hand, and what must hold for any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.plan.architecture import Architecture, count_parameters, named
from s2d_lib.plan.flops import forward_flops, sampling_flops, training_flops

QWEN = named()["Qwen/Qwen3-1.7B"]

shapes = st.fixed_dictionaries(
    {
        "family": st.sampled_from(["qwen3", "llama"]),
        "vocabulary": st.integers(1, 1000),
        "width": st.integers(1, 256),
        "layers": st.integers(1, 8),
        "heads": st.integers(1, 8),
        "kv_heads": st.integers(1, 8),
        "head_size": st.integers(1, 64),
        "mlp": st.integers(1, 512),
        "tied": st.booleans(),
    }
).map(lambda shape: Architecture(**shape, parameters=count_parameters(shape)))


def test_training_takes_6nd():
    assert training_flops(QWEN, tokens=1_000_000) == 6 * 1_720_574_976 * 1_000_000


def test_a_forward_pass_takes_2nd_and_checkpointing_one_more():
    assert forward_flops(QWEN, 10) == 2 * 1_720_574_976 * 10
    assert training_flops(QWEN, 10, checkpointing=True) == 8 * 1_720_574_976 * 10


def test_attention_by_hand():
    # 28 layers, queries 16 * 128 wide: 2 operations a product, for scores and for the weighted values.
    assert forward_flops(QWEN, 1, context=1000) - forward_flops(QWEN, 1) == 28 * 2 * 2 * (16 * 128) * 1000


def test_sampling_reads_prompt_and_completion_once_each_token_half_of_the_others_on_average():
    assert sampling_flops(QWEN, 3, prompt=100, completion=400) == forward_flops(QWEN, 1500, 250)


@given(model=shapes, tokens=st.integers(0, 10**6), more=st.integers(0, 10**6), context=st.floats(0, 1e5))
def test_flops_add_up_over_tokens_and_grow_with_context(model, tokens, more, context):
    whole = training_flops(model, tokens + more, context)
    assert whole == pytest.approx(training_flops(model, tokens, context) + training_flops(model, more, context))
    assert whole == pytest.approx(3 * forward_flops(model, tokens + more, context))
    assert whole >= training_flops(model, tokens + more)
