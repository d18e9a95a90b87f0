"""The regime: what runs on seeds of their own said about a profile's setting, and which rates and steps were chosen, before a
study.

Each pair of learning rate and length (of a bridge also each share of warmup) is tried once, on the regime's first seed, and
counts by the accuracy on validation problems where it ends, or by its best on the way where the profile says so
(`regime.count_by`). The rate and share are those of the best run; the steps are the fewest that, with these, come within a
point of the best. The same for every stage; no evaluation set and no comparison of routes has a say.
"""

from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.errors import StudyError
from s2d_lib.pipeline import Trial
from s2d_lib.report.figures import Line, lines
from s2d_lib.report.looks import load_report
from s2d_lib.report.map import BEST
from s2d_lib.report.style import PALETTE
from s2d_lib.results.bundle import read_evaluation, summarise
from s2d_lib.runs import FinishedRun
from s2d_lib.study.profile import Profile
from s2d_lib.study.settings import MAIN
from s2d_lib.study.stage_params import METHODS

PLACE = ["cell", "checkpoint", "decoding"]
TRIED = ["learning_rate", "warmup", "steps"]
WITHIN = 0.01  # of accuracy: what more steps must be worth


def write_regime(runs: list[tuple[str, FinishedRun]], path: Path) -> None:
    """Write the accuracies of runs, each with the dials of its cell on a map (empty for none): a row a run with `cell`,
    `checkpoint`, `seed`, `decoding` and every evaluation set; a base model has a second row, at the decoding that suits it
    best on each set."""
    rows = []
    for cell, run in runs:
        table = read_evaluation(run.path("evaluation.csv"), decoding=None)
        groups = table.assign(decoding=table.get("decoding", MAIN)).groupby("decoding", sort=False)
        at = pd.DataFrame({decoding: summarise(part).set_index("set")["avg"] for decoding, part in groups})
        place = {"cell": cell, "checkpoint": run.name, "seed": run.record["resolved"]["seed"]}
        rows.append(place | {"decoding": MAIN} | at[MAIN].to_dict())
        if run.record["resolved"]["stage"] == "base" and at.shape[1] > 1:
            rows.append(place | {"decoding": BEST} | at.max(axis=1).to_dict())
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4f")


def write_trials(tried: list[tuple[Trial, FinishedRun]], path: Path) -> None:
    """Write the validation curves of the tried runs, a row a measurement. `stage` is `stage_3` where sparse RL goes on from a
    trained checkpoint, `bridge` where both of its stages are tried at once; `steps` are those tried, of a whole pool and of
    the stage alone (a run on half of the labels takes half, a control may add another stage's); `warmup` is the share of a
    bridge's steps."""
    parts = []
    for trial, run in tried:
        resolved = trial.resolved
        place = {"profile": resolved.profile, "checkpoint": run.name, "stage": trial.stage, "role": resolved.role}
        place |= {"learning_rate": trial.learning_rate, "steps": trial.steps, "warmup": trial.warmup or 0.0}
        rows = pd.read_csv(run.path("validation.csv"))[["step", "accuracy"]]
        parts.append(rows.assign(**place)[[*place, "step", "accuracy"]])
    if parts:
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(parts).to_csv(path, index=False, float_format="%.5g")


def read_regime(path: Path) -> pd.DataFrame:
    """The committed regime check, or the trials beside it, as they were written; a StudyError where they have not been made."""
    if not path.is_file():
        raise StudyError(f"{path} does not exist: make it with `make regime`.")
    rows = pd.read_csv(path, keep_default_na=False)
    older = {"profile": path.parent.name, "warmup": 0.0} if "step" in rows else {"cell": "", "decoding": MAIN}
    return rows.assign(**{name: value for name, value in older.items() if name not in rows})


def regime_table(path: Path) -> pd.DataFrame:
    """The committed regime check for readers: accuracies by checkpoint (mean; of several seeds the lowest and highest)."""
    rows = read_regime(path)
    own = rows.groupby(PLACE, sort=False)
    several = " ({1:.3f} to {2:.3f})" if rows["seed"].nunique() > 1 else ""
    text = lambda v: ("{0:.3f}" + several * (len(v) > 1)).format(v.mean(), v.min(), v.max())  # noqa: E731
    table = pd.DataFrame({name: own[name].agg(text) for name in rows if name not in (*PLACE, "seed")})
    table.insert(0, "seeds", own.size())
    return table


def criteria(path: Path, main_sets: list[str]) -> pd.DataFrame:
    """What a regime must be like for the question to be open in it, cell by cell: points, the lower of the main sets' (those
    like the pool; the others ask what has been forgotten), means over seeds, and whether that is `met`. Untrained models count
    at the decoding that suits them best. The path is that of a committed check of a part with the usual routes."""
    mean = read_regime(path).groupby(PLACE, sort=False).mean(numeric_only=True).drop(columns="seed")
    rows = []
    for cell in mean.index.unique("cell"):
        at = lambda name, cell=cell: mean.loc[cell, name, MAIN if "." in name else BEST]  # noqa: E731
        for one in load_report().criteria:
            gain = pd.DataFrame(map(at, one.of)).max() - at(one.minus)
            found = {one.says: gain[main_sets].min()}
            if one.outside:
                found = {f"{one.says}, {name}": points for name, points in gain.drop(main_sets).items()}
            for words, points in found.items():
                row = {"cell": cell, "criterion": words, "points": round(100 * float(points), 1)}
                rows.append(row | {"met": bool(100 * points >= one.at_least)})
    return pd.DataFrame(rows)


def choose(trials: pd.DataFrame, by: Literal["end", "best"] = "end", up_to: float | None = None) -> pd.DataFrame:
    """The choice for every stage and role, by where a run ends or by its best, at a rate of at most `up_to`: `stage`, `role`,
    `learning_rate`, `steps`, `warmup` (0 but of a bridge), `accuracy`, what was `tried`. Where a stage is tried on several
    checkpoints or profiles, a trial counts by its mean over them."""
    rows = []
    for (stage, role), tried in trials.groupby(["stage", "role"], sort=False):
        runs = tried.groupby(["profile", "checkpoint", *TRIED])["accuracy"]
        every = runs.agg("last" if by == "end" else "max").groupby(TRIED).mean()
        worth = every.loc[:up_to] if up_to else every
        rate, share, _ = worth.idxmax()
        steps = int((worth[rate, share] >= worth.max() - WITHIN).idxmax())  # the index is sorted, so it is the fewest
        names = [" or ".join(f"{v:g}" for v in every.index.unique(level)) for level in TRIED]
        text = f"rates {names[0]}; {names[2]} steps" + (f"; {names[1]} of them warmup" if share else "")
        row = {"stage": stage, "role": role, "learning_rate": rate, "steps": steps, "warmup": share}
        rows.append(row | {"accuracy": worth[rate, share, steps], "tried": text})
    return pd.DataFrame(rows)


def misfits(choice: pd.DataFrame, settings: Profile) -> list[str]:
    """Where a profile does not have what was chosen, one sentence each."""
    found = []
    for row in choice.to_dict("records"):
        stage, role, names = row["stage"], row["role"], ["learning_rate", "steps"]
        if stage in METHODS:
            own = settings.stage_settings("self_distillation", role, method=stage)
        elif stage == "stage_3":
            own = settings.stage_settings("sparse_rl", role, goes_on=True)
        elif stage == "bridge":
            first, second = (settings.stage_settings(name, role) for name in ("forward_kl", "opd"))
            steps = first["steps"] + second["steps"]
            own, names = first | {"steps": steps, "warmup": first["steps"] / steps}, [*names, "warmup"]
        else:
            own = settings.stage_settings(stage, role)
        differ = [name for name in names if own[name] != row[name]]
        found += [f"{stage} of {role}: {name} is {own[name]}, chosen was {row[name]}" for name in differ]
    return found


def trials_figure(trials: pd.DataFrame, choice: pd.DataFrame) -> Figure:
    """Validation accuracy over the steps, a panel a tried checkpoint, a line a run, a colour a rate or, of a bridge, a share
    of warmup; the panel's title has the choice."""
    several, panels = trials["profile"].nunique() > 1, {}
    by, chosen = ["profile", "checkpoint", "stage", "role"], choice.set_index(["stage", "role"])
    for (profile, checkpoint, stage, role), part in trials.groupby(by, sort=False):
        row, dial = chosen.loc[(stage, role)], "warmup" if stage == "bridge" else "learning_rate"
        head = f"{profile}, {checkpoint}\n" if several else f"{checkpoint}\n"
        head += f"{stage}: {row['learning_rate']:g}, {row['steps']} steps"
        head += f", {row['warmup']:g} warmup" if row["warmup"] else ""
        panels[head] = own = []
        for color, (value, runs) in zip(PALETTE, part.groupby(dial), strict=False):
            word = f"{dial.removeprefix('learning_')} {value:g}"
            for _, run in runs.groupby(["learning_rate", "steps"]):
                own.append(Line(word, run["step"], *[100 * run["accuracy"]] * 3, color))
    words = ("What was tried", "optimiser step", "validation accuracy, %", True)
    figure = lines(panels, *words, size=(3.6, 2.5), ylim=(0, 100))
    for axes in figure.axes:
        axes.title.set_fontsize(8)
    return figure
