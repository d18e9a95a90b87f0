"""Public datasets as labeled problems: competition mathematics, SciKnowEval's multiple choice, tool use as in ToolAlpaca.

Layouts read here: those of the Hub datasets and of their better known copies (DAPO as kept by github thunlp/OPD), and rows with
a finished prompt, as SDPO's authors keep them: `sdpo-*` are their own splits.
"""

import json
import math
import re
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.base import Problem, content_id
from s2d_lib.problems.files import is_local, load_rows

Found = tuple[list[Problem], dict[str, Any]]  # problems, and a report on what was read and dropped
PROMPT = ("problem", "question", "Problem", "prompt")
ANSWER = ("reward_model.ground_truth", "answer", "Answer")
"""The columns of prompts and answers: the first that a row has counts, and dots lead into nested ones."""


class Source(NamedTuple):
    """Where a dataset lives."""

    grading: str  # how its answers are compared: a mode of s2d_lib.grading
    hub: str | None = None  # id on the Hub; none where it is published as files
    split: str = "train"  # on the Hub
    configs: tuple[str | None, ...] = (None,)  # on the Hub, loaded one after the other
    answer: tuple[str, ...] = ANSWER


DOMAINS = ("chemistry", "physics", "biology", "material")
SOURCES = {
    # Elsewhere `solution` is a worked one.
    "dapo-math-17k": Source("math", "BytedTsinghua-SIA/DAPO-Math-17k", answer=(*ANSWER, "solution")),
    "math-500": Source("math", "HuggingFaceH4/MATH-500", "test"),
    "aime-2024": Source("math", "HuggingFaceH4/aime_2024"),
    "aime-2025": Source("math", "opencompass/AIME2025", "test", ("AIME2025-I", "AIME2025-II")),
    "gsm8k": Source("math", "openai/gsm8k", "test", ("main",)),
    **{f"sdpo-{domain}": Source("choice") for domain in DOMAINS},
    "sdpo-tool-use": Source("tool_calls"),
}

# Instructions that a dataset wraps around the bare problem; the policy's own prompt template adds its own.
_WRAPPING = (
    r"^\s*Solve the following math problem step by step\.\s+The last line of your response should be of the form "
    r".{0,80}? is the answer to the problem\.\s+",
    r"\s*Remember to put your answer on its own line after [\"']Answer:[\"']\.?\s*$",
    r"\s*(?:Please|Let's) (?:reason|think) step by step,? and put your final answer within \\boxed\{*\}*\.?\s*$",
    r"\s*让我们一步一步地思考。请以[^\n]{0,12}Answer:[^\n]*$",
)


def load_public(name: str, grading: str, place: str | Path | None = None, split: str | None = None) -> Found:
    """One of the `SOURCES` of a grading, in its order: from a local file or another Hub id, or from its own place on the Hub,
    which the sets that are published as files don't have.

    Prompts that differ only in spacing are one problem. A problem that stands there with several answers is set aside: one of
    them is wrong, and which one is not ours to say. Raises StudyError of an unknown name, an unreadable source, a broken row.

    Returns:
        The problems, and for the run's record what was read and dropped: rows that repeat an earlier prompt, the ``conflicts``
        set aside, ``{id: [answers]}``, and ``unreadable`` gold calls of tools, as some of the published ones are no JSON.
    """
    known = [key for key, one in SOURCES.items() if one.grading == grading]
    if name not in known:
        raise StudyError(f"Unknown dataset '{name}': use one of {', '.join(known)}.")
    one = SOURCES[name]
    where = one.hub if place is None else place
    # The configurations are those of the usual Hub dataset; a local file or another dataset has none of them.
    configs = one.configs if where == one.hub and not is_local(where) else (None,)
    rows = [row for config in configs for row in load_rows(where, split=split or one.split, config=config)]
    found = [_problem(name, row, f"Row {number} of {where}") for number, row in enumerate(rows, 1)]
    problems = [problem for problem in found if problem]
    if not problems:
        raise StudyError(f"{where} has no request with readable gold calls: check the file.")
    kept, conflicts, prompts = _distinct(problems, by_value=grading == "math")
    if len({problem.id for problem in kept}) < len(kept):
        raise StudyError(f"Two problems of {where} have the same id: repair the file.")
    report = {"source": str(where), "rows": len(rows), "duplicates": len(problems) - prompts, "conflicts": conflicts}
    return kept, report | {"unreadable": len(found) - len(problems), "problems": len(kept)}


def _problem(name: str, row: dict[str, Any], place: str) -> Problem | None:
    """The problem of a row, which errors call `place`; None where its gold calls are unreadable."""
    source = SOURCES[name]
    asked, written = first_of(row, *PROMPT), first_of(row, *source.answer)
    for what, cell, columns in (("problem", asked, PROMPT), ("answer", written, source.answer)):
        if cell is None:
            raise StudyError(
                f"{place} has no {what} for dataset {name}: looked for {', '.join(columns)}, "
                f"found {', '.join(map(str, row)) or 'nothing'}."
            )
    prompt, system = asked, row.get("system") or ""
    if isinstance(asked, list):
        prompt, system = user_message(asked), system or user_message(asked, "system") or ""
    prompt = prompt if isinstance(prompt, str) else ""
    if source.grading == "math":  # here datasets wrap something around their problems
        prompt, system = bare_prompt(prompt), ""
    read, wanted = READ[source.grading]
    answer = read(written)
    if answer is None and source.grading == "tool_calls":
        return None
    if answer is None:
        raise StudyError(f"{place} has the answer {written!r}, which is not {wanted}: repair the file.")
    if not prompt.strip() or not answer:
        raise StudyError(f"{place} has an empty {'answer' if prompt.strip() else 'problem'}: repair the file.")
    # AIME rows have ids too, but each copy of the dataset numbers them in its own way.
    identity = f"{name}/{row['unique_id']}" if row.get("unique_id") else content_id(name, prompt)
    level, feedback = str(row.get("level") or ""), str(row.get("feedback") or "").strip()
    return Problem(identity, prompt, answer, level, feedback, system)


def _distinct(problems: list[Problem], by_value: bool) -> tuple[list[Problem], dict[str, list[str]], int]:
    """Of the problems each prompt once; the answers of prompts with several (or several values of them); how many prompts."""
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[" ".join(problem.prompt.split())].append(problem)
    kept, conflicts = [], {}
    for first, *others in groups.values():
        answers = [first.answer]
        for answer in (other.answer for other in others):
            by_rules = by_value and any(grade(rf"\boxed{{{answer}}}", one).correct for one in answers)
            if answer not in answers and not by_rules:
                answers.append(answer)
        if len(answers) == 1:
            kept.append(first)
        else:
            conflicts[first.id] = answers
    return kept, conflicts, len(groups)


def first_of(cells: dict[str, Any], *columns: str) -> Any:
    """The first of the columns that a row has; None if it has none."""
    for column in columns:
        value: Any = cells
        for part in column.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def bare_prompt(prompt: str) -> str:
    """The problem alone, without the instruction that a dataset wraps around it."""
    for pattern in _WRAPPING:
        prompt = re.sub(pattern, "", prompt, flags=re.DOTALL)
    return prompt.strip()


def user_message(messages: list[dict[str, Any]], role: str = "user") -> str | None:
    """The last message of a conversation that is the user's, or another role's; None if it has none."""
    return next((m.get("content") for m in reversed(messages) if m.get("role") == role), None)


def _value(answer: Any) -> str | None:
    """The gold answer as text: a number in its shortest decimals, the item of a list of one, of a worked GSM8K solution
    what follows its ####. None where it is neither text nor a finite number."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, float) and math.isfinite(answer):
        single = np.float32(answer)  # of a column of such numbers: 0.1 is read as 0.10000000149011612
        short = float(single) == answer and len(Decimal(repr(answer)).as_tuple().digits) > 15
        answer = int(answer) if answer.is_integer() else str(single if short else answer)
    if isinstance(answer, bool) or not isinstance(answer, int | str) or str(answer).strip().lower() == "nan":
        return None
    _, mark, text = str(answer).rpartition("####")
    return (text.replace(",", "") if mark else text).strip()


def _letter(answer: Any) -> str | None:
    letter = answer.strip().upper() if isinstance(answer, str) else ""
    return letter if len(letter) == 1 and letter.isalpha() else None


def _calls(written: Any) -> str | None:
    """Gold calls as JSON text, their inputs as objects; None where they can't be read."""
    try:
        listed = json.loads(written) if isinstance(written, str) else written
        calls = [(call["Action"], call.get("Action_Input", {})) for call in listed]
        calls = [(name, json.loads(given or "{}") if isinstance(given, str) else given) for name, given in calls]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not calls or not all(isinstance(name, str) and isinstance(given, dict) for name, given in calls):
        return None
    return json.dumps([{"Action": name, "Action_Input": given} for name, given in calls], ensure_ascii=False)


READ = {"math": (_value, "text or a finite number"), "choice": (_letter, "a letter"), "tool_calls": (_calls, "calls")}
"""Of a grading, what makes text of a gold answer, None of one that can't be, and what it should be in words."""
