"""Parameters that a run trains, against what peft really makes of a model."""

import pytest
from peft import LoraConfig, get_peft_model

from s2d_lib.plan.architecture import named
from s2d_lib.plan.disk import kept_bytes, scratch_bytes
from s2d_lib.plan.flops import forward_flops, training_flops
from s2d_lib.plan.memory import activations, memory_of
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.plan.trained import adapter_parameters, trained_parameters
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.settings import Lora
from tests.plan.test_memory import built, shaped

QWEN = named()["Qwen/Qwen3-1.7B"]
LENGTHS = assumed_lengths(load_profile("qwen3-single-gpu"))


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj", "down_proj"]])
def test_adapters_are_as_large_as_pefts(family, targets):
    model, lora = shaped(family, 2), Lora(rank=4, alpha=8, target_modules=targets)
    made = get_peft_model(built(model), LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    assert made.get_nb_trainable_parameters()[0] == adapter_parameters(model, lora)


def of_adapters(stage: str, checkpoint: str, **changes):
    lora = {"lora": {"rank": 16, "alpha": 32} | changes.pop("lora", {})}
    return resolve("qwen3-single-gpu", checkpoint, 0, {"stages": {stage: lora | changes}})


def test_only_adapters_have_gradients_and_an_optimiser():
    run = of_adapters("sparse_rl", "student.grpo", kl_coefficient=0.0)
    trained = trained_parameters(run, QWEN)
    of_whole = resolve("qwen3-single-gpu", "student.grpo", 0, {"stages": {"sparse_rl": {"kl_coefficient": 0.0}}})
    memory, whole = (memory_of(r, QWEN, None, LENGTHS) for r in (run, of_whole))
    assert (memory.gradients, memory.optimiser) == (4 * trained, 8 * trained)
    assert memory.weights == whole.weights + 4 * trained
    assert memory.copies == whole.copies + 2 * trained
    assert trained < 0.02 * QWEN.parameters


def test_a_reference_model_is_the_policy_without_adapters():
    plain, penalised = (of_adapters("sparse_rl", "student.grpo", kl_coefficient=k) for k in (0.0, 0.1))
    assert memory_of(plain, QWEN, None, LENGTHS).weights == memory_of(penalised, QWEN, None, LENGTHS).weights


def test_a_self_teacher_is_a_second_set_of_weights_which_processes_share():
    run = resolve("qwen3-chemistry", "student.srpo", 0)
    memory = memory_of(run, QWEN, None, LENGTHS)
    without = memory_of(resolve("qwen3-chemistry", "student.grpo", 0), QWEN, None, LENGTHS)
    assert memory.weights == 2 * without.weights == 8 * QWEN.parameters
    # Beyond its even part a GPU holds embeddings and two layers of each of the two, in bfloat16
    second = 2 * (QWEN.embeddings + 2 * QWEN.layer)
    assert memory.shared(8) - without.shared(8) == pytest.approx(4 * QWEN.parameters / 8 + second)


def test_heads_that_are_gathered_in_bfloat16_are_made_float32_for_the_loss():
    shared, whole = (
        memory_of(resolve("qwen3-chemistry", "student.srpo", 0, {"hardware": hardware}), QWEN, None, LENGTHS)
        for hardware in ({}, {"accelerate": None})
    )
    assert shared.activations - whole.activations == 2 * 4 * QWEN.vocabulary * QWEN.width


def test_a_self_teacher_of_adapters_is_a_second_set_of_them():
    adapters = {"stages": {"self_distillation": {"lora": {"rank": 32, "alpha": 64}}}, "hardware": {"accelerate": None}}
    run = resolve("qwen3-chemistry", "student.srpo", 0, adapters)
    trained = trained_parameters(run, QWEN)
    memory = memory_of(run, QWEN, None, LENGTHS)
    assert (memory.weights, memory.copies) == (4 * (QWEN.parameters + 2 * trained), 2 * (QWEN.parameters + trained))


def test_frozen_weights_have_half_of_the_backward_pass():
    assert training_flops(QWEN, 10, frozen=True) == 2 * forward_flops(QWEN, 10)
    assert training_flops(QWEN, 10) == 3 * forward_flops(QWEN, 10)


def test_what_adapters_take_of_the_disk():
    merged, alone = (of_adapters("sparse_rl", "student.grpo", lora={"save": save}) for save in ("merged", "adapter"))
    assert kept_bytes(merged, QWEN, LENGTHS) == 4 * QWEN.parameters
    assert kept_bytes(alone, QWEN, LENGTHS) == 4 * trained_parameters(alone, QWEN)
    assert scratch_bytes(alone, QWEN, None, LENGTHS) == 2 * 12 * trained_parameters(alone, QWEN)


def test_a_trained_head_next_to_a_self_teacher_has_a_buffer_for_its_gradient():
    """Dense stages and self-taught methods make it, 4 bytes a weight; GRPO does not, and adapters leave the head as it is."""
    head = 4 * 151936 * 2048
    buffers = {}
    for name in ("student.grpo", "student.srpo"):
        run = resolve("qwen3-chemistry", name, 0, {"hardware": {"accelerate": None}})
        rows, length = run.params["micro_batch"], LENGTHS.prompt + run.sampling.max_new_tokens
        of_layers = activations(QWEN, run.hardware.dtype, rows, length, run.hardware.gradient_checkpointing)
        buffers[name] = memory_of(run, QWEN, None, LENGTHS).activations - of_layers
    assert buffers == {"student.grpo": 0, "student.srpo": head}
    for stage, checkpoint in (("self_distillation", "student.srpo"), ("opd", "student.bridge.raw_teacher")):
        profile = "qwen3-chemistry" if stage == "self_distillation" else "qwen3-single-gpu"
        alone = {"hardware": {"accelerate": None}}
        changes = alone | {"stages": {stage: {"lora": {"rank": 8, "alpha": 8}}}}
        whole, adapters = (
            memory_of(resolve(profile, checkpoint, 0, over), QWEN, None, LENGTHS).activations
            for over in (alone, changes)
        )
        assert whole - adapters == head


def test_trainer_checkpoints_hold_the_self_teachers_weights():
    """Two checkpoints, each of weights, AdamW's two moments and the self-teacher: 4 bytes a trained weight of each."""
    runs = [resolve("qwen3-chemistry", name, 0) for name in ("student.grpo", "student.srpo")]
    assert [scratch_bytes(run, QWEN, None, LENGTHS) / 1_720_574_976 for run in runs] == [2 * 12, 2 * 16]
