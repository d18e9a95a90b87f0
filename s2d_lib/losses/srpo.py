r"""SRPO (arXiv 2604.02288): right answers learn by GRPO, wrong ones from a self-teacher that has seen a right one.

SDPO (arXiv 2601.20802), GRPO and Advantage Mix are cases of it. Rollouts of one prompt stand beside each other, as TRL
samples them: N rollouts are N / G groups of G. With c = 1 for a correct rollout and m = 1 where its self-teacher would
know something (a correct sibling, or feedback), y_t the token sampled at step t, p the student's distribution there and p_0
when it sampled, q the self-teacher's and H its entropy (nats), all at the rollout temperature, a step is:

    route                z_sdpo = (1 - c) m,    z_grpo = 1 - z_sdpo
    entropy_weights      w~ = exp(-beta H),     w = w~ / mean(w~)
    clipped_policy_loss  l_grpo = -min(r A, clip(r, 1 - low, 1 + high) A),    r = p(y_t) / p_0(y_t)
    mixed_advantages     A_t = mix A + (1 - mix) (log q(y_t) - log p_0(y_t))      (Advantage Mix alone)
    self_distillation    l_sdpo = w min(r, 2) D(p, q)
    srpo_objective       (sum of l_grpo where z_grpo + sum of l_sdpo where z_sdpo) / routed valid tokens

The weights' mean and the denominator are those of the whole optimiser batch, all micro-batches and processes: a mean per
micro-batch would let a token of a short one weigh more than one of a long one, and a mean per rollout that includes those
without a loss, as TRL 1.16's SDPOTrainer takes, would shrink the loss by their share.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from s2d_lib.losses.divergence import Pair, TokenLoss, linear_divergence
from s2d_lib.losses.head import check
from s2d_lib.losses.sampled import topk_tail_divergence


class Routes(NamedTuple):
    """What becomes of each rollout; all (N,), bool but for `sibling`."""

    correct: Tensor  # c, its reward says so
    sibling: Tensor  # int64, which correct rollout of its group its self-teacher is shown, never itself; or -1
    sdpo: Tensor  # z_sdpo, its tokens carry the self-distillation loss
    grpo: Tensor  # z_grpo, its tokens carry the policy-gradient loss
    scored: Tensor  # the self-teacher has to re-score it: for its loss, or for the advantage that is mixed in


def route(
    rewards: Tensor,
    group_size: int,
    *,
    threshold: float | None = None,
    feedback: Tensor | None = None,
    method: str = "srpo",
    sdpo_on: str = "all",
) -> Routes:
    """Route each rollout to GRPO, to SDPO, or to neither (which only `method="sdpo"` does).

    =============  ==========  ===================  =========
    method         `grpo`      `sdpo`               `scored`
    =============  ==========  ===================  =========
    grpo           all         none                 none
    sdpo           none        m (and c, or not c)  as `sdpo`
    srpo           all others  (1 - c) m            as `sdpo`
    advantage_mix  all         none                 m
    =============  ==========  ===================  =========

    Args:
        rewards: (N,), of the whole generation batch, since a sibling may be on another process.
        threshold: A rollout is correct from this reward on. Not needed for rewards that are all 0 or 1.
        feedback: (N,), bool: the environment said something about this rollout.
        sdpo_on: Which rollouts learn by "sdpo": "all", or SRPO's controls (its Figure 1b) "failed" and "correct".

    Raises:
        ValueError: Rewards other than 0 and 1 without a threshold, or not finite; no whole groups of 2 or more.
    """
    n, binary = len(rewards), bool(((rewards == 0) | (rewards == 1)).all())
    check(bool(rewards.isfinite().all()), "rewards must be finite: leave out rollouts that could not be graded.")
    check(threshold is not None or binary, "rewards other than 0 and 1 do not say who is correct: pass a threshold.")
    check(group_size >= 2, f"a group needs 2 rollouts or more to be compared, got a group size of {group_size}.")
    check(n > 0 and n % group_size == 0, f"{n} rollouts are not whole groups of {group_size}.")
    correct = rewards == 1 if threshold is None else rewards >= threshold
    sibling = next_correct(correct, group_size)
    available = sibling >= 0 if feedback is None else (sibling >= 0) | (feedback != 0)
    nobody = torch.zeros_like(correct)
    chosen = {"all": ~nobody, "failed": ~correct, "correct": correct}[sdpo_on]
    sdpo = {"sdpo": available & chosen, "srpo": available & ~correct, "grpo": nobody, "advantage_mix": nobody}[method]
    grpo = nobody if method == "sdpo" else ~sdpo
    return Routes(correct, sibling, sdpo, grpo, scored=available if method == "advantage_mix" else sdpo)


def next_correct(correct: Tensor, group_size: int) -> Tensor:
    """For each of N rollouts the next correct one of its group, going round from the last to the first; -1 without another.

    The rule is this project's: the papers don't state one known here, and TRL 1.16's SDPO always takes the first
    correct one. Going round shows different solutions to the self-teachers of one group, and needs no random numbers.
    """
    index = torch.arange(len(correct), device=correct.device)[:, None]
    place = index % group_size
    step = torch.arange(1, group_size, device=correct.device)
    others = index - place + (place + step) % group_size  # (N, G - 1), the nearest one first
    found = correct[others]
    nearest = others.gather(-1, found.int().argmax(-1, keepdim=True)).squeeze(-1)
    return torch.where(found.any(-1), nearest, -1)


class WeightSums(NamedTuple):
    """Sums over some SDPO tokens: scalars; or (P,), as gathered from P processes, to be merged."""

    log_total: Tensor  # of exp(-beta H), fp64, as a logarithm: all may underflow, though their shares are well defined
    count: Tensor  # int64


@torch.no_grad()
def weight_sums(entropy: Tensor, beta: float = 1.0) -> WeightSums:
    """Sums of the unnormalised weights of SDPO tokens with the self-teacher's entropies (...); `beta` per nat, 0 or more."""
    log_total = (-beta * entropy.double()).reshape(-1).logsumexp(0)
    return WeightSums(log_total, torch.tensor(entropy.numel(), device=entropy.device))


@torch.no_grad()
def merge_weight_sums(parts: Iterable[WeightSums]) -> WeightSums:
    """One `WeightSums` of all tokens from those of micro-batches, or of processes (gathered, as scalars or vectors)."""
    log_totals, counts = (torch.cat([value.reshape(-1) for value in column]) for column in zip(*parts, strict=True))
    return WeightSums(log_totals.logsumexp(0), counts.sum())


@torch.no_grad()
def entropy_weights(entropy: Tensor, sums: WeightSums, beta: float = 1.0) -> Tensor:
    """Weights (...) of SDPO tokens: where the self-teacher is unsure, its word counts less.

    They average 1 over all tokens behind `sums`, which are the whole optimiser batch's, these tokens' included, made with
    the same `beta`. With `beta` 0 they are exactly 1.

    Raises:
        ValueError: Sums of fewer tokens than these.
    """
    here, there = entropy.numel(), int(sums.count)
    check(here <= there, f"sums of {there} tokens can't weigh {here}: sum up the whole optimiser batch first.")
    if beta == 0:
        return torch.ones_like(entropy)
    shift = math.log(max(there, 1)) - sums.log_total.to(entropy.device)
    return (-beta * entropy.double() + shift).exp().to(entropy.dtype)


@torch.no_grad()
def mixed_advantages(
    advantages: Tensor, teacher_log_probs: Tensor, sampled_log_probs: Tensor, scored: Tensor, mix: float = 0.9
) -> Tensor:
    """Advantage Mix, SRPO's rival: advantages of tokens (B, T), GRPO's (B,) mixed with the self-teacher's opinion.

    Known (arXiv 2604.02288): `mix A_grpo + (1 - mix) A_sdpo`, mix = 0.9. Not known here, and so this project's reading: A_sdpo
    of a token is the self-teacher's log-ratio, neither normalised nor clamped, so that `scale_rewards` of A_grpo decides how
    much 0.9 to 0.1 is. For tokens drawn from the student it makes the policy gradient that of the reverse KL(p || q), as
    `sampled_token_reverse_kl`. Where the self-teacher has not `scored` (B, T), A_sdpo is 0 and `mix A_grpo` is kept, as the
    formula reads: a group's only correct rollout is scaled like the failed ones that it is compared with.
    """
    opinion = torch.where(scored, teacher_log_probs - sampled_log_probs, 0.0)
    return mix * advantages[:, None] + (1 - mix) * opinion


def clipped_policy_loss(
    log_probs: Tensor, advantages: Tensor, sampled_log_probs: Tensor, clip_low: float = 0.2, clip_high: float = 0.28
) -> Tensor:
    """GRPO's loss (B, T) of each token, as TRL 1.16's `GRPOTrainer._compute_loss` without its denominators.

    From log p and log p_0 (B, T) of the sampled tokens, and advantages (B,), or (B, T) where tokens differ; the gradient flows
    to log p alone. The limits are those of SRPO's baseline, the high one DAPO's.

    Raises:
        ValueError: Shapes that do not fit together.
    """
    shape = log_probs.shape
    fits = log_probs.dim() == 2 and sampled_log_probs.shape == shape and advantages.shape in (shape, shape[:1])
    check(fits, f"log-probabilities must be (B, T) and advantages (B,) or (B, T), got {shape} and {advantages.shape}.")
    advantages = advantages.detach().reshape(*advantages.shape, *(1,) * (2 - advantages.dim()))
    ratio = (log_probs - sampled_log_probs.detach()).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.min(ratio * advantages, clipped * advantages)


def clamped_ratio(log_probs: Tensor, sampled_log_probs: Tensor, clamp: float = 2.0) -> Tensor:
    """SDPO's importance ratio (n,) of sampled tokens from log p and log p_0; no gradient flows through it.

    As in TRL 1.16 (`apply_importance_sampling_clipping`) the difference is limited to +-20 before it is exponentiated, and
    the ratio clamped from above only: it scales a token's divergence, it does not switch it off.
    """
    gap = (log_probs - sampled_log_probs).detach().clamp(min=-20.0, max=20.0)
    return gap.exp().clamp(max=clamp)


def self_distillation(pair: Pair, beta: float = 0.5, top_k: int | None = 100) -> TokenLoss:
    """SDPO's divergence of student and self-teacher, with its known defaults: JSD over the student's top 100 and a tail.

    The self-teacher is the same model, shown a correct sibling's solution or feedback, re-scoring the student's tokens. The
    pair's weights are `clamped_ratio`, times `entropy_weights` for SRPO, and its normalizer 1, as `srpo_objective` divides
    itself. `beta` is SDPO's and TRL's alpha (TRL 1.16, `sdpo.loss_utils.compute_divergence`), whose tail never falls under
    1e-7; here it is exact. `top_k` None takes the whole vocabulary, which is also the cheaper one here.
    """
    return linear_divergence(pair, beta) if top_k is None else topk_tail_divergence(pair, beta, top_k=top_k)


def srpo_objective(
    policy_loss: Tensor, grpo_mask: Tensor, sdpo_sum: Tensor | float, denominator: float, processes: int = 1
) -> Tensor:
    """One micro-batch's part of the objective, a scalar: the parts of an optimiser batch add up to it, and so do gradients.

    Backpropagate it as it is: no division by the number of micro-batches.

    Args:
        policy_loss: (B, T), `clipped_policy_loss`.
        grpo_mask: (B, T), bool: the GRPO-routed valid tokens.
        sdpo_sum: Loss of `self_distillation` over the SDPO-routed valid tokens here; 0 if there are none.
        denominator: Routed valid tokens of the whole optimiser batch, all micro-batches and processes; 0 counts as 1.
        processes: Over which data-parallel training averages gradients (DDP, FSDP): the mean is made a sum again.
    """
    check(policy_loss.shape == grpo_mask.shape, "policy_loss and grpo_mask must have the same shape.")
    total = torch.where(grpo_mask, policy_loss, 0.0).sum() + sdpo_sum
    return total / (max(denominator, 1) / processes)
