"""Where the time of a study goes, from the records of its runs."""

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from s2d_lib.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from s2d_lib.results.bundle import Bundle

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
    """Seconds of every phase (see PHASES) of a run, by stage and the role of the model that trains, on the machine that made
    them.

    Returns:
        Index: stage and role; `runs`, then the phases, each a mean over the runs. The last row is all of them.
    """
    rows = []
    for record in bundle.records.values():
        phases, resolved = record.get("phases", {}), record["resolved"]
        inside = sum(seconds for name, seconds in phases.items() if name not in ("papermill", "imports"))
        what = f"{resolved['stage']}, {resolved['role']}"
        rows.append({"stage": what, **phases, "other": record["seconds"] - inside})
    table = pd.DataFrame(rows, columns=["stage", *PHASES]).fillna(0.0)
    by_stage = table.groupby("stage", sort=False)
    means = by_stage[list(PHASES)].mean().assign(runs=by_stage.size())
    means = means.loc[means[list(PHASES)].sum(axis=1).sort_values(ascending=False).index]
    means.loc["all"] = table[list(PHASES)].mean().to_dict() | {"runs": len(table)}
    return means[["runs", *PHASES]].astype({"runs": int})


def study_time_plot(table: pd.DataFrame) -> Figure:
    """`study_time` as one stacked bar a stage and role."""
    fig, axes = plt.subplots(figsize=(7.5, 0.32 * len(table) + 1.2))
    left = pd.Series(0.0, index=table.index)
    labels = [f"{what} ({runs} runs)" for what, runs in table["runs"].items()]
    for phase, color in PHASES.items():
        axes.barh(labels, table[phase], left=left, color=color, label=phase, edgecolor="white", linewidth=0.5)
        left += table[phase]
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="seconds of one run, mean", title="Where the time of the study goes")
    fig.legend(ncols=len(PHASES), loc="outside lower center", handlelength=1, columnspacing=1)
    return fig
