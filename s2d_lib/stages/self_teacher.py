"""The self-teacher: the policy's own weights, a moving average of them, that re-score what the policy has said."""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel, TrainerCallback

from s2d_lib.losses import token_log_probs
from s2d_lib.models.adapters import plain
from s2d_lib.models.sharing import in_shards, stand_ins
from s2d_lib.stages.heads import head_of
from s2d_lib.stages.redirection import Redirection

FILE = "self_teacher.safetensors"


class Scores(NamedTuple):
    """What a self-teacher says of n tokens: last `hidden` states (n, H), `log_probs` (n,) and `entropy` (n,) in nats."""

    hidden: Tensor
    log_probs: Tensor
    entropy: Tensor


class SelfTeacher:
    """A frozen copy of a policy's weights that follows it: theta_T <- (1 - rate) theta_T + rate theta.

    Rate 0 keeps the copy as it was, rate 1 makes it the policy itself. Every process has a whole copy or, where FSDP2 shards
    the policy, the same shards of the copy as of the policy. Buffers are not averaged: language models keep none that
    training changes. Weights that are not trained (all but the adapters, under LoRA) are the policy's own, held once.
    """

    def __init__(self, policy: PreTrainedModel, rate: float, accelerator: Accelerator | None = None):
        """With an `accelerator` FSDP2 shards it; all processes have to score, save and load together from then on."""
        policy = plain(policy)
        known = {id(weights): weights for weights in policy.parameters() if not weights.requires_grad}
        if accelerator is not None:
            known |= stand_ins(policy, accelerator)
        self.model = copy.deepcopy(policy, known).requires_grad_(False).eval()
        if accelerator is not None:
            self.model = in_shards(self.model, accelerator)
        self.trained = [name for name, weights in policy.named_parameters() if weights.requires_grad]
        self.rate = rate
        self._forward_redirection = Redirection()

    @torch.no_grad()
    def follow(self, policy: PreTrainedModel) -> None:
        """Take a step towards the policy's weights."""
        mine, theirs = self._weights(self.model), self._weights(plain(policy))
        for name in self.trained:
            mine[name].mul_(1 - self.rate).add_(theirs[name].to(mine[name].dtype), alpha=self.rate)

    def save(self, folder: Path, writes: bool = True) -> None:
        """Write the weights that follow into a trainer checkpoint's folder, exactly; one of several processes `writes`."""
        kept = {}
        for name, weights in self._weights(self.model).items():
            whole = weights.full_tensor() if isinstance(weights, DTensor) else weights
            if writes:
                kept[name] = whole.cpu()
        if writes:
            save_file(kept, folder / FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take up the weights of a trainer checkpoint."""
        with safe_open(folder / FILE, framework="pt", device=str(self.model.device)) as file:
            for name, mine in self._weights(self.model).items():
                whole = file.get_tensor(name)
                if isinstance(mine, DTensor):  # every process has read it, so none has to send it
                    whole = distribute_tensor(whole, mine.device_mesh, mine.placements, src_data_rank=None)
                mine.copy_(whole)

    def _weights(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """Of the names that follow. Other than `named_parameters`, `state_dict` has FSDP2 put them back into shards."""
        weights = model.state_dict()
        return {name: weights[name] for name in self.trained}

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
        # Through the model's own forward, in which FSDP2 gathers what lies in shards.
        return self._forward_redirection(self.model, self.model, self._score, batch, mask, temperature)

    def _score(self, batch: dict[str, Tensor], mask: Tensor, temperature: float) -> Scores:
        hidden, head = self._hidden(batch, mask), self.model.get_output_embeddings()
        if isinstance(self.model, FSDPModule):
            # FSDP2 gathers the last norm and the head together, and torch before 2.13 only again when both have run.
            head(hidden[:0])
        tokens = batch["completion_ids"][mask]
        return Scores(hidden, *token_log_probs(hidden, head_of(self.model), tokens, temperature))

    def _hidden(self, batch: dict[str, Tensor], mask: Tensor) -> Tensor:
        rows = mask.any(1).nonzero().squeeze(1)
        if not len(rows):  # a token for nothing, since processes that share the weights gather each layer together
            return self.model.base_model(batch["completion_ids"][:1, :1], use_cache=False).last_hidden_state[0, :0]
        prompt = int(batch["teacher_prompt_mask"][rows].sum(1).max())
        longest = int(batch["completion_mask"][rows].sum(1).max())
        return completion_hidden(
            self.model,
            batch["teacher_prompt_ids"][rows, -prompt:],
            batch["teacher_prompt_mask"][rows, -prompt:],
            batch["completion_ids"][rows, :longest],
            batch["completion_mask"][rows, :longest],
        )[mask[rows, :longest]]


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
