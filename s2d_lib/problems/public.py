"""Public datasets as labeled problems: competition mathematics, SciKnowEval's multiple choice, tool use as in ToolAlpaca.

Layouts read here: those of the Hub datasets and of their better known copies (DAPO as kept by github thunlp/OPD, ToolAlpaca's
own files, one API an object), and rows with a finished prompt, as SDPO's authors keep them: `sdpo-*` are their own splits.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.base import Problem, content_id
from s2d_lib.problems.files import is_local, load_rows

Found = tuple[list[Problem], dict[str, Any]]  # problems, and a report on what was read and dropped


class Source(NamedTuple):
    """Where a dataset lives and which columns its rows have: the first that a row has counts, dots lead into nested ones."""

    grading: str  # how its answers are compared: a mode of s2d_lib.grading
    hub: str | None = None  # id on the Hub; none where it is published as files
    split: str = "train"  # on the Hub
    configs: tuple[str | None, ...] = (None,)  # on the Hub, loaded one after the other
    prompt: tuple[str, ...] = ("prompt", "question")
    answer: tuple[str, ...] = ("answer", "Answer")
    level: tuple[str, ...] = ("details.subtask", "details.task", "Category")
    row_id: tuple[str, ...] = ()  # an id that is stable wherever the dataset is kept; else it is made of the prompt


_ASKED = {"prompt": ("problem", "question", "Problem", "prompt"), "level": ()}
_DAPO = _ASKED | {"prompt": ("prompt", "problem"), "answer": ("reward_model.ground_truth", "answer", "solution")}
_MATH_500 = _ASKED | {"level": ("level",), "row_id": ("unique_id",)}
_CHOICE = Source("choice", answer=("answerKey", "reward_model.ground_truth", "answer"))
_CALLS = Source("tool_calls", answer=("reward_model.ground_truth", "golden_answer", "answer"))
DOMAINS = ("chemistry", "physics", "biology", "material")
# AIME rows have an id too, but each copy of the dataset numbers them in its own way.
SOURCES = {
    "dapo-math-17k": Source("math", "BytedTsinghua-SIA/DAPO-Math-17k", **_DAPO),
    "math-500": Source("math", "HuggingFaceH4/MATH-500", "test", **_MATH_500),
    "aime-2024": Source("math", "HuggingFaceH4/aime_2024", **_ASKED),
    "aime-2025": Source("math", "opencompass/AIME2025", "test", ("AIME2025-I", "AIME2025-II"), **_ASKED),
    "gsm8k": Source("math", "openai/gsm8k", "test", ("main",), **_ASKED),
    **{f"sciknoweval-{domain}": _CHOICE._replace(hub="hicai-zju/SciKnowEval", split="test") for domain in DOMAINS},
    **{f"sdpo-{domain}": _CHOICE for domain in DOMAINS},
    **dict.fromkeys(("toolalpaca", "sdpo-tool-use"), _CALLS),
}

# Instructions that a dataset wraps around the bare problem; the policy's own prompt template adds its own.
_WRAPPING = (
    r"^\s*Solve the following math problem step by step\.\s+The last line of your response should be of the form "
    r".{0,80}? is the answer to the problem\.\s+",
    r"\s*Remember to put your answer on its own line after [\"']Answer:[\"']\.?\s*$",
    r"\s*(?:Please|Let's) (?:reason|think) step by step,? and put your final answer within \\boxed\{*\}*\.?\s*$",
    r"\s*让我们一步一步地思考。请以[^\n]{0,12}Answer:[^\n]*$",
)

TOOLS_PROMPT = """You can call these tools of {name}: {about}

{tools}

Request: {request}

Answer with the call or calls that fulfil the request, each in this form:
Action: name of the tool
Action Input: its arguments as one JSON object"""


class Row(NamedTuple):
    """A row of a dataset: its prompt (of a conversation the user's last message) and gold answer as they are written."""

    dataset: str
    place: str  # what an error calls it
    cells: dict[str, Any]
    asked: Any
    answer: Any

    def problem(self, prompt: str, answer: str) -> Problem:
        """The row's problem, with its level, what the environment says of a failed attempt, and the system message."""
        source, said = SOURCES[self.dataset], self.cells.get("prompt")
        row_id, level = first_of(self.cells, *source.row_id), first_of(self.cells, *source.level)
        identity = content_id(self.dataset, prompt) if row_id is None else f"{self.dataset}/{row_id}"
        feedback = str(self.cells.get("feedback") or "").strip()
        system = self.cells.get("system") or (user_message(said, "system") if isinstance(said, list) else None) or ""
        # What a dataset of mathematics wraps around its problems is left out, see `bare_prompt`.
        return Problem(identity, prompt, answer, str(level or ""), feedback, "" if source.grading == "math" else system)


def first_of(cells: dict[str, Any], *columns: str) -> Any:
    """The first of the columns that a row has; None if it has none."""
    for column in columns:
        value: Any = cells
        for part in column.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def load_public(name: str, grading: str, place: str | Path | None = None, split: str | None = None) -> Found:
    """One of the `SOURCES` of a grading, in its order: from a local file or another Hub id, or from its own place on the Hub.

    Prompts that differ only in spacing are one problem. A problem that stands there with several answers is set aside: one of
    them is wrong, and which one is not ours to say. Raises StudyError of an unknown name, an unreadable source, a broken row.

    Returns:
        The problems, and for the run's record what was read and dropped; of ``distinct`` prompts as written, ``conflicts`` are
        those that carry several answers, ``{id: [answers]}``, and ``conflicts_by_spacing`` are found only when spacing is
        ignored; ``other_rows`` are no questions of the kind.
    """
    known = [key for key, one in SOURCES.items() if one.grading == grading]
    if name not in known:
        raise StudyError(f"Unknown dataset '{name}': use one of {', '.join(known)}.")
    one = SOURCES[name]
    where = one.hub if place is None else place
    if where is None:
        raise StudyError(
            f"Dataset {name} is published as files, not on the Hub: give a set's `path`, a local copy (or a Hub id that "
            "holds one)."
        )
    # The configurations are those of the usual Hub dataset; a local file or another dataset has none of them.
    configs = one.configs if where == one.hub and not is_local(where) else (None,)
    rows = []
    for cells in (row for config in configs for row in load_rows(where, split=split or one.split, config=config)):
        asked = first_of(cells, *one.prompt)
        asked = user_message(asked) if isinstance(asked, list) else asked
        rows.append(Row(name, f"Row {len(rows) + 1} of {where}", cells, asked, first_of(cells, *one.answer)))
    if grading == "math":
        pairs, left_out = [(row.asked, _mathematics(row)) for row in rows], {}
    else:
        read, left_out = (_choices if grading == "choice" else _tool_calls)(rows, where)
        pairs = [(problem.prompt, problem) for problem in read]
    problems, report = _distinct(pairs, where, by_value=grading == "math")
    return problems, {"source": str(where), "rows": len(rows)} | report | left_out


def _distinct(pairs: list[tuple[str, Problem]], where: str | Path, by_value: bool) -> Found:
    """Of prompts as written and their problems each once; those with several answers (or values of answers) set aside."""
    groups: dict[str, list[tuple[str, Problem]]] = defaultdict(list)
    for written, problem in pairs:
        groups[" ".join(problem.prompt.split())].append((written, problem))
    kept, conflicts, by_spacing = [], {}, {}
    for group in groups.values():
        answers, as_written, first = [], defaultdict(set), group[0][1]
        for written, problem in group:
            answer, boxed = problem.answer, rf"\boxed{{{problem.answer}}}"
            if answer not in answers and by_value:
                answer = next((a for a in answers if grade(boxed, a).correct), answer)
            if answer not in answers:
                answers.append(answer)
            as_written[written].add(answer)
        if len(answers) == 1:
            kept.append(first)
        else:
            (conflicts if max(map(len, as_written.values())) > 1 else by_spacing)[first.id] = answers
    if len({problem.id for problem in kept}) < len(kept):
        raise StudyError(f"Two problems of {where} have the same id: repair the file.")
    return kept, {
        "distinct": len({written for written, _ in pairs}),
        "conflicts": conflicts,
        "conflicts_by_spacing": by_spacing,
        "distinct_problems": len(groups),
        "duplicates": len(pairs) - len(groups),
        "set_aside": len(conflicts) + len(by_spacing),
        "problems": len(kept),
    }


def bare_prompt(prompt: str) -> str:
    """The problem alone, without the instruction that a dataset wraps around it."""
    for pattern in _WRAPPING:
        prompt = re.sub(pattern, "", prompt, flags=re.DOTALL)
    return prompt.strip()


def user_message(messages: list[dict[str, Any]], role: str = "user") -> str | None:
    """The last message of a conversation that is the user's, or another role's; None if it has none."""
    return next((m.get("content") for m in reversed(messages) if m.get("role") == role), None)


def _mathematics(row: Row) -> Problem:
    source = SOURCES[row.dataset]
    for wanted, columns in (("problem", source.prompt), ("answer", source.answer)):
        if first_of(row.cells, *columns) is None:
            raise StudyError(
                f"{row.place} has no {wanted} for dataset {row.dataset}: looked for {', '.join(columns)}, "
                f"found {', '.join(map(str, row.cells)) or 'nothing'}."
            )
    prompt, gold = bare_prompt(row.asked) if isinstance(row.asked, str) else "", _answer_text(row.answer)
    if gold is None:
        raise StudyError(
            f"{row.place} has the answer {row.answer!r}, which is neither text nor a finite number: repair the file."
        )
    if not prompt or not gold:
        raise StudyError(f"{row.place} has an empty {'answer' if prompt else 'problem'}: repair the file.")
    return row.problem(prompt, gold)


def _answer_text(answer: Any) -> str | None:
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


def _choices(rows: list[Row], where: str | Path) -> Found:
    """The multiple-choice questions of the dataset's domain and level L3, of reasoning, and how many other rows there are; of one
    that stands there with its choices in several orders the first, but of SDPO's splits all."""
    kind, domain = rows[0].dataset.split("-", 1)
    chosen, questions = [row for row in rows if _is_choice(row, domain)], {}
    for row in chosen:
        stem, problem = _choice(row)
        questions.setdefault(problem.prompt if kind == "sdpo" else " ".join(stem.split()), problem)
    if not questions:
        raise StudyError(f"{where} has no multiple-choice question of domain {domain} and level L3: check the file.")
    return list(questions.values()), {"other_rows": len(rows) - len(chosen)}


def _is_choice(row: Row, domain: str) -> bool:
    """Whether it is one of the domain and level; what a row doesn't say is taken to fit."""
    kind = first_of(row.cells, "type", "kind") or "mcq"
    kind = kind[0] if isinstance(kind, list) else kind
    level, about = first_of(row.cells, "details.level", "level") or "L3", row.cells.get("domain") or domain
    return str(kind).startswith("mcq") and str(level).strip() == "L3" and str(about).lower().startswith(domain)


def _choice(row: Row) -> tuple[str, Problem]:
    """A row's question without its choices, and its problem."""
    prompt, choices = row.asked, row.cells.get("choices")
    answer = row.answer.strip().upper() if isinstance(row.answer, str) else ""
    stem = first_of(row.cells, "description", "question", "prompt")
    stem = stem if isinstance(stem, str) else prompt
    if choices:
        stem = row.cells.get("question")
        labels, texts = (choices.get(part) if isinstance(choices, dict) else None for part in ("label", "text"))
        complete = isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts)
        if not isinstance(stem, str) or not complete or answer not in labels:
            raise StudyError(
                f"{row.place} must have a `question`, `choices` with as many labels as texts, and one of the labels as "
                "`answerKey`: repair the file."
            )
        prompt = "\n".join([f"{stem.strip()}\n", *map("{}: {}".format, labels, texts)])
    if not isinstance(prompt, str) or not prompt.strip() or len(answer) != 1 or not answer.isalpha():
        raise StudyError(f"{row.place} has no question with a letter as its answer: repair the file.")
    return stem, row.problem(prompt, answer)


def _tool_calls(rows: list[Row], where: str | Path) -> Found:
    """Requests with gold calls that can be read, and how many can't (some of the published ones are no JSON)."""
    asked = [(row, prompt, _calls(calls)) for row in rows for prompt, calls in _requests(row)]
    found = [row.problem(prompt, calls) for row, prompt, calls in asked if calls]
    if not found:
        raise StudyError(f"{where} has no request with readable gold calls: check the file.")
    return found, {"unreadable": len(asked) - len(found)}


def _requests(row: Row) -> Iterator[tuple[str, Any]]:
    """A row's prompts with their gold calls as written."""
    api = row.cells
    if "Instructions" not in api:
        if not isinstance(row.asked, str) or not row.asked.strip() or row.answer is None:
            raise StudyError(
                f"{row.place} has neither `Instructions` with `Golden_Answers` nor a `prompt` with an `answer`; it has "
                f"{', '.join(map(str, api)) or 'nothing'}."
            )
        yield row.asked, row.answer
        return
    requests, answers = api["Instructions"], api.get("Golden_Answers")
    if not isinstance(requests, list) or not isinstance(answers, list) or len(requests) != len(answers):
        raise StudyError(f"{row.place} must have as many `Golden_Answers` as `Instructions`: repair the file.")
    tools = first_of(row.cells, "NLDocumentation", "Functions")
    if not isinstance(tools, str):
        raise StudyError(f"{row.place} documents no tools (`NLDocumentation`): repair the file.")
    name, about = api.get("Name", "an API"), first_of(row.cells, "Introduction", "Description") or ""
    for request, calls in zip(requests, answers, strict=True):
        yield TOOLS_PROMPT.format(name=name, about=about, tools=tools.strip(), request=request), calls


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
