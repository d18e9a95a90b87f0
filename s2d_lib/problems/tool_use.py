"""Tool use in the manner of ToolAlpaca: a documented API, a request, and the calls that fulfil it.

Layouts read here: ToolAlpaca's own files (one API an object, with `Instructions` and `Golden_Answers` side by side), and
rows with a finished `prompt` and the calls as `answer`, as SDPO's authors keep them (`sdpo-tool-use`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem, content_id
from s2d_lib.problems.competition import ProblemSet, distinct, feedback_of, first_of, system_of, user_message
from s2d_lib.problems.files import load_rows

DATASETS = ("toolalpaca", "sdpo-tool-use")

PROMPT = """You can call these tools of {name}: {about}

{tools}

Request: {request}

Answer with the call or calls that fulfil the request, each in this form:
Action: name of the tool
Action Input: its arguments as one JSON object"""


def load_tool_use(name: str, source: str | Path | None = None, split: str | None = None) -> ProblemSet:
    """Requests with their gold calls, from a local file or a Hub id.

    Requests whose gold calls can't be read (some of the published ones are no JSON) are left out and counted.

    Raises:
        StudyError: An unknown name, no source (the dataset has no place of its own on the Hub), an unreadable one, a row
            of another layout, or no request with readable calls.
    """
    if name not in DATASETS:
        raise StudyError(f"Unknown dataset '{name}': use one of {', '.join(DATASETS)}.")
    if source is None:
        raise StudyError(
            f"Dataset {name} is published as files, not on the Hub: give a set's `path`, a local copy (or a Hub id that "
            "holds one)."
        )
    rows = load_rows(source, split=split or "train")
    kept: list[tuple[str, Problem]] = []
    unreadable = 0
    for number, row in enumerate(rows, 1):
        for prompt, calls, level in _requests(source, number, row):
            answer = _answer(calls)
            if answer is None:
                unreadable += 1
            else:
                kept.append(
                    (prompt, Problem(content_id(name, prompt), prompt, answer, level, feedback_of(row), system_of(row)))
                )
    if not kept:
        raise StudyError(f"{source} has no request with readable gold calls: check the file.")
    found = distinct(name, kept, source, None)
    return ProblemSet(name, found.problems, found.report | {"rows": len(rows), "unreadable": unreadable})


def _requests(source: str | Path, number: int, row: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """A row's prompts with their gold calls as written and a level."""
    if "Instructions" in row:
        requests, answers = row["Instructions"], row.get("Golden_Answers")
        if not isinstance(requests, list) or not isinstance(answers, list) or len(requests) != len(answers):
            raise StudyError(
                f"Row {number} of {source} must have as many `Golden_Answers` as `Instructions`: repair the file."
            )
        tools = first_of(row, ("NLDocumentation", "Functions"))
        if not isinstance(tools, str):
            raise StudyError(f"Row {number} of {source} documents no tools (`NLDocumentation`): repair the file.")
        about = first_of(row, ("Introduction", "Description")) or ""
        for request, calls in zip(requests, answers, strict=True):
            prompt = PROMPT.format(name=row.get("Name", "an API"), about=about, tools=tools.strip(), request=request)
            yield prompt, calls, str(row.get("Category") or "")
        return
    prompt = first_of(row, ("prompt", "question"))
    prompt = user_message(prompt) if isinstance(prompt, list) else prompt
    calls = first_of(row, ("reward_model.ground_truth", "golden_answer", "answer"))
    if not isinstance(prompt, str) or not prompt.strip() or calls is None:
        raise StudyError(
            f"Row {number} of {source} has neither `Instructions` with `Golden_Answers` nor a `prompt` with an `answer`; "
            f"it has {', '.join(map(str, row)) or 'nothing'}."
        )
    yield prompt, calls, ""


def _answer(calls: Any) -> str | None:
    """Gold calls as JSON text, their inputs as objects; None where they can't be read."""
    try:
        listed = json.loads(calls) if isinstance(calls, str) else calls
        if not isinstance(listed, list) or not listed:
            return None
        return json.dumps([_call(call) for call in listed], ensure_ascii=False)
    except (ValueError, TypeError, KeyError):
        return None


def _call(call: dict[str, Any]) -> dict[str, Any]:
    inputs = call.get("Action_Input", {}) if isinstance(call, dict) else None
    inputs = json.loads(inputs or "{}") if isinstance(inputs, str) else inputs
    if not isinstance(inputs, dict) or not isinstance(call.get("Action"), str):
        raise ValueError("no call")
    return {"Action": call["Action"], "Action_Input": inputs}
