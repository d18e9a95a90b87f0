"""TRL's experimental SDPO on the same batch (the same loss and reprompts, another denominator), and TRL's GRPO."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from datasets import Dataset
from fixed_rollouts import ARGUMENTS, MIXED, outcome, params, questions, student, trainer
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from s2d_lib.stages.self_distillation import SelfDistillationTrainer

pytestmark = pytest.mark.slow


@pytest.fixture
def theirs(tmp_path):
    """TRL's experimental trainer at our settings, on the same policy and template."""
    policy = student()
    config = SDPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=16, num_generations=4, max_completion_length=12, report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, distillation_mode="topk_logits", distillation_topk=8,
        distillation_alpha=0.5, distillation_add_tail=True, distillation_is_clip=2.0, distillation_weight=1.0,
        teacher_model_kind="live", reprompt_template="{solution} {prompt}", solution_template="{successful_previous_attempt}",
        success_reward_threshold=1.0, dont_reprompt_on_self_success=True,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": p.prompt} for p in questions(4)])
    return SDPOTrainer(
        model=policy.model, args=config, train_dataset=rows, processing_class=policy.tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
    )  # fmt: skip


def batch_of(made):
    """The first micro-batch with masks and scores, as it reaches the loss."""
    kept = {}
    original = made.loss_of
    made.loss_of = lambda model, inputs: (kept.update(inputs), original(model, inputs))[1]
    result = outcome(made)
    return kept, result


def test_the_sdpo_loss_is_trls_but_for_the_denominator(tmp_path, theirs):
    made = trainer(tmp_path, "sdpo", MIXED, 16, top_k=8, config={"max_grad_norm": 1e9})
    start = student().model.train()
    batch, result = batch_of(made)
    completion, mask = batch["completion_ids"], batch["completion_mask"]
    shared = {
        **{name: batch[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")},
        # What is not routed has no reprompt; TRL gives such rows their own prompt, and masks them like we do
        "teacher_input_ids": torch.cat([batch["teacher_prompt_ids"], completion], 1),
        "teacher_attention_mask": torch.cat([batch["teacher_prompt_mask"], mask], 1),
        "self_distillation_mask": batch["sdpo"].float(),
    }
    logits = theirs._compute_teacher_student_logits(start, start, shared)
    assert torch.equal(logits.loss_mask != 0, batch["sdpo_mask"])
    loss = theirs._compute_self_distillation_loss(start, shared, logits)
    n, lengths = batch["sdpo"].sum(), batch["sdpo_mask"].sum(1)
    # TRL: the mean over all 16 rollouts of the means of their tokens, 0 for those without a self-teacher
    assert 0 < n < 16
    assert result["losses"][0] != pytest.approx(loss.item(), rel=0.1)
    # At the same denominator, theirs is ours: weigh each rollout by its share of the routed tokens instead
    sums = []
    for i in batch["sdpo"].nonzero().squeeze(1).tolist():
        only = shared | {"self_distillation_mask": (torch.arange(16) == i).float()}
        part = theirs._compute_teacher_student_logits(start, start, only)
        sums.append(theirs._compute_self_distillation_loss(start, only, part) * 16 * lengths[i])
    total = sum(sums) / lengths.sum()
    assert result["losses"][0] == pytest.approx(total.item(), rel=1e-5)
    means = [s.item() / lengths[i].item() for s, i in zip(sums, batch["sdpo"].nonzero(), strict=True)]
    assert loss.item() == pytest.approx(sum(means) / 16)
    start.zero_grad()
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in start.parameters()])
    assert torch.linalg.norm(result["gradients"][0] - gradient) < 1e-4 * torch.linalg.norm(gradient)


def odd_length(completion_ids, **_):
    return [float(len(ids) % 2) for ids in completion_ids]


def test_grpo_is_trls_trainer(tmp_path):
    histories, weights = [], []
    for cls in (GRPOTrainer, SelfDistillationTrainer):
        policy = student()
        own = {"max_steps": 4, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "seed": 3}
        config = GRPOConfig(output_dir=str(tmp_path), loss_type="dapo", **ARGUMENTS, **own)
        made = cls(
            model=policy.model,
            reward_funcs=odd_length,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": p.prompt} for p in questions(16)]),
            processing_class=policy.tokenizer,
            **({} if cls is GRPOTrainer else {"params": params("grpo")}),
        )
        made.train()
        histories.append([row for row in made.state.log_history if "loss" in row])
        weights.append(made.model.state_dict())
    assert any(row["loss"] for row in histories[0])
    for theirs, mine in zip(*histories, strict=True):
        for name in theirs:
            if name.startswith("clip_ratio") or "time" in name:  # ratios are 1: each rollout is used once
                continue
            # TRL's entropy is a mean of micro-batches' means, ours of all tokens
            tolerance = 0.05 if name == "entropy" else 1e-5
            assert mine[name] == pytest.approx(theirs[name], rel=tolerance, abs=1e-6), name
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-6, atol=1e-6)
