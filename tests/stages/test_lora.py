"""Every training stage with LoRA on the tiny setting: what it saves, how it resumes, what lies over what."""

import pytest
import torch

from s2d_lib.models.policy import load_policy
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare, weights_of
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import RoleModel

pytestmark = pytest.mark.slow

STAGES = ("sparse_rl", "teacher_sft", "forward_kl", "opd", "teacher_sample_sft", "self_distillation")


def with_lora(tiny: dict, **changes) -> dict:
    """Every stage with LoRA and two steps, a checkpoint after the first, and a teacher of the student's size."""
    stage = {"steps": 2, "save_steps": 1, "lora": {"rank": 2, "alpha": 4, **changes}}
    small = {"roles": {"teacher": {"model": "micro/chains-student"}}, "validation": {"samples": 1}}
    return deep_merge(tiny, small | {"stages": dict.fromkeys(STAGES, stage)})


def changed_layers(run) -> set[str]:
    """Last names of the weights in which a run's model differs from the base."""
    spec, hardware = RoleModel(model="micro/chains-student"), run.resolved.hardware
    base = dict(load_policy(spec, hardware).model.named_parameters())
    own = load_policy(spec, hardware, *weights_of(run)).model.named_parameters()
    return {name.split(".")[-2] for name, weights in own if not torch.equal(weights, base[name])}


@pytest.mark.parametrize(
    ("checkpoint", "save"), [("student.srpo", "adapter"), ("student.teacher_sample_sft.rl_teacher", "merged")]
)
def test_a_stage_trains_adapters_and_an_interrupted_run_ends_in_the_same_bytes(
    ends_in_the_same_bytes, tiny, checkpoint, save
):
    overrides = with_lora(tiny, save=save, target_modules=["q_proj", "up_proj"])
    run, _ = ends_in_the_same_bytes(checkpoint, overrides, step=2)
    assert run.path("model/adapter_model.safetensors").is_file() == (save == "adapter")
    assert run.path("model/model.safetensors").is_file() == (save == "merged")
    assert changed_layers(open_run("micro-full", checkpoint, 0, overrides)) == {"q_proj", "up_proj"}


def test_a_bridge_of_adapters_over_adapters(make, tiny):
    """The study's same-size teacher: the student itself, after its RL."""
    overrides = with_lora(tiny, save="adapter")
    make("student.warm.rl_same_size", overrides=overrides)
    run = open_run("micro-full", "student.bridge.rl_same_size", 0, overrides)
    inputs = prepare(run)
    alone = prepare(open_run("micro-full", "student.grpo", 0, overrides)).policy
    ids = torch.tensor([[5, 9, 13, 20]])
    with torch.no_grad():
        expected, got = (m.eval()(input_ids=ids).logits for m in (alone.model, inputs.teacher.model))
    torch.testing.assert_close(got, expected, atol=0, rtol=0)
    bridge = make("student.bridge.rl_same_size", overrides=overrides)
    assert len(weights_of(open_run("micro-full", "student.bridge.rl_same_size", 0, overrides)).adapters) == 2
    # Evaluated after a kill, the stored adapters give what the trained model gave
    results = bridge.path("evaluation.csv").read_bytes()
    for name in ("record.json", "evaluation.csv"):
        bridge.path(name).unlink()
    bridge.folder.rename(bridge.folder.with_name(".student.bridge.rl_same_size.unfinished"))
    assert make("student.bridge.rl_same_size", overrides=overrides).path("evaluation.csv").read_bytes() == results
