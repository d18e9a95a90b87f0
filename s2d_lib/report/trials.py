"""Rates and steps of every stage, chosen before the study by the stage's own validation curve; the same rule for all.

Each rate is tried once, on the regime's first seed, for as many steps as the profile's trial says. The curve is the
accuracy on validation problems, as a mean over neighbouring measurements. The rate is the one with the highest point;
the steps are the fewest that come within a point of it. No evaluation set and no comparison of routes has a say.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.errors import StudyError
from s2d_lib.report.style import PALETTE, use_style
from s2d_lib.runs import FinishedRun
from s2d_lib.study.problem_sets import HALVES
from s2d_lib.study.profile import Profile

NEIGHBOURS = 3  # measurements that a point of the curve is the mean of
WITHIN = 0.01  # of accuracy: what more steps must be worth


def write_trials(runs: list[FinishedRun], path: Path) -> None:
    """Write the validation curves of the tried runs (those with overrides).

    One row a measurement: `checkpoint`, `stage` (`stage_3` where sparse RL goes on from a trained checkpoint), `role`,
    `learning_rate`, `step`, `accuracy`. Steps are the profile's, of which a run on a half of the labels takes half.
    """
    parts = []
    for run in runs:
        resolved = run.record["resolved"]
        if resolved["overrides"] and run.path("validation.csv").is_file():
            place = {
                "checkpoint": run.name,
                "stage": "stage_3" if "stage_3" in resolved["overrides"] else resolved["stage"],
                "role": resolved["role"],
                "learning_rate": resolved["params"]["learning_rate"],
            }
            rows = pd.read_csv(run.path("validation.csv"))[["step", "accuracy"]]
            rows["step"] *= 2 if resolved["labels"] in HALVES else 1
            parts.append(rows.assign(**place)[[*place, "step", "accuracy"]])
    if parts:
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(parts).to_csv(path, index=False, float_format="%.5g")


def read_trials(path: Path) -> pd.DataFrame:
    """The committed curves, with the mean over neighbours as `smooth` (NaN where a neighbour is missing).

    Raises:
        StudyError: When the trials have not been made.
    """
    if not path.is_file():
        raise StudyError(f"{path} does not exist: make it with `make regime`.")
    rows = pd.read_csv(path)
    curves = rows.groupby(["checkpoint", "stage", "learning_rate"], sort=False)["accuracy"]
    return rows.assign(smooth=curves.transform(lambda v: v.rolling(NEIGHBOURS, center=True).mean()))


def choose(trials: pd.DataFrame) -> pd.DataFrame:
    """The choice for every stage and role.

    Where a stage is tried on several checkpoints, a rate counts by the mean of their highest points; the steps are those
    of the first one, whose stage it is (the others are controls that take the steps of several stages).

    Args:
        trials: As `read_trials` gives them.

    Returns:
        One row a stage and role: `stage`, `role`, `learning_rate`, `steps`, `accuracy` (of the highest point), `tried`.
    """
    rows = []
    for (stage, role), tried in trials.groupby(["stage", "role"], sort=False):
        best = tried.groupby(["learning_rate", "checkpoint"])["smooth"].max()
        rate = best.groupby("learning_rate").mean().idxmax()
        own = tried[tried["checkpoint"] == tried["checkpoint"].iloc[0]]
        steps = _enough(own[own["learning_rate"] == rate])
        rates = ", ".join(f"{r:g}" for r in sorted(tried["learning_rate"].unique()))
        row = {"stage": stage, "role": role, "learning_rate": rate, "steps": steps, "accuracy": best[rate].mean()}
        rows.append(row | {"tried": f"{rates}; up to {own['step'].max()} steps"})
    return pd.DataFrame(rows)


def _enough(curve: pd.DataFrame) -> int:
    return int(curve.loc[curve["smooth"] >= curve["smooth"].max() - WITHIN, "step"].min())


def misfits(choice: pd.DataFrame, settings: Profile) -> list[str]:
    """Where a profile does not have what was chosen, one sentence each."""
    found = []
    for row in choice.to_dict("records"):
        goes_on, stage = row["stage"] == "stage_3", "sparse_rl" if row["stage"] == "stage_3" else row["stage"]
        own = settings.stage_settings(stage, row["role"], goes_on)
        for name in ("learning_rate", "steps"):
            if own[name] != row[name]:
                found.append(f"{row['stage']} of {row['role']}: {name} is {own[name]}, chosen was {row[name]}")
    return found


def trials_figure(trials: pd.DataFrame, choice: pd.DataFrame) -> Figure:
    """Validation accuracy over the steps, a panel a tried checkpoint, a line a rate; the choice is marked."""
    use_style()
    panels = list(trials.groupby(["checkpoint", "stage", "role"], sort=False))
    columns = 3
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.5 * rows), squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, ((checkpoint, stage, role), part) in zip(grid.flat, panels, strict=False):
        row = choice[(choice["stage"] == stage) & (choice["role"] == role)].iloc[0]
        for color, (rate, curve) in zip(PALETTE, part.groupby("learning_rate"), strict=False):
            axes.plot(curve["step"], 100 * curve["accuracy"], color=color, alpha=0.3, linewidth=1)
            axes.plot(curve["step"], 100 * curve["smooth"], color=color, label=f"{rate:g}")
        axes.axvline(row["steps"], color="0.4", linestyle=":", linewidth=1)
        axes.set_title(f"{checkpoint}\n{row['learning_rate']:g}, {row['steps']} steps", fontsize=8)
        axes.legend(title="rate", fontsize=6, title_fontsize=6, ncols=2)
        axes.set(xlabel="optimiser step", ylabel="validation accuracy, %", ylim=(0, 100))
        axes.label_outer()
    plt.close(figure)
    return figure
