"""What the trainer of self-distillation can't work with, one sentence each: before training, and of sampled rollouts."""

from collections.abc import Callable, Sequence

from datasets import Dataset
from torch import Tensor

from s2d_lib.errors import StudyError
from s2d_lib.stages.reprompt import Reprompts
from s2d_lib.study.stage_params import SELF_TAUGHT, SelfDistillation


def refuse_what_says_too_little(
    params: SelfDistillation, rewards: Sequence[Callable], reprompts: Reprompts | None, rows: Dataset
) -> None:
    """Whether it is said who is correct and what a self-teacher is shown.

    Raises:
        StudyError: It is not.
    """
    if params.threshold is None and not all(getattr(function, "binary", False) for function in rewards):
        raise StudyError(
            "nothing says which rewards are those of correct rollouts: set the stage's `threshold`, or give a reward function "
            "that knows only 0 and 1 the attribute `binary = True`."
        )
    if params.method not in SELF_TAUGHT:
        return
    if reprompts is None:
        raise StudyError(f"method {params.method} has a self-teacher, which needs `reprompts`.")
    if "question" not in (rows.column_names or ()):
        raise StudyError("a self-teacher's reprompt needs the problem's text: give the rows a column `question`.")


def refuse_split_groups(steps_per_generation: int, accumulation: int) -> None:
    """Whether rollouts are sampled for whole optimiser steps.

    Raises:
        StudyError: They are not.
    """
    if steps_per_generation % accumulation:
        raise StudyError(
            f"rollouts are sampled for {steps_per_generation} micro-batches but an optimiser step has {accumulation}: "
            "steps_per_generation must be a multiple of it, so that a group's rollouts know of each other."
        )


def refuse_mixed_groups(prompts: Sequence[str], size: int) -> None:
    """Whether each group has one prompt; a sampler of one's own may not hand on groups whole.

    Raises:
        StudyError: Siblings would answer different questions.
    """
    if any(len(set(prompts[first : first + size])) > 1 for first in range(0, len(prompts), size)):
        raise StudyError(
            f"rollouts of different prompts stand in one group of {size}: the sampler must hand on a prompt's rollouts one "
            "after the other."
        )


def refuse_unscored(rewards: Tensor) -> None:
    """Whether some function has scored each rollout; `rewards` (N, functions) has NaN where one has not.

    Raises:
        StudyError: None has.
    """
    if (unscored := rewards.isnan().all(1)).any():
        raise StudyError(
            f"{int(unscored.sum())} of {len(rewards)} rollouts were scored by no reward function: give every problem one that "
            "does."
        )


def refuse_unclear(rewards: Tensor, threshold: float | None) -> None:
    """Whether a threshold, or the rewards (N,) themselves, say who is correct.

    Raises:
        StudyError: They don't.
    """
    odd = rewards[(rewards != 0) & (rewards != 1)]
    if threshold is None and len(odd):
        raise StudyError(
            f"a reward is {odd[0].item():g}, neither 0 nor 1, so nothing says which rollouts are correct: set the stage's "
            "`threshold`."
        )
