"""What the verifier says of one completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from s2d_lib.errors import StudyError
from s2d_lib.grading.client import TimeLimit, WorkerCrash, shared_worker
from s2d_lib.grading.compare import compare
from s2d_lib.grading.extract import extract_answer, extract_exact

Mode = Literal["math", "exact"]

TIMEOUT_S = 1.0
SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class Grade:
    """What the verifier says of one completion.

    Attributes:
        correct: Whether the completion's answer is the gold answer.
        extracted: The answer as the completion gives it (cut at 200 characters); None where it gives none.
        reason: One phrase: how the verdict was reached, or what stood in its way.
    """

    correct: bool
    extracted: str | None
    reason: str


def grade(completion: str, answer: str, *, mode: Mode = "math", timeout_s: float = TIMEOUT_S) -> Grade:
    r"""Judge one completion by its final answer.

    Args:
        completion: What the policy wrote, any text of any length.
        answer: The gold answer: a number, LaTeX or words.
        mode: "math": the last ``\boxed{...}`` counts, or without one the last ``Answer:`` line. Equal texts and plain
            numbers are decided at once; everything else by math-verify, gold and answer parsed separately, in a
            worker process. "exact": the tokens after the last ``#`` must be the answer's tokens (micro tasks).
        timeout_s: Processor seconds that math-verify may spend on it, and a third of what it may take on the clock.
            Waiting for other threads and starting the worker (1 to 2 s, once) do not count. Works off the main thread.

    Returns:
        The grade. Hostile input is incorrect with a reason; it never raises.

    Raises:
        StudyError: An unknown mode, a time limit that is none, or an installation whose math-verify does not start.
    """
    check_options(mode, timeout_s)
    if not isinstance(completion, str) or not isinstance(answer, str):
        return Grade(False, None, "completion and answer must be text")
    if mode == "exact":
        extracted, reason = extract_exact(completion)
        if extracted is None:
            return Grade(False, None, reason)
        correct = extracted == " ".join(answer.split())
        return Grade(correct, _shown(extracted), "equal" if correct else "not equal")
    extracted, reason = extract_answer(completion)
    if extracted is None:
        return Grade(False, None, reason)
    gold = answer
    if "\\boxed" in answer or "\\fbox" in answer:
        gold = extract_answer(answer)[0] or answer
    try:
        correct, reason = _compare(gold, extracted, timeout_s)
    except TimeLimit:
        correct, reason = False, f"math-verify did not finish within {timeout_s:g} s"
    except WorkerCrash as error:
        correct, reason = False, f"math-verify broke down ({error})"
    return Grade(correct, _shown(extracted), reason)


def _shown(extracted: str) -> str:
    """Short, and without lone surrogates, which no file could be written with."""
    return extracted[:SHOWN_CHARS].encode("utf-8", "replace").decode("utf-8")


def grade_many(
    completions: Sequence[str], answers: Sequence[str], *, mode: Mode = "math", timeout_s: float = TIMEOUT_S
) -> list[Grade]:
    """Grade completions against answers of the same length, in order; see :func:`grade`."""
    return [grade(c, a, mode=mode, timeout_s=timeout_s) for c, a in zip(completions, answers, strict=True)]


def check_options(mode: str, timeout_s: float) -> None:
    """Refuse an unknown mode or an impossible time limit with one sentence."""
    if not 0 < timeout_s <= 3600:
        raise StudyError(f"The grading time limit is {timeout_s} s: give more than 0 and at most 3600.")
    if mode not in get_args(Mode):
        raise StudyError(f"Unknown grading mode '{mode}': use one of {', '.join(get_args(Mode))}.")


# Samples of one problem repeat the same few answers; and a repeated answer gets a repeated verdict, also at the limit.
@lru_cache(maxsize=16_384)
def _cached_compare(gold: str, pred: str, timeout_s: float) -> tuple[bool, str] | None:
    try:
        return compare(gold, pred, lambda pairs: shared_worker().ask(pairs, timeout_s))
    except TimeLimit:
        return None


def _compare(gold: str, pred: str, timeout_s: float) -> tuple[bool, str]:
    verdict = _cached_compare(gold, pred, timeout_s)
    if verdict is None:
        raise TimeLimit
    return verdict
