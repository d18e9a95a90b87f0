"""The regime check: what runs on their own seeds said about the setting and its learning rates, before the study."""

from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.report.bundle import read_evaluation
from s2d_lib.report.summary import summarise
from s2d_lib.runs import FinishedRun

LAST_STEPS = 10


def write_regime(runs: list[FinishedRun], path: Path) -> None:
    """One row a run: accuracies, and the mean of its training curve over the last steps.

    The curve's end is what learning rates are chosen by (reward for sparse RL, divergence or loss for dense stages),
    so that no evaluation set and no comparison of routes has a say in it.
    """
    rows = []
    for run in runs:
        resolved = run.record["resolved"]
        row = {
            "checkpoint": run.name,
            "seed": resolved["seed"],
            "learning_rate": resolved["params"].get("learning_rate"),
            "trial": bool(resolved["overrides"]),
        }
        if run.path("metrics.csv").is_file():
            metrics = pd.read_csv(run.path("metrics.csv")).tail(LAST_STEPS)
            name = "reward" if "reward" in metrics else "loss"
            row |= {"curve": name, "end_of_curve": metrics[name].mean()}
        if run.path("evaluation.csv").is_file():
            row |= {
                s["set"]: s["avg"] for s in summarise(read_evaluation(run.path("evaluation.csv"))).to_dict("records")
            }
            rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4f")


def regime_table(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The committed regime check, for reading.

    Returns:
        Accuracies by checkpoint at the profile's own rates (mean, lowest and highest seed), and every learning rate
        tried with the end of its training curve.

    Raises:
        StudyError: When the check has not been made.
    """
    if not path.is_file():
        raise StudyError(f"{path} does not exist: make it with `make regime`.")
    rows = pd.read_csv(path)
    sets = [c for c in rows.columns[rows.columns.get_loc("trial") + 1 :] if c not in ("curve", "end_of_curve")]
    own = rows[~rows["trial"]].groupby("checkpoint", sort=False)
    criteria = pd.DataFrame(
        {name: own[name].agg(lambda v: f"{v.mean():.3f} ({v.min():.3f} to {v.max():.3f})") for name in sets}
    )
    criteria.insert(0, "seeds", own.size())
    tried = rows.dropna(subset=["learning_rate"])
    trials = tried[tried["seed"] == tried["seed"].min()].sort_values(["checkpoint", "learning_rate"])
    return criteria[criteria["seeds"] > 1], trials[["checkpoint", "learning_rate", "curve", "end_of_curve"]]
