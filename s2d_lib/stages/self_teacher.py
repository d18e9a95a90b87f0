"""The self-teacher: the policy's own weights, a moving average of them, and what it is shown before it re-scores an answer."""

import copy
from collections.abc import Iterable
from itertools import product
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

from s2d_lib.errors import StudyError
from s2d_lib.losses import token_log_probs
from s2d_lib.models.adapters import plain
from s2d_lib.models.policy import Policy
from s2d_lib.models.sharing import in_shards, stand_ins
from s2d_lib.problems.base import Problem
from s2d_lib.stages.states import completion_hidden, head_of, inside_forward

FILE = "self_teacher.safetensors"


class Scores(NamedTuple):
    """What a self-teacher says of n tokens: last `hidden` states (n, H), `log_probs` (n,) and `entropy` (n,) in nats."""

    hidden: Tensor
    log_probs: Tensor
    entropy: Tensor


class SelfTeacher(TrainerCallback):
    """A frozen copy of a policy's weights that follows it after every optimiser step: theta_T <- (1 - rate) theta_T + rate theta.

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

    @torch.no_grad()
    def follow(self, policy: PreTrainedModel) -> None:
        """Take a step towards the policy's weights."""
        mine, theirs = self._weights(self.model), self._weights(plain(policy))
        for name in self.trained:
            mine[name].mul_(1 - self.rate).add_(theirs[name].to(mine[name].dtype), alpha=self.rate)

    def on_train_begin(self, args, state, control, **kwargs):
        """Go on from the trainer checkpoint that training resumes from."""
        if state.global_step:
            self.load(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Follow, and lie in the step's checkpoint before transformers writes the file that makes it whole."""
        self.follow(model)
        if control.should_save:
            self.save(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.is_world_process_zero)

    def save(self, folder: Path, writes: bool = True) -> None:
        """Write the weights that follow into a trainer checkpoint's folder, exactly; one of several processes `writes`."""
        kept = {}
        for name, weights in self._weights(self.model).items():
            whole = weights.full_tensor() if isinstance(weights, DTensor) else weights
            if writes:
                kept[name] = whole.cpu()
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
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

        def work() -> Scores:
            hidden = self._hidden(batch, mask)
            if isinstance(self.model, FSDPModule):
                # FSDP2 gathers the last norm and the head together, and torch before 2.13 only again when both have run.
                self.model.get_output_embeddings()(hidden[:0])
            tokens = batch["completion_ids"][mask]
            return Scores(hidden, *token_log_probs(hidden, head_of(self.model), tokens, temperature))

        return inside_forward(self.model, self.model, work)

    def _hidden(self, batch: dict[str, Tensor], mask: Tensor) -> Tensor:
        rows = mask.any(1).nonzero().squeeze(1)
        if not len(rows):  # a token for nothing, since processes that share the weights gather each layer together
            return self.model.base_model(batch["completion_ids"][:1, :1], use_cache=False).last_hidden_state[0, :0]
        prompt = int(batch["teacher_prompt_mask"][rows].sum(1).max())
        longest = int(batch["completion_mask"][rows].sum(1).max())
        asked = (batch[f"teacher_prompt_{kind}"][rows, -prompt:] for kind in ("ids", "mask"))
        said = (batch[f"completion_{kind}"][rows, :longest] for kind in ("ids", "mask"))
        return completion_hidden(self.model, *asked, *said)[mask[rows, :longest]]


class Reprompt(NamedTuple):
    """A self-teacher's prompt: its token `ids`, and whether its solution was `cut` to fit."""

    ids: list[int]
    cut: bool


class Reprompts:
    """Makes prompts for a self-teacher (the question, what is known of its solution, and the instruction to solve it), as chat
    where the policy chats, none longer than `limit` tokens.

    A reprompt that is too long loses the beginning of its solution and never a word of question or instruction: its end
    has the answer. (TRL 1.16's SDPOTrainer cuts the whole prompt's beginning, and with it the question.)
    """

    def __init__(
        self,
        policy: Policy,
        template: str,
        feedback_template: str | None = None,
        max_tokens: int | None = None,
        max_new_tokens: int = 0,
    ):
        """`max_new_tokens`: how long the completions may be that follow a reprompt.

        Raises:
            StudyError: Completions alone, or with `max_tokens`, are longer than the model's context; or neither it nor
                `max_tokens` is known.
        """
        self.policy, self.templates = policy, {"solution": template, "feedback": feedback_template}
        context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
        if context is None and max_tokens is None:
            raise StudyError("the model does not say how long its context is: set max_reprompt_tokens.")
        room = max_tokens if context is None else context - max_new_tokens
        if room <= 0:
            raise StudyError(
                f"completions of {max_new_tokens} tokens leave a self-teacher's prompt no room in the model's context of "
                f"{context}: lower max_new_tokens."
            )
        self.limit = room if max_tokens is None else max_tokens
        if self.limit > room:
            raise StudyError(
                f"max_reprompt_tokens {max_tokens} and the completion's {max_new_tokens} tokens are more than the model's "
                f"context of {context}: lower max_reprompt_tokens to {room} or less."
            )

    def of(self, kind: str, question: str, text: str, system: str = "") -> Reprompt:
        """Question, the text of a correct `solution` or what the environment said as `feedback`, instruction; behind the
        question's own system message, if it has one."""
        ids = self._ids(kind, question, text, system)
        if len(ids) <= self.limit:
            return Reprompt(ids, False)
        words = self.policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        while len(ids) > self.limit and words:  # tokens may merge differently at the new beginning, hence a loop
            words = words[len(ids) - self.limit :]
            ids = self._ids(kind, question, self.policy.tokenizer.decode(words), system)
        if len(ids) > self.limit:
            self._refuse(f"the reprompt of {question[:60]!r}", len(ids), kind)
        return Reprompt(ids, True)

    def check_fit(self, problems: Iterable[Problem]) -> None:
        """Raise a StudyError unless every problem's reprompt leaves room for a solution."""
        for problem, (kind, template) in product(problems, self.templates.items()):
            length = 0 if template is None else len(self._ids(kind, problem.prompt, "", problem.system))
            if length >= self.limit:
                self._refuse(f"the reprompt of problem {problem.id!r}", length, kind)

    def _refuse(self, whose: str, length: int, kind: str) -> None:
        raise StudyError(
            f"{whose} takes {length} tokens without any {kind}, but reprompts may have {self.limit}: shorten the template, or "
            "raise max_reprompt_tokens or use a model with a longer context."
        )

    def _ids(self, kind: str, question: str, text: str, system: str) -> list[int]:
        asked = self.templates[kind].format(question=question, **{kind: text})
        return self.policy.prompt_ids([Problem("", asked, "", system=system)])[0]
