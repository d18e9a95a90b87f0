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


def test_the_sdpo_loss_is_trls_but_for_the_denominator(tmp_path, theirs, monkeypatch):
    made = trainer(tmp_path, "sdpo", MIXED, 16, top_k=8, config={"max_grad_norm": 1e9})
    start, batch, loss_of = student().model.train(), {}, made.loss_of
    monkeypatch.setattr(made, "loss_of", lambda model, inputs: (batch.update(inputs), loss_of(model, inputs))[1])
    result = outcome(made)
    completion, mask = batch["completion_ids"], batch["completion_mask"]
    shared = {
        **{name: batch[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")},
        # What is not routed has no reprompt; TRL gives such rows their own prompt, and masks them like we do
        "teacher_input_ids": torch.cat([batch["teacher_prompt_ids"], completion], 1),
        "teacher_attention_mask": torch.cat([batch["teacher_prompt_mask"], mask], 1),
    }

    def loss(routed):
        """TRL's: the mean over all 16 rollouts of the means of their tokens, 0 for those without a self-teacher."""
        given = shared | {"self_distillation_mask": routed.float()}
        logits = theirs._compute_teacher_student_logits(start, start, given)
        assert torch.equal(logits.loss_mask != 0, batch["sdpo_mask"] & routed[:, None])
        return theirs._compute_self_distillation_loss(start, given, logits)

    routed, lengths = batch["sdpo"].nonzero().squeeze(1).tolist(), batch["sdpo_mask"].sum(1)
    assert 0 < len(routed) < 16
    assert result["losses"][0] != pytest.approx(loss(batch["sdpo"]).item(), rel=0.1)
    # At the same denominator, theirs is ours: weigh each rollout by its share of the routed tokens instead
    total = sum(loss(torch.arange(16) == i) * 16 * lengths[i] for i in routed) / lengths.sum()
    assert result["losses"][0] == pytest.approx(total.item(), rel=1e-5)
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in start.parameters()])
    assert torch.linalg.norm(result["gradients"][0] - gradient) < 1e-4 * torch.linalg.norm(gradient)


def test_grpo_is_trls_trainer(tmp_path):
    def odd_length(completion_ids, **_):
        return [float(len(ids) % 2) for ids in completion_ids]

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
