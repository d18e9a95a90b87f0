"""Where the time of a study goes, from the records of its runs."""

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from s2d_lib.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, ROUTE_LABELS, SKY, VERMILLION
from s2d_lib.results.bundle import Bundle
from s2d_lib.study.problem_sets import AT

# In the order of a job: starting papermill, starting the kernel and importing, reading parents, rollouts in training,
# forward and backward passes with the optimiser's update, accuracy while training, avg@k, and writing, plotting and all else.
PHASES = {
    "papermill": GREY,
    "imports": PURPLE,
    "loading": SKY,
    "sampling": ORANGE,
    "updates": BLUE,
    "validation": BLACK,
    "evaluation": GREEN,
    "other": VERMILLION,
}


def study_time(bundle: Bundle) -> pd.DataFrame:
    """Seconds of every phase (see PHASES) by checkpoint, mean over seeds, on the machine that made the runs;
    without the label frontier's, which are the same stages on fewer problems."""
    rows = []
    for (checkpoint, seed), record in bundle.records.items():
        if AT in checkpoint:
            continue
        phases = record.get("phases", {})
        inside = sum(seconds for name, seconds in phases.items() if name not in ("papermill", "imports"))
        rows.append({"checkpoint": checkpoint, "seed": seed, **phases, "other": record["seconds"] - inside})
    table = pd.DataFrame(rows).fillna(0.0)
    return table.groupby("checkpoint", sort=False)[list(PHASES)].mean()


def study_time_plot(table: pd.DataFrame) -> Figure:
    """`study_time` as one stacked bar a checkpoint, the whole study (mean checkpoint) last."""
    shown = pd.concat([table, table.mean().to_frame("mean of all").T])
    shown = shown.loc[[*table.sum(axis=1).sort_values(ascending=False).index, "mean of all"]]
    fig, axes = plt.subplots(figsize=(7.5, 0.32 * len(shown) + 1.2))
    left = pd.Series(0.0, index=shown.index)
    labels = [ROUTE_LABELS.get(name, name) for name in shown.index]
    for phase, color in PHASES.items():
        axes.barh(labels, shown[phase], left=left, color=color, label=phase, edgecolor="white", linewidth=0.5)
        left += shown[phase]
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="seconds of one job, mean over seeds", title="Where the time of the study goes")
    fig.legend(ncols=len(PHASES), loc="outside lower center", handlelength=1, columnspacing=1)
    return fig
