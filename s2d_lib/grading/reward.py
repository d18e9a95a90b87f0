"""Grading as a reward function for TRL."""

from collections.abc import Callable, Sequence
from typing import Any

from s2d_lib.errors import StudyError
from s2d_lib.grading.verdict import TIMEOUT_S, Mode, check_options, grade_many


class CorrectnessReward:
    """1.0 for a correct completion, else 0.0, with the signature of TRL 1.16's GRPOTrainer reward functions.

    A class and not a closure, so that it can be pickled. TRL calls it with one entry per completion in ``prompts``,
    ``completions`` (texts, or lists of chat messages) and in every column of the dataset; and with ``log_metric``.
    """

    __name__ = "correctness"
    binary = True  # it knows no rewards but 0 and 1

    def __init__(self, mode: Mode = "math", *, answer_column: str = "answer", timeout_s: float = TIMEOUT_S):
        check_options(mode, timeout_s)
        self.mode = mode
        self.answer_column = answer_column
        self.timeout_s = timeout_s

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Grade a batch.

        Args:
            prompts: Not used.
            completions: Texts or conversations; of a conversation the last message's text is graded.
            log_metric: TRL's logger of scalars; gets `formed`, the share of completions with a well-formed answer.
            columns: The dataset's columns, among them the gold answers.

        Returns:
            One reward per completion.

        Raises:
            StudyError: The dataset has no column of gold answers.
        """
        answers = columns.get(self.answer_column)
        if answers is None:
            raise StudyError(
                f"The correctness reward needs the dataset column '{self.answer_column}', which is missing: add it."
            )
        grades = grade_many([_text(c) for c in completions], answers, mode=self.mode, timeout_s=self.timeout_s)
        if log_metric is not None and grades:
            log_metric("formed", sum(g.formed for g in grades) / len(grades))
        return [float(g.correct) for g in grades]


def make_reward(
    mode: Mode = "math", *, answer_column: str = "answer", timeout_s: float = TIMEOUT_S
) -> CorrectnessReward:
    """The reward function ``correctness`` for TRL's trainers.

    Args:
        mode: As in :func:`s2d_lib.grading.grade`.
        answer_column: The dataset column that holds the gold answers.
        timeout_s: Processor seconds that math-verify may spend on one completion.
    """
    return CorrectnessReward(mode, answer_column=answer_column, timeout_s=timeout_s)


def _text(completion: Any) -> str:
    """The text of a completion as TRL hands it over; "" where there is none (a tool call)."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, list):  # parts: {"type": "text", "text": ...}
        content = "".join(part.get("text") or "" for part in content)
    return content or ""
