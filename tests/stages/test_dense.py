"""The dense trainer: TRL's loss on the same batch, stored completions, and teacher targets kept over epochs."""

import copy
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from trl import DistillationConfig, DistillationTrainer

from s2d_lib.errors import StudyError
from s2d_lib.losses import estimator
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import sample
from s2d_lib.stages import states, stored_teacher
from s2d_lib.stages.common import schedule, scheduled
from s2d_lib.stages.dense import DenseTrainer
from s2d_lib.stages.states import head_of
from s2d_lib.stages.stored_teacher import TeacherTargets, teacher_states, write_targets
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge

pytestmark = pytest.mark.slow


@pytest.fixture
def pair():
    """Student, teacher and some problems."""
    resolved = {name: resolve("micro-full", name, 0) for name in ("student", "teacher")}
    problems = load_problems(resolve("micro-full", "student.grpo", 0).problems).pool[:8]
    return *(load_policy(r.model, r.hardware) for r in resolved.values()), problems


def trainer(pair, tmp_path, beta, cls=DenseTrainer, **extra):
    """A trainer of the class on the problems' prompts."""
    student, teacher, problems = pair
    arguments = {
        "output_dir": str(tmp_path), "beta": beta, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "max_completion_length": 20, "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
    }  # fmt: skip
    return cls(
        model=copy.deepcopy(student.model),
        teacher_model=teacher.model,
        args=DistillationConfig(**arguments),
        train_dataset=Dataset.from_list([{"prompt": p.prompt} for p in problems]),
        processing_class=student.tokenizer,
        **extra,
    )


def outcome(one, batch) -> list:
    """Loss and gradients of a batch."""
    loss = one.compute_loss(one.model.train(), batch)
    loss.backward()
    return [loss.detach(), *(p.grad for p in one.model.parameters())]


@pytest.mark.parametrize(("beta", "rows"), [(0.0, 64), (0.3, 3), (1.0, 3)])
def test_loss_gradients_and_entropy_are_trls_on_the_same_batch(pair, tmp_path, monkeypatch, beta, rows):
    monkeypatch.setattr(states, "ROWS", rows)
    ours = trainer(pair, tmp_path, beta, divergence=estimator("full", beta=beta))
    theirs = trainer(pair, tmp_path, beta, DistillationTrainer)
    torch.manual_seed(0)
    batch = ours._generate_and_score_completions([{"prompt": p.prompt} for p in pair[2]])
    (loss, *mine), (trls, *gradients) = outcome(ours, batch), outcome(theirs, batch)
    assert loss.item() == pytest.approx(trls.item(), rel=1e-5)
    assert ours._metrics["train"]["entropy"] == pytest.approx(theirs._metrics["train"]["entropy"], rel=1e-3)
    mine, gradients = (torch.cat([g.flatten() for g in some]) for some in (mine, gradients))
    assert torch.linalg.norm(mine - gradients) <= 1e-4 * torch.linalg.norm(gradients)


def test_a_schedule_uses_every_item_equally_often_before_any_again_and_holds_one_pass_of_rows():
    order = schedule(5, 3, 5, seed=1)
    assert len(order) == 15
    assert sorted(order[:5]) == sorted(order[5:10]) == sorted(order[10:]) == list(range(5))
    assert order == schedule(5, 3, 5, seed=1) != schedule(5, 3, 5, seed=2)
    rows = [{"completion_ids": [i] * 9} for i in range(5)]
    laid_out = scheduled(rows, 5, 200, seed=1)
    assert laid_out[:15]["completion_ids"] == [rows[i]["completion_ids"] for i in schedule(5, 5, 200, seed=1)[:15]]
    assert (len(laid_out), laid_out.data.num_rows) == (1000, 5)


@pytest.fixture
def rollouts(pair):
    """Five rollouts of the teacher."""
    sampling = resolve("micro-full", "student.grpo", 0).sampling
    return sample(pair[1], pair[2][:5], samples=1, sampling=sampling, seed=0, show=False)


def test_kept_bfloat16_comes_back_bit_by_bit(pair, rollouts, tmp_path):
    _, teacher, problems = pair
    teacher.model.to(torch.bfloat16)
    write_targets(tmp_path / "targets.npy", teacher, problems, rollouts, batch=5)
    lengths = torch.tensor([len(r.ids) for r in rollouts])
    mask = torch.arange(lengths.max()) < lengths[:, None]
    targets = TeacherTargets(tmp_path / "targets.npy", rollouts, head_of(teacher.model))
    hidden, _ = targets.of(torch.arange(5), mask)
    expected = teacher_states(teacher, teacher.prompt_ids(problems[:5]), [r.ids for r in rollouts])
    assert hidden.dtype == torch.bfloat16
    assert torch.equal(hidden[mask], expected)
    assert not hidden[~mask].any()


def test_a_full_disk_is_said_before_anything_is_written(pair, rollouts, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**4))
    with pytest.raises(StudyError, match=r"the teacher targets need 0\.0 GB but .* set `teacher_targets` to recompute"):
        write_targets(tmp_path / "targets.npy", pair[1], pair[2], rollouts, batch=5)
    assert not (tmp_path / "targets.npy").exists()


def test_a_run_with_kept_targets_trains_as_one_that_asks_the_teacher_also_after_an_interruption(
    make, ends_in_the_same_bytes, tiny, monkeypatch
):
    written, write = [], stored_teacher.write_targets
    monkeypatch.setattr(stored_teacher, "write_targets", lambda *a, **k: (written.append(a[0]), write(*a, **k)))
    asking, keeping = (
        deep_merge(tiny, {"sampling": {"temperature": 0.9}, "stages": {"forward_kl": {"teacher_targets": form}}})
        for form in ("recompute", "hidden_states")
    )
    asked = make("student.warm.raw_teacher", overrides=asking)
    run, _ = ends_in_the_same_bytes("student.warm.raw_teacher", keeping)
    assert len(written) == 2  # by the whole run and by the killed one, not by the resumed one
    expected, found = (pd.read_csv(r.path("metrics.csv")) for r in (asked, run))
    for column in ("loss", "entropy", "argmax_agreement", "grad_norm"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-3)
    assert not run.path("trainer").exists()
