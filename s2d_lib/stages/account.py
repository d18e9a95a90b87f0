"""The account of labels: gradings.jsonl, one row each time a completion was graded against a problem's answer."""

import json
from pathlib import Path

import pandas as pd


def account_row(step: int, problem: str, tokens: int, correct: float) -> str:
    """One grading as a line of the account.

    Args:
        step: The optimiser step that it was made for; 0 for all of them where answers are graded before training.
        problem: Id of the problem.
        tokens: Length of the completion.
        correct: 1 or 0.
    """
    return json.dumps({"step": step, "problem": problem, "tokens": tokens, "correct": int(correct)}) + "\n"


def read_account(path: Path) -> pd.DataFrame:
    """All gradings in their order: step, problem, tokens, correct."""
    return pd.read_json(path, lines=True)


def label_use(gradings: pd.DataFrame) -> dict:
    """What the record says of label use: how often each problem's answer was used, and how many gradings that makes."""
    used = gradings.groupby("problem", sort=True).size()
    return {"problems": {str(name): int(times) for name, times in used.items()}, "gradings": len(gradings)}
