"""Grading: is a completion's final answer right?

`grade` judges one completion, `grade_many` a batch; `CorrectnessReward` is the TRL reward function of it. Rooms inside: `extract`
(which part counts), `compare` (is it the gold answer), `graders` (verifiers that a limit may end).
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from s2d_lib.errors import StudyError
from s2d_lib.grading import extract, graders
from s2d_lib.grading.compare import NeedsAlgebra, compare

Mode = Literal["math", "exact", "choice", "tool_calls", "reasoning_gym"]
_EXTRACT = {
    "math": extract.extract_answer,
    "exact": extract.extract_exact,
    "choice": extract.extract_choice,
    "tool_calls": extract.extract_calls,
    "reasoning_gym": extract.extract_short,
}
TIMEOUT_S = 1.0
SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class Grade:
    """What the verifier says of one completion.

    Attributes:
        correct: Whether the completion's answer is the gold answer.
        extracted: The answer as the completion gives it (cut at 200 characters); None where it gives none in the form
            that the mode asks for: a box, an answer line or tag, one letter, calls of tools with JSON.
        reason: One phrase: how the verdict was reached, or what stood in its way.
    """

    correct: bool
    extracted: str | None
    reason: str

    @property
    def formed(self) -> bool:
        """Whether the answer was well formed, right or wrong."""
        return self.extracted is not None


def grade(completion: str, answer: str, *, mode: Mode = "math", timeout_s: float = TIMEOUT_S) -> Grade:
    r"""Judge one completion by its final answer. Hostile input is incorrect with a reason and never raises.

    Args:
        completion: What the policy wrote, any text of any length.
        answer: The gold answer: a number, LaTeX or words.
        mode: "math": the last ``\boxed{...}`` or else ``Answer:`` line, by the rules of `compare` and where they leave it open
            by math-verify. "exact": the tokens after the last ``#`` (micro problems). "choice": the letter in ``<answer>``
            tags, a box or an ``Answer:`` line. "tool_calls": the gold calls. "reasoning_gym": full marks by the task's own
            verifier for what stands in tags, a box or a line, or for a completion of a single line.
        timeout_s: Processor seconds that a verifier may spend on it, and a tenth of what it may take on the clock. Waiting for
            other threads and starting the verifier (1 to 2 s, once) do not count. Works off the main thread.

    Raises:
        StudyError: An unknown mode, a time limit that is none, an installation whose verifier does not start, or a
            reasoning-gym task that does not generate the same problem twice.
    """
    _check_mode(mode)
    if not 0 < timeout_s <= 3600:
        raise StudyError(f"The grading time limit is {timeout_s} s: give more than 0 and at most 3600.")
    if not isinstance(completion, str) or not isinstance(answer, str):
        return Grade(False, None, "completion and answer must be text")
    text, reason = _EXTRACT[mode](completion), None
    if mode == "tool_calls":
        correct = extract.same_calls(completion, answer)
    elif text is None:
        return Grade(False, None, "no answer in the form that is asked for")
    elif mode in ("exact", "choice"):
        correct = text == (" ".join(answer.split()) if mode == "exact" else answer.strip().upper())
    else:
        correct, reason = _verified(mode, answer, text, timeout_s)
    # short, and without lone surrogates, which no file could be written with
    shown = text and text[:SHOWN_CHARS].encode("utf-8", "replace").decode("utf-8")
    return Grade(correct, shown, reason or ("equal" if correct else "not equal"))


def grade_many(
    completions: Sequence[str], answers: Sequence[str], *, mode: Mode = "math", timeout_s: float = TIMEOUT_S
) -> list[Grade]:
    """Grade completions against answers of the same length, in order; see :func:`grade`."""
    return [grade(c, a, mode=mode, timeout_s=timeout_s) for c, a in zip(completions, answers, strict=True)]


# Samples of one problem repeat the same few answers; and a repeated answer gets a repeated verdict, also at the limit.
@lru_cache(maxsize=16_384)
def _verified(mode: Mode, gold: str, answer: str, timeout_s: float) -> tuple[bool, str | None]:
    """The verdict and, where a verifier was asked, what it had to say."""
    if mode == "math":
        if "\\boxed" in gold or "\\fbox" in gold:
            gold = extract.extract_answer(gold) or gold
        with contextlib.suppress(NeedsAlgebra):
            return compare(gold, answer), None
    verifier = "math-verify" if mode == "math" else "reasoning-gym"
    found = graders.graders_of(verifier, os.getpid()).ask(gold, answer, timeout_s)
    if found == graders.OTHER_PROBLEM:
        raise StudyError(f"A reasoning-gym task {found}: leave it out. ({gold[:120]} ...)")
    if isinstance(found, str):
        return False, f"{verifier} {found}"
    return found, f"{'equal' if found else 'not equal'} by {verifier}"


def _check_mode(mode: str) -> None:
    if mode not in _EXTRACT:
        raise StudyError(f"Unknown grading mode '{mode}': use one of {', '.join(_EXTRACT)}.")


class CorrectnessReward:
    """1.0 for a correct completion, else 0.0, with the signature of TRL 1.16's GRPOTrainer reward functions.

    A class and not a closure, so that it can be pickled. Raises StudyError of an unknown mode.
    """

    __name__ = "correctness"

    def __init__(self, mode: Mode = "math"):
        _check_mode(mode)
        self.mode = mode

    def __call__(
        self,
        prompts: Any,
        completions: Sequence[Any],
        answer: Sequence[str] | None = None,
        log_metric: Callable | None = None,
        **columns: Any,
    ) -> list[float]:
        """Grade texts, or the last messages of conversations, against the dataset's column `answer`.

        TRL's `log_metric` gets `formed`, the share of completions with a well-formed answer. Raises StudyError where the dataset
        has no column of gold answers.
        """
        if answer is None:
            raise StudyError("The correctness reward needs the dataset column 'answer', which is missing: add it.")
        grades = grade_many([_text(completion) for completion in completions], answer, mode=self.mode)
        if log_metric is not None and grades:
            log_metric("formed", sum(g.formed for g in grades) / len(grades))
        return [float(g.correct) for g in grades]


def _text(completion: Any) -> str:
    """The text of a completion as TRL hands it over; "" where there is none (a tool call)."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, list):  # parts: {"type": "text", "text": ...}
        content = "".join(part.get("text") or "" for part in content)
    return content or ""
