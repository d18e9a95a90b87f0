"""Rates and steps of every stage, chosen before the study by the stage's own validation curve; the same rule for all.

Each pair of learning rate and length (of a bridge also each share of warmup) is tried once, on the regime's first seed, and
counts by the accuracy on validation problems where it ends, or by its mean over training where the profile says so
(`regime.count_by`). The rate and share are those of the best run; the steps are the fewest that, with these, come within a
point of the best. No evaluation set and no comparison of routes has a say.
"""

from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.errors import StudyError
from s2d_lib.pipeline import Trial
from s2d_lib.report.style import PALETTE, use_style
from s2d_lib.runs import FinishedRun
from s2d_lib.study.profile import Profile
from s2d_lib.study.stage_params import METHODS

WITHIN = 0.01  # of accuracy: what more steps must be worth


def write_trials(tried: list[tuple[Trial, FinishedRun]], path: Path) -> None:
    """Write the validation curves of the tried runs.

    One row a measurement: `profile`, `checkpoint`, `stage` (`stage_3` where sparse RL goes on from a trained checkpoint, `bridge`
    where both of its stages are tried at once), `role`, `learning_rate`, `steps` (tried: of a whole pool, of which a run on half
    of the labels takes half, and of the stage alone, to which a control may add another's), `warmup` (share of a bridge's
    steps), `step` (of the run), `accuracy`.
    """
    parts = []
    for trial, run in tried:
        place = {
            "profile": trial.resolved.profile,
            "checkpoint": run.name,
            "stage": trial.stage,
            "role": trial.resolved.role,
            "learning_rate": trial.learning_rate,
            "steps": trial.steps,
            "warmup": trial.warmup or 0.0,
        }
        rows = pd.read_csv(run.path("validation.csv"))[["step", "accuracy"]]
        parts.append(rows.assign(**place)[[*place, "step", "accuracy"]])
    if parts:
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(parts).to_csv(path, index=False, float_format="%.5g")


def read_trials(path: Path) -> pd.DataFrame:
    """The committed curves, as `write_trials` has them.

    Raises:
        StudyError: When the trials have not been made.
    """
    if not path.is_file():
        raise StudyError(f"{path} does not exist: make it with `make regime`.")
    table = pd.read_csv(path)
    if "profile" not in table:  # of one profile alone
        table.insert(0, "profile", path.parent.name)
    return table if "warmup" in table else table.assign(warmup=0.0)  # no bridge was tried as a whole


def choose(trials: pd.DataFrame, by: Literal["end", "mean"] = "end", up_to: float | None = None) -> pd.DataFrame:
    """The choice for every stage and role.

    Where a stage is tried on several checkpoints or profiles, a pair counts by its mean over them.

    Args:
        trials: As `read_trials` gives them.
        by: What of its curve a trial counts by.
        up_to: The highest learning rate that can be chosen.

    Returns:
        One row a stage and role: `stage`, `role`, `learning_rate`, `steps`, `warmup` (0 but of a bridge), `accuracy` (where it
        ends, or its mean), `tried`.
    """
    rows = []
    for (stage, role), tried in trials.groupby(["stage", "role"], sort=False):
        place = ["learning_rate", "warmup", "steps"]
        runs = tried.groupby(["profile", "checkpoint", *place])["accuracy"]
        every = runs.agg("last" if by == "end" else "mean").groupby(place).mean()
        worth = every.loc[:up_to] if up_to else every
        rate, share, _ = worth.idxmax()
        steps = int((worth[rate, share] >= worth.max() - WITHIN).idxmax())  # the index is sorted, so it is the fewest
        names = [" or ".join(f"{v:g}" for v in every.index.unique(level)) for level in place]
        row = {"stage": stage, "role": role, "learning_rate": rate, "steps": steps, "warmup": share}
        text = f"rates {names[0]}; {names[2]} steps" + (f"; {names[1]} of them warmup" if share else "")
        rows.append(row | {"accuracy": worth[rate, share, steps], "tried": text})
    return pd.DataFrame(rows)


def misfits(choice: pd.DataFrame, settings: Profile) -> list[str]:
    """Where a profile does not have what was chosen, one sentence each."""
    found = []
    for row in choice.to_dict("records"):
        stage, role, asked = row["stage"], row["role"], {name: row[name] for name in ("learning_rate", "steps")}
        if stage in METHODS:
            own = settings.stage_settings("self_distillation", role, method=stage)
        elif stage == "stage_3":
            own = settings.stage_settings("sparse_rl", role, goes_on=True)
        elif stage == "bridge":
            parts = [settings.stage_settings(name, role) for name in ("forward_kl", "opd")]
            steps = sum(part["steps"] for part in parts)
            own = parts[0] | {"steps": steps, "warmup": parts[0]["steps"] / steps}
            asked |= {"warmup": row["warmup"]}
        else:
            own = settings.stage_settings(stage, role)
        found += [
            f"{stage} of {role}: {name} is {own[name]}, chosen was {value}"
            for name, value in asked.items()
            if own[name] != value
        ]
    return found


def trials_figure(trials: pd.DataFrame, choice: pd.DataFrame) -> Figure:
    """Validation accuracy over the steps, a panel a tried checkpoint, a line a run; the choice has the larger end."""
    use_style()
    panels = list(trials.groupby(["profile", "checkpoint", "stage", "role"], sort=False))
    several = trials["profile"].nunique() > 1
    columns = 3
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.5 * rows), squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, ((profile, checkpoint, stage, role), part) in zip(grid.flat, panels, strict=False):
        row = choice[(choice["stage"] == stage) & (choice["role"] == role)].iloc[0]
        split = stage == "bridge"
        for color, (tried, runs) in zip(PALETTE, part.groupby("warmup" if split else "learning_rate"), strict=False):
            for (rate, steps), curve in runs.groupby(["learning_rate", "steps"]):
                taken = (rate, steps) == (row["learning_rate"], row["steps"]) and (not split or tried == row["warmup"])
                label = f"{tried:g}" if steps == runs["steps"].max() else None
                axes.plot(curve["step"], 100 * curve["accuracy"], color=color, linewidth=1, label=label)
                end = curve.iloc[-1]
                axes.plot(end["step"], 100 * end["accuracy"], "o", color=color, markersize=8 if taken else 3)
        where = f"{profile}, {checkpoint}" if several else checkpoint
        chosen = f"{row['learning_rate']:g}, {row['steps']} steps" + (f", {row['warmup']:g} warmup" if split else "")
        axes.set_title(f"{where}\n{chosen}", fontsize=8)
        axes.legend(
            title="share of warmup" if split else "rate", fontsize=6, title_fontsize=6, ncols=3, loc="lower right"
        )
        axes.set(xlabel="optimiser step", ylim=(0, 100))
        if axes.get_subplotspec().is_first_col():
            axes.set(ylabel="validation accuracy, %")
    plt.close(figure)
    return figure
