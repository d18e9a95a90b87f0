"""What always giving the same answer would score: a floor that an accuracy over few possible answers must be held against."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from s2d_lib.results.samples import FILE as SAMPLES
from s2d_lib.results.samples import read_samples, shown_answer
from s2d_lib.runs import FinishedRun

COLUMNS = ["set", "level", "problems", "answer", "share"]
FILE = "constant.csv"


def constant_answers(run: FinishedRun) -> pd.DataFrame:
    """The most frequent right answer of each level of each evaluation set, from a run that was evaluated.

    Returns:
        One row a set and level, with COLUMNS: `problems` in it, the `answer` (of several as frequent the first in order)
        and the `share` of the problems whose right answer it is. Nobody who always says the same on that level is right
        more often.
    """
    levels = pd.read_csv(run.path("evaluation.csv"), dtype=str, keep_default_na=False)
    levels = levels[["set", "problem", "level"]].drop_duplicates()  # of several decodings
    samples = read_samples(run.path(SAMPLES))
    table = levels.merge(samples[["set", "problem", "answer"]], on=["set", "problem"])
    table["answer"] = table["answer"].map(shown_answer)
    rows = []
    for (name, level), group in table.groupby(["set", "level"], sort=False):
        counts = group["answer"].value_counts()
        most = sorted(counts.index[counts == counts.max()])[0]
        rows.append(dict(zip(COLUMNS, (name, level, len(group), most, counts.max() / len(group)), strict=True)))
    return pd.DataFrame(rows, columns=COLUMNS)


def collected_constant(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """`constant_answers` of the first of a study's runs that was evaluated: they all are on the same problems."""
    for run in runs:
        if run.path(SAMPLES).is_file() and run.path("evaluation.csv").is_file():
            return constant_answers(run)
    return pd.DataFrame(columns=COLUMNS)


def read_constant(path: Path) -> pd.DataFrame:
    """Such a table; an answer stays text, a number or nothing too."""
    return pd.read_csv(path, keep_default_na=False, dtype={"set": str, "level": str, "answer": str})
