"""The thin subclass of TRL's DistillationTrainer: same loss as TRL's on the same batch, and its hooks still called."""

import copy

import pytest
import torch
from datasets import Dataset
from trl import DistillationConfig, DistillationTrainer

from s2d_lib.losses import estimator
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.stages import states as of_parts
from s2d_lib.stages.common import schedule, scheduled
from s2d_lib.stages.dense import DenseTrainer
from s2d_lib.study import resolve

pytestmark = pytest.mark.slow


@pytest.fixture
def pair():
    """Student, teacher and some problems."""
    resolved = {name: resolve("micro-full", name, 0) for name in ("student", "teacher")}
    problems = load_problems(resolve("micro-full", "student.grpo", 0).problems).pool[:8]
    return *(load_policy(r.model, r.hardware) for r in resolved.values()), problems


def trainer(pair, tmp_path, cls=DenseTrainer, rows=None, beta=1.0, steps=1, **extra):
    """A trainer of the class, on the problems' prompts or the given rows."""
    student, teacher, problems = pair
    rows = rows or [{"prompt": p.prompt} for p in problems]
    config = DistillationConfig(
        output_dir=str(tmp_path), beta=beta, max_steps=steps, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        max_completion_length=12, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
        logging_steps=1, shuffle_dataset=False,
    )  # fmt: skip
    return cls(
        model=copy.deepcopy(student.model),
        teacher_model=teacher.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        **extra,
    )


@pytest.mark.parametrize("rows", [64, 3])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_loss_and_gradients_are_trls_on_the_same_batch(pair, tmp_path, monkeypatch, beta, rows):
    monkeypatch.setattr(of_parts, "ROWS", rows)
    ours = trainer(pair, tmp_path, beta=beta, divergence=estimator("full", beta=beta))
    theirs = trainer(pair, tmp_path, DistillationTrainer, beta=beta)
    torch.manual_seed(0)
    batch = ours._generate_and_score_completions([{"prompt": p.prompt} for p in pair[2]])
    values = []
    for one in (ours, theirs):
        loss, entropy, tokens = one._compute_loss(one.model, batch, batch["num_items_in_batch"])
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in one.model.parameters()])
        values.append((loss.item(), entropy.item(), tokens.item(), gradient))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-5)
    # TRL does not mask entropies of padding on CPU before its sum; the counts agree
    assert values[0][2] == values[1][2]
    assert torch.linalg.norm(values[0][3] - values[1][3]) <= 1e-4 * torch.linalg.norm(values[1][3])


def test_stored_completions_are_trained_on_as_they_are(pair, tmp_path, monkeypatch):
    student, _, problems = pair
    stored = [student.tokenizer(p.prompt.replace("?", "#") + " <eos>")["input_ids"] for p in problems]
    rows = [{"prompt": p.prompt, "completion_ids": ids} for p, ids in zip(problems, stored, strict=True)]
    one = trainer(pair, tmp_path, rows=rows, divergence=estimator("full", beta=0.0), beta=0.0)
    monkeypatch.setattr(one.model, "generate", lambda *a, **k: pytest.fail("sampled although completions were given"))
    seen = []
    original = one._compute_loss

    def watch(model, inputs, n):
        seen.extend(
            row[mask.bool()].tolist()
            for row, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
        )
        return original(model, inputs, n)

    monkeypatch.setattr(one, "_compute_loss", watch)
    one.train()
    assert sorted(seen) == sorted(stored)


def test_every_overridden_hook_is_still_called_by_trl(pair, tmp_path, monkeypatch):
    one = trainer(pair, tmp_path, divergence=estimator("full", beta=1.0))
    hooks = {name for name in vars(DenseTrainer) if name.startswith("_") and not name.startswith("__")}
    assert hooks <= set(vars(DistillationTrainer))
    called = set()
    for name in hooks:
        original = getattr(one, name)
        monkeypatch.setattr(one, name, lambda *a, _n=name, _o=original, **k: (called.add(_n), _o(*a, **k))[1])
    one.train()
    assert called == hooks


@pytest.mark.parametrize(("name", "options"), [("full", {}), ("topk_tail", {"top_k": 8}), ("sampled_token", {})])
def test_every_estimator_trains_towards_the_teacher(pair, tmp_path, name, options):
    rows = [{"prompt": pair[2][i].prompt} for i in schedule(len(pair[2]), 8, 3, seed=0)]
    one = trainer(pair, tmp_path, rows=rows, steps=3, divergence=estimator(name, beta=1.0, **options))
    before = [p.clone() for p in one.model.parameters()]
    one.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, one.model.parameters(), strict=True))
    assert all(torch.isfinite(p).all() for p in one.model.parameters())
    assert all(0 <= row["argmax_agreement"] <= 1 for row in one.state.log_history if "loss" in row)


def test_schedule_uses_every_item_equally_often_before_any_again():
    order = schedule(5, 3, 5, seed=1)
    assert len(order) == 15
    assert sorted(order[:5]) == sorted(order[5:10]) == sorted(order[10:]) == list(range(5))
    assert order == schedule(5, 3, 5, seed=1) != schedule(5, 3, 5, seed=2)


def test_steps_over_many_epochs_hold_one_pass_of_rows():
    rows = [{"completion_ids": [i] * 9} for i in range(5)]
    laid_out = scheduled(rows, 5, 200, seed=1)
    assert laid_out[:15]["completion_ids"] == [rows[i]["completion_ids"] for i in schedule(5, 5, 200, seed=1)[:15]]
    assert (len(laid_out), laid_out.data.num_rows) == (1000, 5)
