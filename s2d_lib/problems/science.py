"""SciKnowEval's reasoning level as multiple-choice problems: Chemistry, Physics, Biology and Materials.

Layouts read here: the Hub dataset's (and its jsonl files'), of which the multiple-choice questions of level L3 count, and
rows with a `prompt` that already holds the choices and a letter as `answer`, and a `system` message, as SDPO's authors keep
them: `sdpo-<domain>` are their own splits, row for row.
"""

from pathlib import Path
from typing import Any

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem, content_id
from s2d_lib.problems.competition import ProblemSet, distinct, feedback_of, first_of, system_of, user_message
from s2d_lib.problems.files import load_rows

HUB = "hicai-zju/SciKnowEval"
SPLIT = "test"  # the only one there is
LEVEL = "L3"  # of reasoning
DOMAINS = {
    "sciknoweval-chemistry": "chemistry",
    "sciknoweval-physics": "physics",
    "sciknoweval-biology": "biology",
    "sciknoweval-material": "material",
}
DOMAINS |= {f"sdpo-{domain}": domain for domain in ("chemistry", "physics", "biology", "material")}


def load_science(name: str, source: str | Path | None = None, split: str | None = None) -> ProblemSet:
    """One of the four subsets, from the Hub or a local file.

    Questions that stand there several times, with their choices in other orders, count once: the first is kept; but of
    SDPO's splits all are.

    Args:
        name: A key of `DOMAINS`.
        source: A local file or another Hub id; SciKnowEval's own if None, which SDPO's splits are not.
        split: On the Hub; SciKnowEval's only one if None.

    Raises:
        StudyError: An unknown name, an unreadable source, a broken row, or no question of that domain and level.
    """
    if name not in DOMAINS:
        raise StudyError(f"Unknown dataset '{name}': use one of {', '.join(DOMAINS)}.")
    where = HUB if source is None else source
    rows = load_rows(where, split=split or SPLIT)
    stems: set[str] = set()
    kept: list[tuple[str, Problem]] = []
    counted = 0
    for number, row in enumerate(rows, 1):
        if not _counts(row, DOMAINS[name]):
            continue
        counted += 1
        stem, problem = _read(name, where, number, row)
        words = problem.prompt if name.startswith("sdpo-") else " ".join(stem.split())
        if words not in stems:
            stems.add(words)
            kept.append((problem.prompt, problem))
    if not kept:
        raise StudyError(
            f"{where} has no multiple-choice question of domain {DOMAINS[name]} and level {LEVEL}: check the file."
        )
    found = distinct(name, kept, where, None)
    return ProblemSet(name, found.problems, found.report | {"rows": len(rows), "other_rows": len(rows) - counted})


def _counts(row: dict[str, Any], domain: str) -> bool:
    """Whether a row is a multiple-choice question of the domain and level; what it doesn't say is taken to fit."""
    kind = first_of(row, ("type", "kind")) or "mcq"
    kind = kind[0] if isinstance(kind, list) else kind
    level = first_of(row, ("details.level", "level")) or LEVEL
    return (
        str(kind).startswith("mcq")
        and str(level).strip() == LEVEL
        and str(row.get("domain") or domain).lower().startswith(domain)
    )


def _read(name: str, where: str | Path, number: int, row: dict[str, Any]) -> tuple[str, Problem]:
    """A row's question without its choices, and its problem."""
    key = first_of(row, ("answerKey", "reward_model.ground_truth", "answer"))
    answer = key.strip().upper() if isinstance(key, str) else ""
    choices = row.get("choices")
    if choices:
        stem, prompt = _with_choices(where, number, row, choices, answer)
    else:
        stem = first_of(row, ("description", "question", "prompt"))
        prompt = first_of(row, ("prompt", "question"))
        prompt = user_message(prompt) if isinstance(prompt, list) else prompt
        stem = stem if isinstance(stem, str) else prompt
    if not isinstance(prompt, str) or not prompt.strip() or len(answer) != 1 or not answer.isalpha():
        raise StudyError(f"Row {number} of {where} has no question with a letter as its answer: repair the file.")
    level = first_of(row, ("details.subtask", "details.task")) or ""
    return stem, Problem(content_id(name, prompt), prompt, answer, str(level), feedback_of(row), system_of(row))


def _with_choices(
    where: str | Path, number: int, row: dict[str, Any], choices: dict[str, Any], answer: str
) -> tuple[str, str]:
    question = row.get("question")
    labels, texts = (choices.get(part) if isinstance(choices, dict) else None for part in ("label", "text"))
    complete = isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts)
    if not isinstance(question, str) or not complete or answer not in labels:
        raise StudyError(
            f"Row {number} of {where} must have a `question`, `choices` with as many labels as texts, and one of the labels "
            "as `answerKey`: repair the file."
        )
    listed = "\n".join(f"{label}: {text}" for label, text in zip(labels, texts, strict=True))
    return question, f"{question.strip()}\n\n{listed}"
