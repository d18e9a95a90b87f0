"""Competition mathematics: labeled problems of public datasets, without duplicates and contradictions.

Layouts read here: those of the Hub datasets named in ``SOURCES`` and of their better known copies, and those of local
files (DAPO as kept by github thunlp/OPD, MATH-500, AIME 2024 and 2025, GSM8K as json or jsonl).
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.base import Problem, content_id
from s2d_lib.problems.files import is_local, load_rows


@dataclass(frozen=True)
class Source:
    """Where a dataset lives and how its rows are read.

    Attributes:
        hub: Id on the Hub.
        split: Split on the Hub.
        configs: Configurations on the Hub, loaded one after the other.
        prompt: Columns that may hold the problem, the first that a row has counts; dots lead into nested columns.
        answer: Columns that may hold the gold answer, likewise.
        level: Columns that may hold the difficulty.
        row_id: Columns with an id that is stable wherever the dataset is kept; else the id is made of the prompt.
    """

    hub: str
    split: str
    prompt: tuple[str, ...]
    answer: tuple[str, ...]
    configs: tuple[str | None, ...] = (None,)
    level: tuple[str, ...] = ()
    row_id: tuple[str, ...] = ()


# AIME rows have an id too, but each copy of the dataset numbers them in its own way.
SOURCES = {
    "dapo-math-17k": Source(
        hub="BytedTsinghua-SIA/DAPO-Math-17k",
        split="train",
        prompt=("prompt", "problem"),
        answer=("reward_model.ground_truth", "answer", "solution"),
    ),
    "math-500": Source(
        hub="HuggingFaceH4/MATH-500",
        split="test",
        prompt=("problem", "prompt", "question"),
        answer=("answer",),
        level=("level",),
        row_id=("unique_id",),
    ),
    "aime-2024": Source(
        hub="HuggingFaceH4/aime_2024",
        split="train",
        prompt=("problem", "prompt", "Problem", "question"),
        answer=("answer", "Answer"),
    ),
    "aime-2025": Source(
        hub="opencompass/AIME2025",
        split="test",
        configs=("AIME2025-I", "AIME2025-II"),
        prompt=("question", "problem", "prompt", "Problem"),
        answer=("answer", "Answer"),
    ),
    "gsm8k": Source(
        hub="openai/gsm8k",
        split="test",
        configs=("main",),
        prompt=("question", "problem", "prompt"),
        answer=("answer",),
    ),
}

# Instructions that a dataset wraps around the bare problem; the policy's own prompt template adds its own.
_WRAPPING = [
    re.compile(
        r"^\s*Solve the following math problem step by step\.\s+The last line of your response should be of the form "
        r".{0,80}? is the answer to the problem\.\s+",
        re.DOTALL,
    ),
    re.compile(r"\s*Remember to put your answer on its own line after [\"']Answer:[\"']\.?\s*$"),
    re.compile(
        r"\s*(?:Please|Let's) (?:reason|think) step by step,? and put your final answer within \\boxed\{*\}*\.?\s*$"
    ),
    re.compile(r"\s*让我们一步一步地思考。请以[^\n]{0,12}Answer:[^\n]*$"),
]  # fmt: skip


@dataclass(frozen=True)
class ProblemSet:
    """Labeled problems of one dataset.

    Attributes:
        name: The dataset.
        problems: Each prompt once, in the dataset's order.
        report: What was read and what was dropped, for the run's record: ``source``; ``rows``; ``distinct`` prompts
            as written; ``conflicts``, the prompts as written that carry several answers, ``{id: [answers]}``;
            ``conflicts_by_spacing``, those found only when spacing is ignored; ``distinct_problems`` when spacing
            is ignored; ``duplicates`` rows dropped; ``set_aside`` problems left out for their conflict; ``problems``
            that remain; ``limit``.
    """

    name: str
    problems: tuple[Problem, ...]
    report: dict[str, Any] = field(default_factory=dict)


def load_competition(
    name: str, source: str | Path | None = None, split: str | None = None, limit: int | None = None
) -> ProblemSet:
    """Load one of the known datasets, from the Hub or a local file.

    Prompts that differ only in spacing are one problem. A problem that stands there with several answers is set aside:
    one of them is wrong, and which one is not ours to say.

    Args:
        name: A key of ``SOURCES``.
        source: A local file, or another Hub id with one of the known layouts; the dataset's own Hub id if None.
        split: Split on the Hub, if not the dataset's usual one.
        limit: Keep the first so many problems.

    Raises:
        StudyError: An unknown name, an unreadable source, a row without problem or answer, a limit below 1.
    """
    spec = SOURCES.get(name)
    if spec is None:
        raise StudyError(f"Unknown dataset '{name}': use one of {', '.join(SOURCES)}.")
    if limit is not None and limit < 1:
        raise StudyError(f"The limit of dataset {name} is {limit}: give at least 1, or none for all problems.")
    where = spec.hub if source is None else source
    # The configurations are those of the usual Hub dataset; a local file or another dataset has none of them.
    configs = spec.configs if where == spec.hub and not is_local(where) else (None,)
    rows = [row for config in configs for row in load_rows(where, split=split or spec.split, config=config)]
    read = [_read(name, spec, where, number, row) for number, row in enumerate(rows, 1)]
    return distinct(name, read, where, limit, _same_value)


def _same_value(gold: str, answer: str) -> bool:
    return grade(rf"\boxed{{{answer}}}", gold).correct


def bare_prompt(prompt: str) -> str:
    """The problem alone, without the instruction that a dataset wraps around it."""
    for pattern in _WRAPPING:
        prompt = pattern.sub("", prompt)
    return prompt.strip()


def _read(name: str, spec: Source, where: str | Path, number: int, row: dict[str, Any]) -> tuple[str, Problem]:
    """A row's prompt as written, and its problem."""
    written, answer = first_of(row, spec.prompt), first_of(row, spec.answer)
    for wanted, columns, value in (("problem", spec.prompt, written), ("answer", spec.answer, answer)):
        if value is None:
            raise StudyError(
                f"Row {number} of {where} has no {wanted} for dataset {name}: looked for {', '.join(columns)}, "
                f"found {', '.join(map(str, row)) or 'nothing'}."
            )
    if isinstance(written, list):
        written = user_message(written)
    prompt = bare_prompt(written) if isinstance(written, str) else ""
    gold = _answer_text(answer)
    if gold is None:
        raise StudyError(
            f"Row {number} of {where} has the answer {answer!r}, which is neither text nor a finite number: repair the file."
        )
    if not prompt or not gold:
        raise StudyError(f"Row {number} of {where} has an empty {'answer' if prompt else 'problem'}: repair the file.")
    row_id, level = first_of(row, spec.row_id), first_of(row, spec.level)
    identity = content_id(name, prompt) if row_id is None else f"{name}/{row_id}"
    return written, Problem(identity, prompt, gold, "" if level is None else str(level), feedback_of(row))


def feedback_of(row: dict[str, Any]) -> str:
    """A row's `feedback`, what its environment says of a failed attempt; empty where it has none."""
    return str(row.get("feedback") or "").strip()


def first_of(row: dict[str, Any], columns: Iterable[str]) -> Any:
    """The first of the columns that the row has; None if it has none."""
    for column in columns:
        value: Any = row
        for part in column.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def user_message(messages: list[dict[str, Any]], role: str = "user") -> str | None:
    """The last message of a conversation that is the user's, or another role's; None if it has none."""
    return next((m.get("content") for m in reversed(messages) if m.get("role") == role), None)


def system_of(row: dict[str, Any]) -> str:
    """A row's system message: its own column, or of a conversation; empty where it has none."""
    prompt = row.get("prompt")
    return row.get("system") or (user_message(prompt, "system") if isinstance(prompt, list) else None) or ""


def _answer_text(answer: Any) -> str | None:
    """The gold answer as text: a number in its shortest decimals, the item of a list of one, of a worked GSM8K solution
    what follows its ####. None where it is neither text nor a finite number."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    elif isinstance(answer, float) and math.isfinite(answer):
        single = np.float32(answer)  # of a column of such numbers: 0.1 is read as 0.10000000149011612
        short = float(single) == answer and len(Decimal(repr(answer)).as_tuple().digits) > 15
        answer = str(single if short else answer)
    if isinstance(answer, bool) or not isinstance(answer, int | str) or str(answer).strip().lower() == "nan":
        return None
    text = str(answer)
    if "####" in text:
        text = text.rsplit("####", 1)[1].replace(",", "")
    return text.strip()


def distinct(
    name: str,
    rows: Sequence[tuple[str, Problem]],
    where: str | Path,
    limit: int | None,
    same: Callable[[str, str], bool] = operator.eq,
) -> ProblemSet:
    """Each problem once; those with several answers, no two of them the `same`, set aside and listed."""
    first: dict[str, Problem] = {}
    answers: dict[str, dict[str, None]] = {}  # a dict for its order
    written_answers: dict[str, set[str]] = {}
    for written, problem in rows:
        words = " ".join(problem.prompt.split())
        first.setdefault(words, problem)
        known = answers.setdefault(words, {})
        answer = next((a for a in known if a == problem.answer or same(a, problem.answer)), problem.answer)
        known[answer] = None
        written_answers.setdefault(written, set()).add(answer)
    as_written = {" ".join(bare_prompt(w).split()) for w, found in written_answers.items() if len(found) > 1}
    conflicts = {words: list(found) for words, found in answers.items() if len(found) > 1}
    kept = [problem for words, problem in first.items() if words not in conflicts]
    if len({problem.id for problem in kept}) < len(kept):
        raise StudyError(f"Two problems of {where} have the same id: repair the file.")
    problems = tuple(kept[:limit])
    report = {
        "source": str(where),
        "rows": len(rows),
        "distinct": len(written_answers),
        "conflicts": {first[words].id: found for words, found in conflicts.items() if words in as_written},
        "conflicts_by_spacing": {
            first[words].id: found for words, found in conflicts.items() if words not in as_written
        },
        "distinct_problems": len(first),
        "duplicates": len(rows) - len(first),
        "set_aside": len(conflicts),
        "problems": len(problems),
        "limit": limit,
    }
    return ProblemSet(name, problems, report)
