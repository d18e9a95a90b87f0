"""The self-teacher: the policy's own weights, a moving average of them, that re-score what the policy has said."""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from s2d_lib.losses import token_log_probs
from s2d_lib.policies.adapters import plain
from s2d_lib.stages.heads import head_arguments

FILE = "self_teacher.safetensors"


class Scores(NamedTuple):
    """What a self-teacher says of n tokens: last `hidden` states (n, H), `log_probs` (n,) and `entropy` (n,) in nats."""

    hidden: Tensor
    log_probs: Tensor
    entropy: Tensor


class SelfTeacher:
    """A frozen copy of a policy's weights that follows it: theta_T <- (1 - rate) theta_T + rate theta.

    Rate 0 keeps the copy as it was, rate 1 makes it the policy itself. Every process has a whole copy, so the policy must
    not be sharded. Buffers are not averaged: language models keep none that training changes. Weights that are not trained
    (all but the adapters, under LoRA) are the policy's own, held once.
    """

    def __init__(self, policy: PreTrainedModel, rate: float):
        policy = plain(policy)
        shared = {id(weights): weights for weights in policy.parameters() if not weights.requires_grad}
        self.model = copy.deepcopy(policy, shared).requires_grad_(False).eval()
        self.trained = [name for name, weights in policy.named_parameters() if weights.requires_grad]
        self.rate = rate

    @torch.no_grad()
    def follow(self, policy: PreTrainedModel) -> None:
        """Take a step towards the policy's weights."""
        mine, theirs = self._weights(self.model), self._weights(plain(policy))
        for name in self.trained:
            mine[name].mul_(1 - self.rate).add_(theirs[name].to(mine[name].dtype), alpha=self.rate)

    def save(self, folder: Path) -> None:
        """Write the weights that follow into a trainer checkpoint's folder, exactly."""
        save_file(self._weights(self.model), folder / FILE)

    def load(self, folder: Path) -> None:
        """Take up the weights of a trainer checkpoint."""
        # Not strict: the file holds no weights that are not trained, and tied ones once.
        self.model.load_state_dict(load_file(folder / FILE, device=str(self.model.device)), strict=False)

    def _weights(self, model: PreTrainedModel) -> dict[str, Tensor]:
        weights = dict(model.named_parameters())
        return {name: weights[name].detach() for name in self.trained}

    @torch.no_grad()
    def score(self, batch: dict[str, Tensor], mask: Tensor, temperature: float) -> Scores:
        """Re-score completions behind their reprompts.

        Args:
            batch: `teacher_prompt_ids` and `teacher_prompt_mask` (B, P), padded on the left; `completion_ids` and
                `completion_mask` (B, T), padded on the right.
            mask: (B, T), bool, the n tokens that are asked about; rows without any are not computed.
            temperature: Divides the logits: the rollouts'.

        Returns:
            `Scores` of the n tokens, in the mask's order.
        """
        rows = mask.any(1).nonzero().squeeze(1)
        width, head = self.model.config.get_text_config().hidden_size, alone(self.model)
        if not len(rows):
            nothing = head["weight"].new_zeros(0)
            return Scores(nothing.reshape(0, width), nothing, nothing)
        prompt = int(batch["teacher_prompt_mask"][rows].sum(1).max())
        longest = int(batch["completion_mask"][rows].sum(1).max())
        hidden = completion_hidden(
            self.model,
            batch["teacher_prompt_ids"][rows, -prompt:],
            batch["teacher_prompt_mask"][rows, -prompt:],
            batch["completion_ids"][rows, :longest],
            batch["completion_mask"][rows, :longest],
        )[mask[rows, :longest]]
        tokens = batch["completion_ids"][mask]
        return Scores(hidden, *token_log_probs(hidden, tokens=tokens, temperature=temperature, **head))


class FollowPolicy(TrainerCallback):
    """Lets the self-teacher follow after every optimiser step whose gradients are finite."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Before a checkpoint is saved, so that it holds both models after the same step."""
        if self.trainer.gradients_are_finite:
            self.trainer.self_teacher.follow(self.trainer.accelerator.unwrap_model(model))


def completion_hidden(
    model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> Tensor:
    """Last hidden states (B, T, H) that predict the tokens of the completions (B, T) behind their prompts (B, P)."""
    ids = torch.cat([prompt_ids, completion_ids], dim=1)
    attention = torch.cat([prompt_mask, completion_mask], dim=1)
    hidden = model.base_model(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
    return hidden[:, -completion_ids.shape[1] - 1 : -1]


def alone(model: PreTrainedModel) -> dict:
    """A model's head as `token_log_probs` wants to be told of it."""
    return {name.removeprefix("student_"): value for name, value in head_arguments("student", model).items()}
