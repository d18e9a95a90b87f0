"""Teacher targets kept over epochs: the same training as with the teacher asked anew, in every batch TRL makes."""

import copy
import shutil
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from trl import DistillationConfig

from s2d_lib.errors import StudyError
from s2d_lib.losses import estimator
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import Run, open_run
from s2d_lib.sampling import sample
from s2d_lib.stages import stored_teacher as teacher_targets
from s2d_lib.stages.common import LiveCurve
from s2d_lib.stages.dense import DenseTrainer
from s2d_lib.stages.states import head_of
from s2d_lib.stages.stored_teacher import TeacherTargets, completion_states, write_targets
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge

pytestmark = pytest.mark.slow

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # fp32; a batch's other rows and padding change the order of sums


@pytest.fixture
def pair():
    """Student, teacher, problems, and two teacher rollouts of each."""
    student, teacher = (
        load_policy(r.model, r.hardware) for r in (resolve("micro-full", n, 0) for n in ("student", "teacher"))
    )
    resolved = resolve("micro-full", "student.grpo", 0)
    problems = load_problems(resolved.problems).pool[:6]
    return student, teacher, problems, sample(teacher, problems, samples=2, sampling=resolved.sampling, seed=0)


def kept(pair, tmp_path):
    """Targets of the pair's rollouts."""
    _, teacher, problems, rollouts = pair
    path = tmp_path / "targets.npy"
    write_targets(path, teacher, problems, rollouts, batch=5)
    return TeacherTargets(path, rollouts, head_of(teacher.model))


def dense_trainer(pair, tmp_path, targets=None, divergence=None):
    """A trainer on the stored rollouts: two optimiser steps of three micro-batches of two."""
    student, teacher, problems, rollouts = pair
    prompts = {p.id: p.prompt for p in problems}
    rows = [{"prompt": prompts[r.problem], "completion_ids": list(r.ids), "rollout": i} for i, r in enumerate(rollouts)]
    config = DistillationConfig(
        output_dir=str(tmp_path / "trainer"), beta=0.0, max_steps=2, per_device_train_batch_size=2,
        gradient_accumulation_steps=3, max_completion_length=20, report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, save_strategy="no", logging_steps=1, shuffle_dataset=False,
    )  # fmt: skip
    return DenseTrainer(
        model=copy.deepcopy(student.model),
        teacher_model=teacher.model if targets is None else None,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        divergence=divergence or estimator("full", beta=0.0),
        targets=targets,
    )


def test_every_row_of_every_micro_batch_meets_its_own_targets(pair, tmp_path, monkeypatch):
    targets = kept(pair, tmp_path)
    asked, one = dense_trainer(pair, tmp_path), dense_trainer(pair, tmp_path, targets)
    seen, original = [], one._compute_loss

    def watch(model, inputs, n):
        rollout, mask = inputs["rollout"], inputs["completion_mask"]
        for i, ids, row in zip(rollout.tolist(), inputs["completion_ids"], mask.bool(), strict=True):
            assert ids[row].tolist() == list(pair[3][i].ids)
            seen.append(i)
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        expected, head = asked.ask_teacher(ids, torch.cat([inputs["prompt_mask"], mask], 1), mask.shape[1])
        found, looked_up = targets.of(rollout, mask)
        assert looked_up == head
        assert not found[mask == 0].any()
        torch.testing.assert_close(found[mask == 1], expected[mask == 1], **ROUNDING)
        return original(model, inputs, n)

    monkeypatch.setattr(one, "_compute_loss", watch)
    one.train()
    assert sorted(seen) == list(range(12))
    assert seen[:6] != sorted(seen[:6])  # TRL has shuffled them


@pytest.mark.parametrize(("name", "options"), [("full", {"beta": 0.0}), ("topk_tail", {"beta": 0.5, "top_k": 4})])
def test_loss_and_gradients_are_those_of_the_teacher_at_hand(pair, tmp_path, name, options):
    exact = estimator(name, **options)
    asked = dense_trainer(pair, tmp_path, divergence=exact)
    looked_up = dense_trainer(pair, tmp_path, kept(pair, tmp_path), exact)
    batch = looked_up._generate_and_score_completions([looked_up.train_dataset[i] for i in (3, 0, 7, 11)])
    gradients = []
    for one in (asked, looked_up):
        loss, entropy, tokens = one._compute_loss(one.model, batch, batch["num_items_in_batch"])
        loss.backward()
        gradients.append([loss.detach(), entropy, tokens, *(p.grad for p in one.model.parameters())])
        assert one._metrics["train"]["argmax_agreement"] == asked._metrics["train"]["argmax_agreement"]
    torch.testing.assert_close(gradients[1], gradients[0], **ROUNDING)


def test_bfloat16_comes_back_bit_by_bit(pair, tmp_path):
    teacher = pair[1]
    teacher.model.to(torch.bfloat16)
    targets = kept(pair, tmp_path)
    lengths = [len(r.ids) for r in pair[3][:5]]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    hidden, _ = targets.of(torch.arange(5), mask)
    prompts = {p.id: ids for p, ids in zip(pair[2], teacher.prompt_ids([p.prompt for p in pair[2]]), strict=True)}
    first = pair[3][:5]
    with torch.no_grad():
        expected = completion_states(teacher, [prompts[r.problem] for r in first], [r.ids for r in first])
    assert hidden.dtype == torch.bfloat16
    assert torch.equal(hidden[mask], expected)


def test_a_full_disk_is_said_before_anything_is_written(pair, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 10**4))
    with pytest.raises(StudyError, match=r"the teacher targets need 0\.0 GB but .* set `teacher_targets` to recompute"):
        kept(pair, tmp_path)
    assert (tmp_path / "targets.npy").stat().st_size == 0


def overrides(tiny, **forward_kl):
    """The tiny study with a forward_kl stage of its own, its temperature not 1."""
    return deep_merge(tiny, {"sampling": {"temperature": 0.9}, "stages": {"forward_kl": forward_kl}})


def test_a_run_with_kept_targets_trains_as_one_that_asks_the_teacher(make, tiny):
    forms = "recompute", "hidden_states"
    asked, run = (make("student.warm.raw_teacher", overrides=overrides(tiny, teacher_targets=form)) for form in forms)
    expected, found = (pd.read_csv(r.path("metrics.csv")) for r in (asked, run))
    for column in ("loss", "entropy", "argmax_agreement", "grad_norm"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-3)
    tokens = run.record["trained_tokens"] // 2  # 4 steps of 16 rows: each of 32 rollouts twice
    assert 0 <= run.record["teacher_targets"]["bytes"] - tokens * 4 * 64 <= 256  # and a header
    assert run.record["teacher_targets"]["seconds"] > 0
    assert "teacher_targets" not in asked.record
    assert not run.path("trainer").exists()


class Killed(BaseException):
    """Stands for the process dying at some point."""


def test_an_interrupted_run_goes_on_with_its_targets(make, tiny, monkeypatch):
    ours = overrides(tiny, teacher_targets="hidden_states")
    whole = make("student.warm.raw_teacher", overrides=ours)
    expected = {name: h for name, h in whole.record["files"].items() if name != "metrics.csv"}
    shutil.rmtree(whole.folder)

    def die(*args, **kwargs):
        raise Killed

    def at_step_3(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise Killed

    with monkeypatch.context() as patch:  # in the midst of making them: what is half there is not used
        patch.setattr(Run, "remember", die)
        with pytest.raises(Killed):
            make("student.warm.raw_teacher", overrides=ours)
    folder = open_run("micro-full", "student.warm.raw_teacher", 0, ours).folder / "trainer"
    assert [p.name for p in folder.iterdir()] == [".teacher_targets.npy"]
    (folder / ".teacher_targets.npy").write_bytes(b"half")

    with monkeypatch.context() as patch:  # in training, after the checkpoint of step 2
        patch.setattr(LiveCurve, "on_step_end", at_step_3, raising=False)
        with pytest.raises(Killed):
            make("student.warm.raw_teacher", overrides=ours)
    assert (folder / "checkpoint-2").is_dir()
    monkeypatch.setattr(teacher_targets, "write_targets", lambda *a, **k: pytest.fail("made again"))
    resumed = make("student.warm.raw_teacher", overrides=ours)
    assert {name: resumed.record["files"][name] for name in expected} == expected
    assert resumed.record["teacher_targets"]["bytes"] > 0
