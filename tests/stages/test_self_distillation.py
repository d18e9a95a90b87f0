"""The stage on the released micro models: its record, interruptions, and its self-teacher."""

import copy
import math
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import Dataset
from fixed_rollouts import MIXED, questions, student, trainer
from safetensors.torch import load_file
from transformers import TrainerCallback

from s2d_lib.errors import StudyError
from s2d_lib.runs import open_run
from s2d_lib.stages import self_distillation as stage
from s2d_lib.stages import self_distillation as trainer_module
from s2d_lib.stages.common import LiveCurve, StopOnCollapse
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.self_teacher import FILE, SelfTeacher
from s2d_lib.study.load import deep_merge

pytestmark = pytest.mark.slow


def with_stage(tiny, **changes):
    return deep_merge(tiny, {"stages": {"self_distillation": changes}})


# The stage


@pytest.mark.parametrize(
    "checkpoint",
    [
        "student.sdpo",
        "student.advantage_mix",
        "student.srpo.no_dw",
        "student.sdpo.failed_only",
        "student.sdpo.correct_only",
    ],
)
def test_every_control_runs(make, checkpoint):
    run = make(checkpoint)
    metrics = pd.read_csv(run.path("metrics.csv"))
    assert len(metrics) == run.record["optimizer_steps"] == 4
    assert "self_teacher/mean_weight" not in metrics  # only SRPO's, with dynamic weighting
    assert (metrics["routed/grpo"] == (0 if "sdpo" in checkpoint else metrics["routed/grpo"])).all()


def test_the_record_accounts_for_labels_time_and_the_self_teachers_tokens(make):
    run = make("student.srpo")
    metrics, record = pd.read_csv(run.path("metrics.csv")), run.record
    assert record["label_use"]["gradings"] == record["sampled"]["sequences"] == 4 * 16
    assert record["self_teacher_tokens"] == metrics["self_teacher/tokens"].sum() > 0
    assert record["self_teacher_prompt_tokens"] > 0
    assert {"sampling", "self_teacher", "updates"} <= set(record["phases"])
    assert (metrics["seconds/step"] > metrics["seconds/sampling"] + metrics["seconds/self_teacher"]).all()
    assert (metrics["routed/grpo"] + metrics["routed/sdpo"]).tolist() == pytest.approx([1.0] * 4)
    assert (metrics["accuracy"] == metrics["reward"]).all()
    assert (
        metrics[["self_teacher/kl", "self_teacher/entropy", "self_teacher/student_entropy", "entropy"]].min().min() > 0
    )


class Killed(BaseException):
    """Stands for the process dying at some point of training."""


def test_an_interrupted_run_ends_in_the_same_bytes(make, tiny, monkeypatch):
    # One checkpoint where the self-teacher has followed for two steps, and then two more
    whole = make("student.srpo")
    expected = {name: h for name, h in whole.record["files"].items() if name != "metrics.csv"}
    shutil.rmtree(whole.folder)

    def die(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LiveCurve, "on_step_end", die, raising=False)
        with pytest.raises(Killed):
            make("student.srpo")
    folder = open_run("micro-full", "student.srpo", 0, tiny).folder / "trainer" / "checkpoint-2"
    kept, policy = load_file(folder / FILE), load_file(folder / "model.safetensors")
    assert not torch.equal(kept["model.norm.weight"], policy["model.norm.weight"])
    resumed = make("student.srpo")
    assert {name: resumed.record["files"][name] for name in expected} == expected
    assert resumed.record["label_use"]["gradings"] == 64
    # A self-teacher that began anew at the resumed step would have ended elsewhere
    shutil.rmtree(resumed.folder)
    with monkeypatch.context() as patch:
        patch.setattr(SelfTeacher, "load", lambda self, folder: None)
        patch.setattr(LiveCurve, "on_step_end", die, raising=False)
        with pytest.raises(Killed):
            make("student.srpo")
    with monkeypatch.context() as patch:
        patch.setattr(SelfTeacher, "load", lambda self, folder: None)
        other = make("student.srpo")
    assert other.record["files"]["model/model.safetensors"] != expected["model/model.safetensors"]


def test_a_length_collapse_stops_the_run_and_keeps_its_checkpoints(make, tiny):
    changed = with_stage(tiny, length_floor=19, length_window=3)
    with pytest.raises(StudyError, match=r"collapsed to [\d.]+ tokens .* 3 steps up to step 3, under the floor of 19:"):
        make("student.srpo", overrides=changed)
    assert (open_run("micro-full", "student.srpo", 0, changed).folder / "trainer" / "checkpoint-2").is_dir()


def test_a_collapse_is_seen_over_an_interruption():
    rows = [{"completions/mean_length": length} for length in (9, 2, 2)]
    state, args = SimpleNamespace(log_history=rows, global_step=3), SimpleNamespace(output_dir="here")
    StopOnCollapse(4, 3).on_log(args, state, None, logs=rows[-1])  # 4.33 on average
    with pytest.raises(StudyError, match=r"collapsed to 2\.0"):
        StopOnCollapse(4, 2).on_log(args, state, None, logs=rows[-1])


def test_a_non_finite_loss_stops_the_run(make, tiny, monkeypatch):
    objective, calls = trainer_module.srpo_objective, []

    def breaks_down(*args):
        calls.append(args)
        return objective(*args) * (1 if len(calls) < 6 else math.nan)  # two micro-batches a step

    monkeypatch.setattr(trainer_module, "srpo_objective", breaks_down)
    with pytest.raises(StudyError, match=r"loss is nan at step 3: lower the learning rate; the checkpoints before"):
        make("student.srpo")
    assert (open_run("micro-full", "student.srpo", 0, tiny).folder / "trainer" / "checkpoint-2").is_dir()


# The self-teacher


class Watching(TrainerCallback):
    """Keeps one of the policy's parameters after every step."""

    def __init__(self, name, seen):
        self.name, self.seen = name, seen

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(model.state_dict()[self.name].clone())


def test_the_self_teacher_is_the_moving_average_by_hand(tmp_path):
    rate, name = 0.3, "model.norm.weight"
    made = trainer(tmp_path, "srpo", [*MIXED, *MIXED], 8, steps=2, ema_rate=rate, steps_per_sampling=2)
    seen = [made.model.state_dict()[name].clone()]
    made.add_callback(Watching(name, seen))
    made.train()
    hand = seen[0]
    for weights in seen[1:]:
        hand = (1 - rate) * hand + rate * weights
    assert len(seen) == 3
    assert not torch.equal(hand, seen[-1])
    torch.testing.assert_close(made.self_teacher.model.state_dict()[name], hand, rtol=1e-6, atol=1e-7)
    assert not any(p.requires_grad for p in made.self_teacher.model.parameters())
    # Tied weights are averaged once
    torch.testing.assert_close(
        made.self_teacher.model.lm_head.weight, made.self_teacher.model.get_input_embeddings().weight
    )


def test_the_self_teacher_does_not_follow_a_step_without_finite_gradients(tmp_path, monkeypatch):
    made = trainer(tmp_path, "srpo", MIXED, 8)
    before = copy.deepcopy(made.self_teacher.model.state_dict())
    monkeypatch.setattr(made.accelerator, "clip_grad_norm_", lambda *a, **k: torch.tensor(math.inf))
    made.train()
    assert all(torch.equal(value, before[name]) for name, value in made.self_teacher.model.state_dict().items())


def test_a_saved_self_teacher_is_the_same_to_the_byte(tmp_path):
    one, other = SelfTeacher(student().model, 0.1), SelfTeacher(student().model, 0.1)
    with torch.no_grad():
        for p in one.model.parameters():
            p.add_(torch.randn_like(p))
    one.save(tmp_path)
    other.load(tmp_path)
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


def test_who_is_shown_what(tmp_path):
    made = trainer(tmp_path, "srpo", MIXED, 16)
    made.train()
    batch, tokenizer = made._buffered_inputs[0], made.processing_class
    prompts = [p.prompt for p in questions(4)]
    for i, ids in enumerate(batch["completion_ids"].tolist()):
        place = made.given.index([token for token, m in zip(ids, batch["completion_mask"][i], strict=True) if m])
        shown = tokenizer.decode(batch["teacher_prompt_ids"][i][batch["teacher_prompt_mask"][i].bool()])
        group = range(place - place % 4, place - place % 4 + 4)
        if MIXED[place] or not any(MIXED[j] for j in group):
            assert shown == ""
            assert not batch["sdpo"][i]
            continue
        ahead = next(j for j in [*range(place + 1, group.stop), *range(group.start, place)] if MIXED[j])
        answer = tokenizer.decode(made.given[ahead], skip_special_tokens=True)
        assert shown == f"{answer} {prompts[place // 4]}"


def test_feedback_in_place_of_a_sibling(tmp_path):
    rows = [{"prompt": p.prompt, "question": p.prompt, "feedback": ""} for p in questions(4)]
    rows[1]["feedback"] = "v1 v2"
    made = trainer(tmp_path, "srpo", MIXED, 16, feedback_reprompt="{feedback} # {question}")
    made.train_dataset = Dataset.from_list(rows)
    made.train()
    batch = made._buffered_inputs[0]
    # Group 2 has no correct rollout but feedback: its four join the five that have a sibling
    assert int(batch["sdpo"].sum()) == 5 + 4
    texts = made.processing_class.batch_decode(batch["teacher_prompt_ids"], skip_special_tokens=True)
    assert sum(text == f"v1 v2 # {rows[1]['prompt']}" for text in texts) == 4


def test_a_finished_runs_stage_can_be_prepared_again(make, tiny):
    make("student.srpo")
    run = open_run("micro-full", "student.srpo", 0, tiny)
    assert len(stage.self_distill(run, prepare(run))) == 4
