"""What a self-teacher is shown: the question, what is known of its solution, and the instruction to solve it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem


class Reprompt(NamedTuple):
    """A self-teacher's prompt: its token `ids`, and whether its solution was `cut` to fit."""

    ids: list[int]
    cut: bool


class Reprompts:
    """Makes prompts for a self-teacher, as chat where the policy chats, none longer than a limit.

    A reprompt that is too long loses the beginning of its solution and never a word of question or instruction: its end
    has the answer. (TRL 1.16's SDPOTrainer cuts the whole prompt's beginning, and with it the question.)

    Attributes:
        limit: Tokens.
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
        self.policy, self.template, self.feedback_template = policy, template, feedback_template
        context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
        room = None if context is None else context - max_new_tokens
        if room is None and max_tokens is None:
            raise StudyError("the model does not say how long its context is: set max_reprompt_tokens.")
        if room is not None and room <= 0:
            raise StudyError(
                f"completions of {max_new_tokens} tokens leave a self-teacher's prompt no room in the model's context of "
                f"{context}: lower max_new_tokens."
            )
        if max_tokens is not None and room is not None and max_tokens > room:
            raise StudyError(
                f"max_reprompt_tokens {max_tokens} and the completion's {max_new_tokens} tokens are more than the model's "
                f"context of {context}: lower max_reprompt_tokens to {max(room, 0)} or less."
            )
        self.limit = room if max_tokens is None else max_tokens

    def of_solution(self, question: str, solution: str, system: str = "") -> Reprompt:
        """Question, the text of a correct answer, instruction; behind the question's own system message, if it has one."""
        return self._fitted(self.template, "solution", question, solution, system)

    def of_feedback(self, question: str, feedback: str, system: str = "") -> Reprompt:
        """Question, what the environment said, instruction; likewise."""
        return self._fitted(self.feedback_template, "feedback", question, feedback, system)

    def check_fit(self, problems: Iterable[Problem]) -> None:
        """Look at whether every problem's reprompt leaves room for a solution.

        Raises:
            StudyError: One does not.
        """
        problems = list(problems)
        for template, slot in ((self.template, "solution"), (self.feedback_template, "feedback")):
            if template is None:
                continue
            empty = [self._ids(template, slot, p.prompt, "", p.system) for p in problems]
            length, problem = max(zip(map(len, empty), (p.id for p in problems), strict=True))
            if length >= self.limit:
                raise StudyError(
                    f"the reprompt of problem {problem!r} takes {length} tokens without any {slot}, but reprompts may have "
                    f"{self.limit}: shorten the template, or raise max_reprompt_tokens or use a model with a longer context."
                )

    def _fitted(self, template: str, slot: str, question: str, text: str, system: str) -> Reprompt:
        ids = self._ids(template, slot, question, text, system)
        if len(ids) <= self.limit:
            return Reprompt(ids, False)
        words = self.policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        while len(ids) > self.limit and words:  # tokens may merge differently at the new beginning, hence a loop
            words = words[len(ids) - self.limit :]
            ids = self._ids(template, slot, question, self.policy.tokenizer.decode(words), system)
        if len(ids) > self.limit:
            raise StudyError(
                f"a reprompt takes {len(ids)} tokens without any {slot}, but reprompts may have {self.limit}: the question "
                f"is {question[:60]!r}."
            )
        return Reprompt(ids, True)

    def _ids(self, template: str, slot: str, question: str, text: str, system: str) -> list[int]:
        asked = Problem("", template.format(question=question, **{slot: text}), "", system=system)
        (ids,) = self.policy.prompt_ids([asked])
        return ids


def padded(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (B, P) with P at least 1, padded on the left; rows may be empty."""
    width = max(1, *map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
