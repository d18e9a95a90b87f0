"""TRL 1.16's GRPO and experimental SDPO on the same tensors: where ours equals it, and where it is meant to differ."""

import inspect
import os
from collections import defaultdict
from types import SimpleNamespace

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from trl import GRPOTrainer
from trl.experimental.sdpo import SDPOTrainer, loss_utils
from trl.experimental.sdpo.sdpo_trainer import DistillationLogits
from trl.trainer.utils import nanstd

from s2d_lib.losses import (
    clamped_ratio,
    clipped_policy_loss,
    group_advantages,
    routed_masks,
    sampled_token_reverse_kl,
    self_distillation,
    srpo_objective,
)

SHAPE = 4, 5  # rollouts, tokens


def tensors(vocab=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(*SHAPE, vocab, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
    tokens = torch.randint(vocab, SHAPE, generator=generator)
    mask = torch.arange(SHAPE[1]) < torch.tensor([5, 2, 4, 1])[:, None]
    drift = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher, tokens, mask, drift


def ours(student, teacher, **options):
    """Logits are hidden states under a head that is the identity."""
    head = torch.eye(student.shape[-1], dtype=student.dtype)
    return self_distillation(student, head, teacher, head, **options)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("top_k", [4, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_divergences_and_their_gradients(alpha, top_k, temperature):
    student, teacher, _, _, drift = tensors()
    if top_k is None:
        theirs = loss_utils.compute_full_logit_self_distillation_loss(
            student / temperature, teacher / temperature, distillation_alpha=alpha
        )
    else:
        theirs = loss_utils.compute_topk_self_distillation_loss(
            student / temperature,
            teacher / temperature,
            distillation_topk=top_k,
            distillation_alpha=alpha,
            distillation_add_tail=True,
        )
    weights = drift.abs()
    out = ours(student, teacher, beta=alpha, temperature=temperature, top_k=top_k, weights=weights, normalizer=1)
    torch.testing.assert_close(out.per_token, theirs.detach())
    mine, expected = (torch.autograd.grad(x, student)[0] for x in (out.loss, (theirs * weights).sum()))
    torch.testing.assert_close(mine, expected)


def test_sampled_token_has_the_same_gradient_and_a_more_telling_value():
    student, teacher, tokens, _, _ = tensors()
    theirs = loss_utils.compute_sampled_token_self_distillation_loss(student, teacher, tokens, distillation_alpha=1.0)
    head = torch.eye(30, dtype=torch.float64)
    out = sampled_token_reverse_kl(student, head, teacher, head, tokens=tokens, normalizer=1)
    mine, expected = (torch.autograd.grad(x, student)[0] for x in (out.loss, theirs.sum()))
    torch.testing.assert_close(mine, expected)
    log_p, log_q = (x.detach().log_softmax(-1).gather(-1, tokens[..., None])[..., 0] for x in (student, teacher))
    torch.testing.assert_close(out.per_token, log_p - log_q)  # a divergence's estimate; TRL's has no such meaning
    torch.testing.assert_close(theirs.detach(), (log_p - log_q) * log_p)


def test_importance_ratio():
    student, teacher, tokens, _, drift = tensors()
    log_p = student.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    sampled = log_p.detach() - 3 * drift
    sampled[0, 0], sampled[0, 1] = -1e4, 1e4
    per_token = loss_utils.compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=0.5)
    theirs = loss_utils.apply_importance_sampling_clipping(per_token, log_p, sampled, 2.0)
    out = ours(student, teacher, top_k=None, weights=clamped_ratio(log_p, sampled), normalizer=1)
    assert out.loss.item() == pytest.approx(theirs.sum().item(), rel=1e-12)
    mine, expected = (torch.autograd.grad(x, student)[0] for x in (out.loss, theirs.sum()))
    torch.testing.assert_close(mine, expected)


def sdpo_loss(student, teacher, tokens, loss_mask):
    """What TRL's trainer makes of these logits, for full-vocabulary JSD without an importance ratio."""
    trainer = SimpleNamespace(
        args=SimpleNamespace(distillation_mode="full_logits", distillation_alpha=0.5, distillation_is_clip=2.0),
        accelerator=SimpleNamespace(gather=lambda x: x),
        _log_self_distillation_metric=lambda mode, value: None,
    )
    logits = DistillationLogits(tokens, None, loss_mask, student, teacher)
    return SDPOTrainer._compute_self_distillation_loss(trainer, SimpleNamespace(training=True), {}, logits)


def test_the_denominator_differs_on_purpose():
    student, teacher, tokens, mask, _ = tensors()
    nobody, everybody = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    half = torch.tensor([True, False, True, False])

    def both(sdpo):
        _, sdpo_mask = routed_masks(nobody, sdpo, mask)
        out = ours(student, teacher, top_k=None, mask=sdpo_mask, normalizer=1)
        mine = srpo_objective(torch.zeros(SHAPE), nobody[:, None].expand(SHAPE), out.loss, sdpo_mask.sum())
        return mine.item(), sdpo_loss(student, teacher, tokens, mask * sdpo[:, None]).item(), out

    mine, theirs, out = both(half)
    sums, lengths = out.per_token.sum(1), mask.sum(1)
    # Ours: the mean over the tokens that have a self-teacher. TRL's: means of rollouts, averaged over all rollouts,
    # so that those without a self-teacher halve the loss here
    assert mine == pytest.approx((sums[half].sum() / lengths[half].sum()).item())
    of_rollouts = sums / lengths
    assert theirs == pytest.approx((of_rollouts[half].sum() / 4).item())
    assert theirs == pytest.approx(of_rollouts[half].mean().item() / 2)
    # With a self-teacher for everybody and equal lengths nothing is left of the difference
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mine, theirs, _ = both(everybody)
    assert mine == pytest.approx(theirs)


@pytest.mark.parametrize("off_policy", [False, True])
def test_grpo_is_trls_dapo_over_two_micro_batches(off_policy):
    student, _, tokens, mask, drift = tensors()
    advantages = torch.tensor([1.5, -0.5, 0.0, -1.0], dtype=torch.float64)
    log_p = student.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    sampled = log_p.detach() + 0.5 * drift if off_policy else None
    mine, theirs = 0.0, 0.0
    for part in (slice(0, 1), slice(1, 4)):
        old = None if sampled is None else sampled[part]
        loss = clipped_policy_loss(log_p[part], advantages[part], old)
        mine = mine + srpo_objective(loss, mask[part], 0.0, mask.sum())
        theirs = theirs + grpo_loss(log_p[part], advantages[part], old, tokens[part], mask[part], mask.sum())
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-12)
    one, other = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (mine, theirs))
    torch.testing.assert_close(one, other)


def grpo_loss(log_p, advantages, old, tokens, mask, items):
    """What TRL's trainer makes of a micro-batch, one of two of an optimiser step."""
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_p, torch.zeros_like(log_p), None),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        args=SimpleNamespace(delta=None, steps_per_generation=2),
        model=SimpleNamespace(training=True),
        loss_type="dapo",
        epsilon_low=0.2,
        epsilon_high=0.28,
        beta=0.0,
        top_entropy_quantile=1.0,
        importance_sampling_level="token",
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        use_vllm=False,
        current_gradient_accumulation_steps=2,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    inputs = {"prompt_ids": tokens, "prompt_mask": mask, "completion_ids": tokens, "completion_mask": mask}
    inputs |= {"advantages": advantages, "old_per_token_logps": old, "num_items_in_batch": items}
    return GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages(scale):
    rewards = torch.tensor([0.0, 1, 1, 0, 0, 0, 1, 1, 1, 0.3, 2, -1])
    # TRL's lines, which are not a function of their own; that they are still there is looked at, too
    mean = torch.nanmean(rewards.view(-1, 3), dim=1).repeat_interleave(3)
    spread = nanstd(rewards.view(-1, 3), dim=1).repeat_interleave(3) if scale == "group" else nanstd(rewards)
    expected = rewards - mean
    if scale != "none":
        expected = expected / (spread + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, 3, scale), expected)
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "mean_grouped_rewards = torch.nanmean(rewards.view(-1, num_generations), dim=1)" in source
    assert "std_rewards = nanstd(rewards.view(-1, num_generations), dim=1)" in source
    assert "std_rewards = nanstd(rewards).expand_as(rewards)" in source
    assert "advantages = advantages / (std_rewards + 1e-4)" in source
