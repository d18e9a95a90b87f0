"""The dense trainer: TRL's loss on the same batch, stored completions, and teacher targets kept over epochs."""

import copy
import shutil
from collections import Counter, namedtuple

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

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # fp32; a batch's other rows and padding change the order of sums


@pytest.fixture
def pair():
    """Student, teacher and some problems."""
    resolved = {name: resolve("micro-full", name, 0) for name in ("student", "teacher")}
    problems = load_problems(resolve("micro-full", "student.grpo", 0).problems).pool[:8]
    return *(load_policy(r.model, r.hardware) for r in resolved.values()), problems


def trainer(pair, tmp_path, cls=DenseTrainer, rows=None, beta=1.0, steps=1, config=None, teacher=True, **extra):
    """A trainer of the class, on the problems' prompts or the given rows, eight an optimiser step."""
    student, of, problems = pair
    arguments = {
        "output_dir": str(tmp_path / "trainer"), "beta": beta, "max_steps": steps, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2, "max_completion_length": 20, "report_to": "none", "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "save_strategy": "no", "logging_steps": 1, "shuffle_dataset": False,
    }  # fmt: skip
    return cls(
        model=copy.deepcopy(student.model),
        teacher_model=of.model if teacher else None,
        args=DistillationConfig(**arguments | (config or {})),
        train_dataset=Dataset.from_list(rows or [{"prompt": p.prompt} for p in problems]),
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
    ours = trainer(pair, tmp_path, beta=beta, divergence=estimator("full", beta=beta))
    theirs = trainer(pair, tmp_path, DistillationTrainer, beta=beta)
    torch.manual_seed(0)
    batch = ours._generate_and_score_completions([{"prompt": p.prompt} for p in pair[2]])
    (loss, *mine), (trls, *gradients) = outcome(ours, batch), outcome(theirs, batch)
    assert loss.item() == pytest.approx(trls.item(), rel=1e-5)
    assert ours._metrics["train"]["entropy"] == pytest.approx(theirs._metrics["train"]["entropy"], rel=1e-3)
    mine, gradients = (torch.cat([g.flatten() for g in some]) for some in (mine, gradients))
    assert torch.linalg.norm(mine - gradients) <= 1e-4 * torch.linalg.norm(gradients)


def test_stored_completions_are_trained_on_as_they_are_and_every_overridden_hook_is_called(pair, tmp_path, monkeypatch):
    student, _, problems = pair
    stored = [student.tokenizer(p.prompt.replace("?", "#") + " <eos>")["input_ids"] for p in problems]
    rows = [{"prompt": p.prompt, "completion_ids": ids} for p, ids in zip(problems, stored, strict=True)]
    one = trainer(pair, tmp_path, rows=rows, divergence=estimator("full", beta=0.0), beta=0.0)
    monkeypatch.setattr(one.model, "generate", lambda *a, **k: pytest.fail("sampled although completions were given"))
    hooks = {"_generate_and_score_completions", "_generate_single_turn", "compute_loss"}
    assert hooks <= set(vars(DistillationTrainer))
    called, seen = set(), []
    for name in hooks:
        original = getattr(one, name)
        monkeypatch.setattr(one, name, lambda *a, _n=name, _o=original, **k: (called.add(_n), _o(*a, **k))[1])
    loss = one.loss_of

    def watch(model, inputs):
        masks = inputs["completion_mask"].bool()
        seen.extend(row[mask].tolist() for row, mask in zip(inputs["completion_ids"], masks, strict=True))
        return loss(model, inputs)

    monkeypatch.setattr(one, "loss_of", watch)
    one.train()
    assert sorted(seen) == sorted(stored)
    assert called == hooks


@pytest.mark.parametrize(("name", "options"), [("topk_tail", {"top_k": 8}), ("sampled_token", {})])
def test_other_estimators_train_too(pair, tmp_path, name, options):
    one = trainer(pair, tmp_path, divergence=estimator(name, beta=1.0, **options))
    before = [p.clone() for p in one.model.parameters()]
    one.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, one.model.parameters(), strict=True))
    assert all(torch.isfinite(p).all() for p in one.model.parameters())


def test_a_schedule_uses_every_item_equally_often_before_any_again_and_holds_one_pass_of_rows():
    order = schedule(5, 3, 5, seed=1)
    assert len(order) == 15
    assert sorted(order[:5]) == sorted(order[5:10]) == sorted(order[10:]) == list(range(5))
    assert order == schedule(5, 3, 5, seed=1) != schedule(5, 3, 5, seed=2)
    rows = [{"completion_ids": [i] * 9} for i in range(5)]
    laid_out = scheduled(rows, 5, 200, seed=1)
    assert laid_out[:15]["completion_ids"] == [rows[i]["completion_ids"] for i in schedule(5, 5, 200, seed=1)[:15]]
    assert (len(laid_out), laid_out.data.num_rows) == (1000, 5)


def test_the_students_rollouts_of_a_prompt_are_of_one_step(make, tiny, monkeypatch):
    asked, generate = [], DenseTrainer._generate_single_turn

    def watched(self, prompt_ids, *args, **kwargs):
        asked.extend(map(tuple, prompt_ids))
        return generate(self, prompt_ids, *args, **kwargs)

    monkeypatch.setattr(DenseTrainer, "_generate_single_turn", watched)
    overrides = deep_merge(tiny, {"stages": {"opd": {"group_size": 4}}})
    run = make("student.bridge.raw_teacher", overrides=overrides)
    fresh = asked[-4 * 16 :]  # before them the warmup's, which are stored
    assert run.record["sampled"]["sequences"] == len(fresh)
    assert all(len(set(fresh[i : i + 4])) == 1 for i in range(0, len(fresh), 4))
    assert set(Counter(fresh).values()) == {4}  # 4 steps of 4 prompts: each of the 16 once


# Kept targets


@pytest.fixture
def rollouts(pair):
    """Two rollouts of the teacher for each of six problems."""
    sampling = resolve("micro-full", "student.grpo", 0).sampling
    return sample(pair[1], pair[2][:6], samples=2, sampling=sampling, seed=0, show=False)


def kept(pair, rollouts, tmp_path):
    """Targets of the rollouts."""
    path = tmp_path / "targets.npy"
    write_targets(path, pair[1], pair[2], rollouts, batch=5)
    return TeacherTargets(path, rollouts, head_of(pair[1].model))


def on_stored(pair, rollouts, tmp_path, targets=None):
    """A trainer on the stored rollouts: two optimiser steps of three micro-batches of two."""
    prompts = {p.id: p.prompt for p in pair[2]}
    rows = [{"prompt": prompts[r.problem], "completion_ids": list(r.ids), "rollout": i} for i, r in enumerate(rollouts)]
    config = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    more = {"divergence": estimator("full", beta=0.0), "targets": targets, "teacher": targets is None}
    return trainer(pair, tmp_path, rows=rows, beta=0.0, steps=2, config=config, **more)


def test_every_row_of_every_micro_batch_meets_its_own_targets(pair, rollouts, tmp_path, monkeypatch):
    targets = kept(pair, rollouts, tmp_path)
    asked, one = on_stored(pair, rollouts, tmp_path), on_stored(pair, rollouts, tmp_path, targets)
    seen, loss = [], one.loss_of

    def watch(model, inputs):
        rollout, mask = inputs["rollout"], inputs["completion_mask"]
        for i, ids, row in zip(rollout.tolist(), inputs["completion_ids"], mask.bool(), strict=True):
            assert ids[row].tolist() == list(rollouts[i].ids)
            seen.append(i)
        batch = [inputs[f"{part}_{kind}"] for part in ("prompt", "completion") for kind in ("ids", "mask")]
        expected, head = asked.ask_teacher(batch)
        found, looked_up = targets.of(rollout, mask)
        assert looked_up == head
        assert not found[mask == 0].any()
        torch.testing.assert_close(found[mask == 1], expected[mask == 1], **ROUNDING)
        return loss(model, inputs)

    monkeypatch.setattr(one, "loss_of", watch)
    one.train()
    assert sorted(seen) == list(range(12))
    assert seen[:6] != sorted(seen[:6])  # TRL has shuffled them


def test_bfloat16_comes_back_bit_by_bit(pair, rollouts, tmp_path):
    teacher, first = pair[1], rollouts[:5]
    teacher.model.to(torch.bfloat16)
    lengths = [len(r.ids) for r in first]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    hidden, _ = kept(pair, rollouts, tmp_path).of(torch.arange(5), mask)
    prompts = {p.id: ids for p, ids in zip(pair[2], teacher.prompt_ids([p.prompt for p in pair[2]]), strict=True)}
    expected = teacher_states(teacher, [prompts[r.problem] for r in first], [r.ids for r in first])
    assert hidden.dtype == torch.bfloat16
    assert torch.equal(hidden[mask], expected)


def test_a_full_disk_is_said_before_anything_is_written(pair, rollouts, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 10**4))
    with pytest.raises(StudyError, match=r"the teacher targets need 0\.0 GB but .* set `teacher_targets` to recompute"):
        kept(pair, rollouts, tmp_path)
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
