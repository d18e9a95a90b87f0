"""Every training stage with LoRA on the tiny setting: what it saves, how it resumes, what lies over what."""

import shutil

import pytest
import torch
from fixed_rollouts import MIXED, student, trainer
from transformers import TrainerCallback

from s2d_lib.evaluation import evaluate
from s2d_lib.models.adapters import lora_config, plain
from s2d_lib.models.policy import load_policy
from s2d_lib.notebook import finish
from s2d_lib.runs import open_run
from s2d_lib.stages.common import LiveCurve
from s2d_lib.stages.inputs import prepare, weights_of
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import Lora, RoleModel

pytestmark = pytest.mark.slow

STAGES = ("sparse_rl", "teacher_sft", "forward_kl", "opd", "teacher_sample_sft", "self_distillation")


def with_lora(tiny: dict, **changes) -> dict:
    """Every stage with LoRA and two steps, a checkpoint after the first, and a teacher of the student's size."""
    lora = {"rank": 2, "alpha": 4, **changes}
    stage = {"steps": 2, "save_steps": 1, "lora": lora}
    size = {
        "roles": {"teacher": {"model": "micro/chains-student"}},
        "validation": {"samples": 1},
        "evaluation": {"samples": 2},
    }
    return deep_merge(tiny, size | {"stages": dict.fromkeys(STAGES, stage)})


class Killed(BaseException):
    """Stands for the process dying at some point of training."""


def changed_layers(run) -> set[str]:
    """Last names of the weights in which a run's model differs from the base."""
    own, base = (
        load_policy(RoleModel(model="micro/chains-student"), run.resolved.hardware, *w).model
        for w in (weights_of(run), ())
    )
    theirs = dict(base.named_parameters())
    return {name.split(".")[-2] for name, w in own.named_parameters() if not torch.equal(w, theirs[name])}


@pytest.mark.parametrize(
    ("checkpoint", "save"),
    [
        ("student.grpo", "merged"),
        ("student.srpo", "adapter"),
        ("student.teacher_sample_sft.rl_teacher", "merged"),
        ("student.opd_only.rl_teacher", "adapter"),
    ],
)
def test_a_stage_trains_adapters_and_an_interrupted_run_ends_in_the_same_bytes(
    make, tiny, monkeypatch, checkpoint, save
):
    overrides = with_lora(tiny, save=save, target_modules=["q_proj", "up_proj"])
    whole = make(checkpoint, overrides=overrides)
    assert whole.path("model/adapter_model.safetensors").is_file() == (save == "adapter")
    assert whole.path("model/model.safetensors").is_file() == (save == "merged")
    assert changed_layers(open_run("micro-full", checkpoint, 0, overrides)) == {"q_proj", "up_proj"}
    expected = {name: h for name, h in whole.record["files"].items() if name != "metrics.csv"}
    shutil.rmtree(whole.folder)

    def die(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LiveCurve, "on_step_end", die, raising=False)
        with pytest.raises(Killed):
            make(checkpoint, overrides=overrides)
    assert (open_run("micro-full", checkpoint, 0, overrides).folder / "trainer" / "checkpoint-1").is_dir()
    resumed = make(checkpoint, overrides=overrides)
    assert {name: resumed.record["files"][name] for name in expected} == expected


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
    again = bridge.folder.with_name(".student.bridge.rl_same_size.unfinished")
    bridge.folder.rename(again)
    for name in ("record.json", "evaluation.csv"):
        (again / name).unlink()
    run = open_run("micro-full", "student.bridge.rl_same_size", 0, overrides)
    evaluate(run, loaded := prepare(run))
    assert run.path("evaluation.csv").read_bytes() == results
    finish(run, loaded)


def test_the_grpo_reference_is_the_base(make, tiny):
    overrides = deep_merge(with_lora(tiny), {"stages": {"sparse_rl": {"kl_coefficient": 0.1}}})
    assert make("student.grpo", overrides=overrides).record["optimizer_steps"] == 2


def test_teacher_sft_with_lora(make, tiny):
    sampled = {
        "stages": {"teacher_rollouts": {"samples_per_problem": 16}, "teacher_sft": {"batch": 4, "micro_batch": 4}}
    }
    assert make("teacher.sft", overrides=deep_merge(with_lora(tiny), sampled)).record["optimizer_steps"] == 2


class Watching(TrainerCallback):
    """Keeps the trained weights after every step."""

    def __init__(self, seen):
        self.seen = seen

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append({name: w.detach().clone() for name, w in plain(model).named_parameters() if w.requires_grad})


def test_the_self_teacher_averages_the_adapters_alone(tmp_path):
    rate, config = 0.3, lora_config(student().model, Lora(rank=2, alpha=4))
    made = trainer(tmp_path, "srpo", [*MIXED, *MIXED], 8, steps=2, ema_rate=rate, steps_per_sampling=2, peft=config)
    seen = []
    Watching(seen).on_step_end(None, None, None, model=made.model)
    made.add_callback(Watching(seen))
    made.train()
    teacher = dict(made.self_teacher.model.named_parameters())
    policy = dict(plain(made.model).named_parameters())
    for name, hand in seen[0].items():
        for later in seen[1:]:
            hand = (1 - rate) * hand + rate * later[name]
        torch.testing.assert_close(teacher[name], hand, rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(teacher[name], policy[name]) for name in seen[0])
    assert all(teacher[name] is policy[name] for name in teacher if name not in seen[0])  # the base is held once
    made.self_teacher.save(tmp_path)
    before = {name: weights.clone() for name, weights in teacher.items()}
    with torch.no_grad():
        for name in seen[0]:
            teacher[name].zero_()
    made.self_teacher.load(tmp_path)
    assert all(torch.equal(before[name], weights) for name, weights in teacher.items())
