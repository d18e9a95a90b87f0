"""What a run reads: refused in one sentence before training, told from what it was, and gone when it is no more needed."""

import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import load_policy
from s2d_lib.problems import micro
from s2d_lib.runs import LOGS, open_run, read_finished
from s2d_lib.stages import inputs as module
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.training import train
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge
from s2d_lib.study.resolve import RELEASED

REMEDY = "put the old one back, give the new one a name or a profile of its own, or delete the runs that read the"


@pytest.mark.slow
def test_a_pair_that_does_not_fit_is_refused_before_training(make, tiny):
    with pytest.raises(StudyError, match="they differ in the EOS token"):
        make("student.warm.raw_teacher", overrides=deep_merge(tiny, {"roles": {"teacher": {"eos_token": "#"}}}))


def test_problems_with_longer_prompts_are_left_out_and_counted(make, tiny, capsys):
    # Functions in a chain are words of its prompt, beside two more
    mixed = deep_merge(tiny, {"problems": {"pools": {"full": {"lengths": [2, 3]}}}})
    for limit, left in ((5, 16), (4, 9)):
        stage = {"stages": {"sparse_rl": {"max_prompt_tokens": limit, "batch": 8, "micro_batch": 8}}}
        make("student", overrides=(limited := deep_merge(mixed, stage)))
        found = prepare(open_run("micro-full", "student.grpo", 0, limited)).problems
        assert (len(found.pool), found.report["longer_prompts"]) == (left, 16 - left)
    said = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert said == ["7 of 16 problems are left out: their prompts are longer than 4 tokens."]


@pytest.mark.parametrize(("checkpoint", "dtype"), [("student", torch.bfloat16), ("student.grpo", torch.float32)])
def test_only_weights_that_are_trained_are_float32_under_bfloat16(make, tiny, checkpoint, dtype):
    overrides = deep_merge(tiny, {"hardware": {"dtype": "bfloat16"}})
    if checkpoint == "student.grpo":
        make("student", overrides=overrides)
    assert prepare(open_run("micro-full", checkpoint, 0, overrides)).policy.model.dtype == dtype


def test_no_optimiser_gradient_or_teacher_outlives_training(runs, tiny):
    overrides = deep_merge(tiny, {"stages": {"sparse_rl": {"steps": 1, "warmup_steps": 0}}})
    open_run("micro-full", "student", 0, overrides).finish()
    run = open_run("micro-full", "student.grpo", 0, overrides)

    def optimisers() -> set[int]:
        return {id(one) for one in gc.get_objects() if issubclass(type(one), torch.optim.Optimizer)}

    inputs = prepare(run)
    inputs.teacher = load_policy(run.resolved.model, run.resolved.hardware)
    teacher = weakref.ref(inputs.teacher.model)
    gc.collect()
    before = optimisers()
    train(run, inputs)
    inputs.drop_training()
    assert not optimisers() - before
    assert teacher() is None
    assert all(weight.grad is None for weight in inputs.policy.model.parameters())


# What is read from outside the study


@pytest.fixture
def own(tiny, tmp_path) -> tuple[dict, Path]:
    """Overrides by which the released student is read from a folder, which can be changed."""
    folder = shutil.copytree(RELEASED / "chains-student", tmp_path / "student")
    return deep_merge(tiny, {"roles": {"student": {"model": str(folder)}}}), folder


def change_weights(folder):
    weights = load_file(folder / "model.safetensors")
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 1}, folder / "model.safetensors", {"format": "pt"})


def test_a_model_that_has_changed_since_the_base_run_is_refused(make, own):
    own, folder = own
    make("student", overrides=own)
    change_weights(folder)
    for checkpoint in ("student", "student.grpo"):  # shown again, and trained from
        with pytest.raises(StudyError, match=rf"{folder}.* is not what it was .*\(model.safetensors\): {REMEDY}"):
            prepare(open_run("micro-full", checkpoint, 0, own))


def test_an_interrupted_run_does_not_go_on_with_other_weights(runs, own):
    own, folder = own
    run = open_run("micro-full", "student", 0, own)
    prepare(run)
    run.remember()
    prepare(open_run("micro-full", "student", 0, own))  # nothing has changed
    change_weights(folder)
    with pytest.raises(StudyError, match=r"is not what it was for the run in .*student\.unfinished"):
        prepare(open_run("micro-full", "student", 0, own))


def test_problems_that_have_changed_are_refused_and_others_are_not(make, tiny, monkeypatch):
    sets = {f"the problem set {name!r}" for name in ("micro-math", "micro-aime", "known-facts", "known-long")}
    assert set(make("student").record["read"]) == {"the model 'micro/chains-student'"} | sets
    prepare(open_run("micro-full", "student.grpo", 0, tiny))
    world = type(micro.world_of(resolve("micro-full", "student", 0, tiny).problems))
    made = world.problems

    def one_less(self, name, *args, **kwargs):
        return made(self, name, *args, **kwargs)[: -1 if name == "micro-aime" else None]

    monkeypatch.setattr(world, "problems", one_less)
    sentence = r"set 'micro-aime' is not what it was .*\(other problems, answers or traces\)"
    with pytest.raises(StudyError, match=sentence):
        prepare(open_run("micro-full", "student.grpo", 0, tiny))


def test_a_model_of_the_hub_is_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert module.model_content("some-org/some-model") == {}
    ref = tmp_path / "models--some-org--some-model" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("0123abc")
    assert module.model_content("some-org/some-model") == {"commit": "0123abc"}


# A viewer's files


def test_logging_makes_no_run_stale(runs):
    plain, logged = (resolve("micro-full", "student.grpo", 0, over) for over in ({}, {"logging": "trackio"}))
    assert logged.hash == plain.hash
    assert "logging" not in plain.model_dump()
    with pytest.raises(StudyError, match="logging"):
        resolve("micro-full", "student.grpo", 0, {"logging": "wandb"})


@pytest.mark.slow
def test_tensorboards_file_holds_every_step_and_may_be_changed(make, tiny):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = make("student.grpo", overrides=deep_merge(tiny, {"logging": "tensorboard"}))
    found = events.EventAccumulator(str(run.path(LOGS))).Reload()
    assert [event.step for event in found.Scalars("train/reward")] == [1, 2, 3, 4]
    assert not [name for name in run.record["files"] if name.startswith(LOGS)]
    next(run.path(LOGS).glob("events*")).write_text("changed")
    assert read_finished(run.folder)
