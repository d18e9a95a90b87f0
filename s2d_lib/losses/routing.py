"""Which rollout learns from what: SRPO's sample routing (arXiv 2604.02288), and SDPO, GRPO and their mixture as cases.

Rollouts of one prompt stand beside each other, as TRL samples them: N rollouts are N / G groups of G. With c_i = 1 for
a correct rollout and m_i = 1 where its self-teacher would know something (a correct sibling, or feedback),

    SRPO   z_sdpo = (1 - c) m,    z_grpo = 1 - z_sdpo

so correct rollouts, and wrong ones of groups without any correct one, stay with GRPO. A sibling may be on another
process: route the rewards of the whole generation batch, then take each process's part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from s2d_lib.losses.inputs import check

METHODS = ("grpo", "sdpo", "srpo", "advantage_mix")
SDPO_ON = ("all", "failed", "correct")


class Routes(NamedTuple):
    """What becomes of each rollout; all (N,), bool but for `sibling`.

    `correct`: c, its reward says so.
    `sibling`: int64, index of the correct rollout of its group that its self-teacher is shown, never itself; or -1.
    `available`: m, there is a sibling or feedback.
    `sdpo`: z_sdpo, its tokens carry the self-distillation loss.
    `grpo`: z_grpo, its tokens carry the policy-gradient loss.
    `scored`: the self-teacher has to re-score it: for its loss, or for the advantage that is mixed in.
    """

    correct: Tensor
    sibling: Tensor
    available: Tensor
    sdpo: Tensor
    grpo: Tensor
    scored: Tensor


def route(
    rewards: Tensor,
    group_size: int | None = None,
    *,
    group_ids: Tensor | None = None,
    threshold: float | None = None,
    feedback: Tensor | None = None,
    method: str = "srpo",
    sdpo_on: str = "all",
) -> Routes:
    """Route each rollout to GRPO, to SDPO, or to neither (which only `method="sdpo"` does).

    | method          | `grpo`      | `sdpo`                   | `scored`    |
    |-----------------|-------------|--------------------------|-------------|
    | "grpo"          | all         | none                     | none        |
    | "sdpo"          | none        | m (and c, or not c)      | as `sdpo`   |
    | "srpo"          | all others  | (1 - c) m                | as `sdpo`   |
    | "advantage_mix" | all         | none                     | m           |

    Advantage Mix has no loss of its own: the self-teacher enters GRPO's advantages (see `mixed_advantages`).

    Args:
        rewards: (N,), groups one after the other.
        group_size: G, rollouts of one prompt; not needed beside `group_ids`.
        group_ids: (N,), the same number for all rollouts of one prompt and no others; checked, and G read from it.
        threshold: a rollout is correct from this reward on. Not needed for rewards that are all 0 or 1.
        feedback: (N,), bool: the environment said something about this rollout.
        method: see above.
        sdpo_on: for "sdpo", which of the rollouts with a self-teacher learn: "all", or SRPO's controls (its Figure 1b)
            "failed" and "correct".

    Returns:
        `Routes`, on the rewards' device.

    Raises:
        ValueError: rewards other than 0 and 1 without a threshold, or not finite; groups of 1, split, or of different
            sizes; a length that is no multiple of the group size; an unknown `method` or `sdpo_on`.

    """
    check(method in METHODS, f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    check(sdpo_on in SDPO_ON, f"sdpo_on must be one of {', '.join(SDPO_ON)}, got {sdpo_on!r}.")
    check(
        sdpo_on == "all" or method == "sdpo", f"sdpo_on={sdpo_on!r} is a control of SDPO: method {method!r} has none."
    )
    size = checked_group_size(rewards, group_size, group_ids)
    correct = _correct(rewards, threshold)
    sibling = next_correct(correct, size)
    available = sibling >= 0
    if feedback is not None:
        same = feedback.shape == rewards.shape
        check(same, f"feedback must have the rewards' shape {tuple(rewards.shape)}, got {tuple(feedback.shape)}.")
        available = available | (feedback != 0)
    nobody = torch.zeros_like(correct)
    if method == "sdpo":
        sdpo = available & {"all": ~nobody, "failed": ~correct, "correct": correct}[sdpo_on]
        return Routes(correct, sibling, available, sdpo, nobody, sdpo)
    if method == "srpo":
        sdpo = available & ~correct
        return Routes(correct, sibling, available, sdpo, ~sdpo, sdpo)
    return Routes(correct, sibling, available, nobody, ~nobody, available if method == "advantage_mix" else nobody)


def next_correct(correct: Tensor, group_size: int) -> Tensor:
    """For each rollout the next correct one of its group, going round from the last to the first; -1 without another.

    The rule is this project's: the papers don't state one known here, and TRL 1.16's SDPO always takes the first
    correct one. Going round shows different solutions to the self-teachers of one group, and needs no random numbers.

    Args:
        correct: (N,), bool, groups of `group_size` one after the other.
        group_size: G.

    Returns:
        (N,), int64.

    """
    index = torch.arange(correct.shape[0], device=correct.device)[:, None]
    place = index % group_size
    step = torch.arange(1, group_size, device=correct.device)
    others = index - place + (place + step) % group_size  # (N, G - 1), the nearest one first
    found = correct[others]
    nearest = others.gather(-1, found.int().argmax(-1, keepdim=True)).squeeze(-1)
    return torch.where(found.any(-1), nearest, -1)


def checked_group_size(rewards: Tensor, group_size: int | None, group_ids: Tensor | None = None) -> int:
    """The group size, after a look at whether rewards (N,) are finite and fall into whole groups of it.

    Raises:
        ValueError: see `route`.

    """
    check(rewards.dim() == 1 and len(rewards) > 0, f"rewards must have shape (N,), got {tuple(rewards.shape)}.")
    check(bool(rewards.isfinite().all()), "rewards must be finite: leave out rollouts that could not be graded.")
    if group_ids is not None:
        group_size = _size_of(group_ids, rewards, group_size)
    check(group_size is not None, "say which rollouts belong together: pass group_size or group_ids.")
    good = isinstance(group_size, int) and group_size >= 2
    check(good, f"a group needs 2 rollouts or more to be compared, got a group size of {group_size!r}.")
    n = len(rewards)
    check(n % group_size == 0, f"{n} rollouts are not whole groups of {group_size}.")
    return group_size


def _size_of(group_ids: Tensor, rewards: Tensor, group_size: int | None) -> int:
    same = group_ids.shape == rewards.shape
    check(same, f"group_ids must have the rewards' shape {tuple(rewards.shape)}, got {tuple(group_ids.shape)}.")
    ids, sizes = group_ids.unique_consecutive(return_counts=True)
    check(len(ids.unique()) == len(ids), "the rollouts of a group must stand beside each other, but a group is split.")
    sizes = sizes.tolist()
    check(len(set(sizes)) == 1, f"groups must have one size, got from {min(sizes)} to {max(sizes)} rollouts.")
    check(group_size in (None, sizes[0]), f"group_ids make groups of {sizes[0]}, but group_size is {group_size}.")
    return sizes[0]


def _correct(rewards: Tensor, threshold: float | None) -> Tensor:
    if threshold is not None:
        return rewards >= threshold
    binary = bool(((rewards == 0) | (rewards == 1)).all())
    check(binary, "rewards other than 0 and 1 do not say who is correct: pass a threshold.")
    return rewards == 1
