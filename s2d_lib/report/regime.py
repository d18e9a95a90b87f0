"""The regime check: what runs on their own seeds said about the setting, before the study."""

from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import read_evaluation
from s2d_lib.results.summary import summarise
from s2d_lib.runs import FinishedRun


def write_regime(runs: list[FinishedRun], path: Path) -> None:
    """Write the accuracies of runs: a row a run, `checkpoint`, `seed` and every evaluation set."""
    rows = []
    for run in runs:
        sets = summarise(read_evaluation(run.path("evaluation.csv"))).to_dict("records")
        row = {"checkpoint": run.name, "seed": run.record["resolved"]["seed"]}
        rows.append(row | {s["set"]: s["avg"] for s in sets})
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4f")


def regime_table(path: Path) -> pd.DataFrame:
    """The committed regime check, for reading: accuracies by checkpoint (mean, lowest and highest seed).

    Raises:
        StudyError: When the check has not been made.
    """
    if not path.is_file():
        raise StudyError(f"{path} does not exist: make it with `make regime`.")
    rows = pd.read_csv(path)
    sets = [c for c in rows if c not in ("checkpoint", "seed")]
    own = rows.groupby("checkpoint", sort=False)
    table = pd.DataFrame(
        {name: own[name].agg(lambda v: f"{v.mean():.3f} ({v.min():.3f} to {v.max():.3f})") for name in sets}
    )
    table.insert(0, "seeds", own.size())
    return table[table["seeds"] > 1]
