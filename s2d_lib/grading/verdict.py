"""What the verifier says of one completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from s2d_lib.errors import StudyError
from s2d_lib.grading.client import TimeLimit, Verifier, WorkerCrash, shared_worker
from s2d_lib.grading.compare import compare
from s2d_lib.grading.extract import extract_answer, extract_choice, extract_exact, extract_short
from s2d_lib.grading.tool_calls import same_calls, shown_calls

Mode = Literal["math", "exact", "choice", "tool_calls", "reasoning_gym"]

TIMEOUT_S = 1.0
SHOWN_CHARS = 200
OTHER_PROBLEM = "OtherProblem"  # the worker's name for it


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
    r"""Judge one completion by its final answer.

    Args:
        completion: What the policy wrote, any text of any length.
        answer: The gold answer: a number, LaTeX or words.
        mode: "math": the last ``\boxed{...}`` counts, or without one the last ``Answer:`` line. Equal texts and plain
            numbers are decided at once; everything else by math-verify, gold and answer parsed separately, in a
            worker process. "exact": the tokens after the last ``#`` must be the answer's tokens (micro tasks).
            "choice": the letter of a multiple-choice question in ``<answer>`` tags, a box or an ``Answer:`` line.
            "tool_calls": see :mod:`s2d_lib.grading.tool_calls`. "reasoning_gym": full marks by the task's own
            verifier, in a worker process like math-verify, for the text in ``<answer>`` tags, a box or a line, or for a
            completion of a single line.
        timeout_s: Processor seconds that math-verify may spend on it, and a third of what it may take on the clock.
            Waiting for other threads and starting the worker (1 to 2 s, once) do not count. Works off the main thread.

    Returns:
        The grade. Hostile input is incorrect with a reason; it never raises.

    Raises:
        StudyError: An unknown mode, a time limit that is none, an installation whose verifier does not start, or a
            reasoning-gym task that does not generate the same problem twice.
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
    if mode == "choice":
        extracted, reason = extract_choice(completion)
        correct = extracted is not None and extracted == answer.strip().upper()
        return Grade(correct, extracted, reason or ("equal" if correct else "not equal"))
    if mode == "tool_calls":
        extracted = shown_calls(completion)
        correct, reason = same_calls(completion, answer)
        return Grade(correct, _shown(extracted) if extracted else None, reason)
    if mode == "reasoning_gym":
        extracted, reason = extract_short(completion)
        if extracted is None:
            return Grade(False, None, reason)
        return _verified("reasoning-gym", answer, extracted, timeout_s)
    extracted, reason = extract_answer(completion)
    if extracted is None:
        return Grade(False, None, reason)
    gold = answer
    if "\\boxed" in answer or "\\fbox" in answer:
        gold = extract_answer(answer)[0] or answer
    return _verified("math-verify", gold, extracted, timeout_s)


def _verified(verifier: Verifier, gold: str, extracted: str, timeout_s: float) -> Grade:
    """The verifier's word on an extracted answer; an answer that it can't deal with in time is incorrect."""
    try:
        verdict = (_cached_compare if verifier == "math-verify" else _cached_gym)(gold, extracted, timeout_s)
        correct, reason = verdict or (False, f"{verifier} did not finish within {timeout_s:g} s")
    except WorkerCrash as error:
        if str(error) == OTHER_PROBLEM:
            raise StudyError(
                f"A reasoning-gym task generates other problems in another process: leave it out. ({gold[:120]} ...)"
            ) from error
        correct, reason = False, f"{verifier} broke down ({error})"
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


@lru_cache(maxsize=16_384)
def _cached_gym(gold: str, answer: str, timeout_s: float) -> tuple[bool, str] | None:
    try:
        correct = shared_worker("reasoning-gym").ask([(gold, answer)], timeout_s)[0]
    except TimeLimit:
        return None
    return correct, "full marks" if correct else "not full marks"
