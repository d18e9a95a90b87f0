"""Some completions of every checkpoint as text, for readers: of its first seed, one each of a set's first problems."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from s2d_lib.runs import FinishedRun

KEPT = 6  # problems of every evaluation set
COLUMNS = ["seed", "checkpoint", "set", "problem", "prompt", "answer", "completion", "correct"]
FILE = "samples.csv"


def kept_samples(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """The samples that a study's results keep, with COLUMNS; `answer` as a reader wants it."""
    first: dict[str, FinishedRun] = {}
    for run in sorted(runs, key=lambda one: one.record["resolved"]["seed"]):
        if run.path(FILE).is_file():
            first.setdefault(run.name, run)
    parts = []
    for name, run in first.items():
        table = read_samples(run.path(FILE)).groupby("set", sort=False).head(KEPT)
        parts.append(table.assign(seed=run.record["resolved"]["seed"], checkpoint=name)[COLUMNS])
    table = pd.concat(parts) if parts else pd.DataFrame(columns=COLUMNS)
    return table.assign(answer=table["answer"].map(shown_answer))


def write_samples(table: pd.DataFrame, path: Path) -> None:
    """Write samples with all text quoted: Python's csv before 3.13 leaves a carriage return bare, which ends a row."""
    table.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)


def read_samples(path: Path) -> pd.DataFrame:
    """Samples; what was said stays text, a number or nothing too."""
    texts = dict.fromkeys(("set", "problem", "prompt", "answer", "completion"), str)
    return pd.read_csv(path, keep_default_na=False, dtype=texts)


def shown_answer(answer: str) -> str:
    """A gold answer for readers: of reasoning-gym's notes only the answer itself."""
    try:
        note = json.loads(answer)
    except ValueError:
        return answer
    return str(note["answer"]) if isinstance(note, dict) and "answer" in note else answer
