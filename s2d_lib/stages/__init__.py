"""Stages: parents and parameters in, a trained policy in a run folder out."""

import gc
from dataclasses import dataclass, field

import torch
from transformers import TrainerCallback

from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problems
from s2d_lib.sampling import Rollout


@dataclass
class Inputs:
    """Everything a stage works with.

    Attributes:
        policy: The model that is trained or evaluated; of a finished run, the result.
        problems: Label pool and evaluation sets.
        teacher: The model that supplies dense targets or rollouts, where the stage has one.
        rollouts: Stored teacher rollouts, or an outside model's traces, where the stage trains on them.
        callbacks: What else watches the training.
        half_trained: Whether a training of the policy was interrupted: what it has become is nobody's start.
    """

    policy: Policy
    problems: Problems
    teacher: Policy | None = None
    rollouts: list[Rollout] | None = None
    callbacks: list[TrainerCallback] = field(default_factory=list)
    half_trained: bool = False

    def drop_training(self) -> None:
        """Free what only training needed, before an evaluation whose engine may want the memory: the teacher, the gradients,
        and a trainer that has ended, whose optimiser lives in cycles of references until they are collected."""
        self.teacher, self.callbacks = None, []
        self.policy.model.zero_grad(set_to_none=True)
        _hand_back()

    def leave_gpus(self) -> None:
        """Put the models into the machine's memory, while other processes want the GPUs'."""
        for policy in filter(None, (self.policy, self.teacher)):
            policy.model.to("cpu")
        _hand_back()


def _hand_back() -> None:
    """To the GPUs, what nothing refers to any more: torch would keep it for this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
