"""Memory: bytes by hand, and what autograd really keeps of transformers' layers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, Qwen3ForCausalLM

from s2d_lib.plan.architecture import Architecture, count_parameters, named
from s2d_lib.plan.memory import RESERVE, Memory, activations, kv_bytes, layer_bytes, memory_of
from s2d_lib.plan.phases import phases_of
from s2d_lib.plan.resources import resources
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.study import load_profile, resolve
from tests.plan.test_architecture import CLASSES, transformers_config

QWEN, TEACHER, LARGE = (named()[f"Qwen/Qwen3-{size}"] for size in ("1.7B", "8B", "14B"))
ROWS, LENGTH = 2, 64


def shaped(family: str, layers: int) -> Architecture:
    """A small model; fewer key heads than query heads, as large models have them."""
    shape = {"family": family, "vocabulary": 64, "width": 96, "layers": layers, "heads": 8, "kv_heads": 2}
    shape |= {"head_size": 16, "mlp": 160, "tied": True}
    return Architecture(**shape, parameters=count_parameters(shape))


def built(model: Architecture) -> Qwen3ForCausalLM | LlamaForCausalLM:
    return CLASSES[model.family][1](transformers_config(model))


def kept_by_autograd(model: Architecture, dtype: str, checkpointing: bool) -> int:
    """Bytes of all storages that autograd keeps of a padded batch, the parameters themselves excepted."""
    network = built(model).train()
    if checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    mine = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            kept[storage.data_ptr()] = storage  # held, so that no later one has its address
        return tensor

    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        network.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_layer_keeps_exactly_what_the_formula_says(family, dtype):
    models = [shaped(family, layers) for layers in (2, 3)]
    kept = [kept_by_autograd(model, dtype, checkpointing=False) for model in models]
    one = models[0]
    matrices = 2 * one.width * (one.query_width + one.kv_width) + 3 * one.width * one.mlp
    copies = 2 * matrices if dtype == "bfloat16" else 0  # autocast's bfloat16 weights, which the plan counts with them
    assert kept[1] - kept[0] - copies == ROWS * LENGTH * layer_bytes(one, dtype, LENGTH)


def test_with_checkpointing_a_layer_keeps_its_input():
    models = [shaped("qwen3", layers) for layers in (2, 3)]
    kept = [kept_by_autograd(model, "bfloat16", checkpointing=True) for model in models]
    assert kept[1] - kept[0] == ROWS * LENGTH * 4 * models[0].width
    planned = [activations(model, "bfloat16", ROWS, LENGTH, checkpointing=True) for model in models]
    assert planned[1] - planned[0] == kept[1] - kept[0]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_what_trained_weights_cache_under_autocast_is_float32(family):
    model = shaped(family, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cache = built(model)(torch.zeros(1, 5, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 5 * kv_bytes(model, "float32")


BY_TRANSFORMERS = {"engine": "transformers", "vllm": None}


def test_opd_of_a_1_7b_student_by_an_8b_teacher_by_hand():
    over = {"stages": {"opd": {"batch": 16, "micro_batch": 2}}, "sampling": BY_TRANSFORMERS}
    run = resolve("qwen3", "student.bridge.raw_teacher", 0, over)
    lengths = assumed_lengths(load_profile("qwen3"))
    found = memory_of(run, QWEN, TEACHER, lengths)
    n, limit = 1_720_574_976, run.sampling.max_new_tokens
    assert (found.weights, found.copies) == (4 * n, 2 * n)
    assert (found.gradients, found.optimiser) == (4 * n, 8 * n)
    assert found.teacher == 2 * 8_190_735_360
    token = (lengths.prompt + limit) * 2 * (8 * 128)  # keys and values of a sequence, a layer
    assert found.kv_cache == 16 * token * 28 * 4
    short = (lengths.prompt + 4096) * 2 * (8 * 128)  # the student's in float32, the teacher's in bfloat16
    assert found.validation == 16 * max(short * 28 * 4, short * 36 * 2)
    head, layer, of_teacher = (
        151936 * 2048,
        (n - 151936 * 2048 - 2048) / 28,
        (8_190_735_360 - 2 * 151936 * 4096 - 4096) / 36,
    )
    gathered = 2 * (head + 2 * layer) + (2 + 4) * head + 2 * (2 * 151936 * 4096 + 2 * of_teacher)
    assert found.gathered == gathered
    assert found.on(8) == (16 * n + found.teacher) / 8 + gathered + max(found.activations, found.validation)
    assert found.logits_avoided == 2 * limit * 151936 * 4 * 2


def test_what_several_have_trained_is_evaluated_by_one_process_in_float32_over_its_gpus():
    over = {"sampling": BY_TRANSFORMERS}
    run, lengths = resolve("qwen3", "large_teacher.rl", 0, over), assumed_lengths(load_profile("qwen3"))
    training, evaluation = phases_of(run, LARGE, None, lengths)
    n, cache = 14_768_307_200, 64 * (lengths.prompt + 16384) * 40 * 2 * (8 * 128) * 4
    assert (evaluation.memory.weights, evaluation.memory.kv_cache) == (4 * n, cache)
    uneven = 1.25 * (4 * (n - 2 * 151936 * 5120 - 5120) / 40 + cache / 40)
    assert (evaluation.gpus, evaluation.each) == (4, (4 * n + cache) / 4 + uneven)
    assert (training.gpus, training.shared) == (8, True)
    alone = resolve("qwen3-single-gpu", "student.grpo", 0)
    assert [phase.name for phase in phases_of(alone, QWEN, None, lengths)] == ["training"]


def test_state_that_an_accelerate_config_keeps_on_the_host_takes_the_hosts_memory():
    lengths, names = assumed_lengths(load_profile("qwen3")), ("fsdp2.yaml", "fsdp2-offload.yaml")
    over = [
        {"rules": [{"match": {"role": "large_teacher"}, "set": {"hardware": {"accelerate": name}}}]} for name in names
    ]
    runs = [resolve("qwen3", "large_teacher.rl", 0, one) for one in over]
    shards, host = (memory_of(run, LARGE, None, lengths) for run in runs)
    assert shards.on(8) - host.on(8) == shards.state / 8 == 20 * LARGE.parameters / 8  # the reference's among them
    needs = [resources("qwen3", {"run": run})["run"].memory for run in runs]
    assert needs[1] - needs[0] == pytest.approx(20 * LARGE.parameters / 1e9, abs=1)


def test_a_base_model_is_loaded_in_the_profiles_dtype_and_trains_nothing():
    found = memory_of(resolve("qwen3", "student", 0), QWEN, None, assumed_lengths(load_profile("qwen3")))
    assert found.weights == 2 * QWEN.parameters
    assert found.gradients == found.optimiser == found.activations == 0


def test_a_penalty_towards_the_reference_costs_a_second_model():
    lengths = assumed_lengths(load_profile("qwen3"))
    plain, penalised = (
        memory_of(
            resolve("qwen3", "student.grpo", 0, {"stages": {"sparse_rl": {"kl_coefficient": k}}}), QWEN, None, lengths
        )
        for k in (0.0, 0.01)
    )
    assert penalised.weights - plain.weights == 4 * QWEN.parameters


parts = st.floats(0, 1e12)


@given(state=parts, activations=parts, cache=parts, gpus=st.integers(1, 64))
def test_more_gpus_never_hold_more_and_together_hold_all(state, activations, cache, gpus):
    memory = Memory(weights=state, activations=activations, kv_cache=cache)
    assert memory.on(gpus + 1) <= memory.on(gpus)
    assert memory.on(1) == state + max(activations, cache)
    assert gpus * memory.on(gpus) >= state * (1 - 1e-9)


@given(state=parts, activations=parts, cache=parts, room=st.floats(1e9, 1e12))
def test_the_fewest_gpus_are_enough_and_one_less_is_not(state, activations, cache, room):
    memory = Memory(weights=state, activations=activations, kv_cache=cache)
    found = memory.gpus(room)
    if found is None:
        assert memory.on(1024) > (1 - RESERVE) * room
    else:
        assert memory.on(found) <= (1 - RESERVE) * room
        assert found == 1 or memory.on(found - 1) > (1 - RESERVE) * room


def test_activations_that_fit_nowhere_need_no_number_of_gpus():
    assert Memory(activations=1e12).gpus(80e9) is None


OWN = BY_TRANSFORMERS | {"batch": 8}


def by_vllm(**options) -> dict:
    """Sampling by vLLM for everything, whatever the profile says of it."""
    block = {"uses": ["training", "rollouts", "evaluation"], "gpu_memory_utilization": 0.3, "tensor_parallel": 1}
    return {"engine": "vllm", "batch": 8, "vllm": block | options}


def planned(checkpoint: str, sampling: dict) -> Memory:
    run = resolve("qwen3-single-gpu", checkpoint, 0, {"sampling": sampling})
    return memory_of(run, QWEN, None, assumed_lengths(load_profile("qwen3-single-gpu")))


def test_where_vllm_samples_its_share_takes_the_place_of_the_cache():
    length = 130 + 2048
    own, engine = planned("student.grpo", OWN), planned("student.grpo", by_vllm())
    assert own.kv_cache == 64 * length * kv_bytes(QWEN, "float32")  # a whole optimiser batch side by side
    assert engine.kv_cache == 0
    assert engine.validation == own.validation == 8 * length * kv_bytes(QWEN, "float32")  # stays with transformers
    assert (own.engine_share, engine.engine_share) == (0.0, 0.3)
    # Trained weights are float32, and so is the engine that evaluates them.
    assert engine.engine_least == 4 * QWEN.parameters + length * kv_bytes(QWEN, "float32")
    longer = planned("student.grpo", by_vllm(max_model_len=4096))
    assert longer.engine_least - engine.engine_least == (4096 - length) * kv_bytes(QWEN, "float32")
    assert engine.room(80e9) == pytest.approx((1 - RESERVE - 0.3) * 80e9)


def test_vllm_for_evaluation_only_leaves_training_to_transformers():
    found = planned("student.grpo", by_vllm(uses=["evaluation"]))
    assert found.kv_cache == planned("student.grpo", OWN).kv_cache
    assert found.engine_share == 0.3


def test_a_server_elsewhere_takes_nothing():
    server = {"mode": "server", "url": "http://localhost:8000", "gpu_memory_utilization": None, "tensor_parallel": None}
    found = planned("student", by_vllm(**server))
    assert (found.engine_share, found.engine_least, found.kv_cache) == (0.0, 0.0, 0.0)


def test_an_engine_that_its_share_does_not_hold_fits_on_no_number_of_gpus():
    memory = Memory(engine_share=0.1, engine_least=9e9)
    assert memory.gpus(80e9) is None
    assert memory.gpus(100e9) == 1
