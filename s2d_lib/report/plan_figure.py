"""The figure of a plan: GPU hours and memory of every kind of run."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s2d_lib.plan import Plan
from s2d_lib.plan.gpus import gpu_named
from s2d_lib.report.plan_tables import KIND, PARTS, cost_numbers, figure, memory_numbers
from s2d_lib.report.style import BLACK, PALETTE, entitle, use_style


def plan_figure(plan: Plan) -> Figure:
    """Hours of every kind of run over all checkpoints and seeds, with their range; and the memory of one such run by part.

    Activations and KV cache are drawn one after the other though they take turns. The line is one GPU's memory.
    """
    use_style()
    costs, memory = cost_numbers(plan).iloc[:-1], memory_numbers(plan)
    places = np.arange(len(costs))[::-1]
    fig, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(10.5, 0.32 * len(costs) + 1.6))
    sampling, hours = costs["hours sampling"], costs["hours"]
    left.barh(places, sampling, color=PALETTE[5], height=0.6, label="sampling")
    left.barh(places, hours - sampling, left=sampling, color=PALETTE[0], height=0.6, label="training and scoring")
    reach = np.abs(costs[["hours low", "hours high"]].to_numpy() - hours.to_numpy()[:, None]).T
    left.errorbar(hours, places, xerr=reach, fmt="none", ecolor=BLACK, capsize=2, linewidth=1)
    for place, value, end in zip(places, hours, costs["hours high"], strict=True):
        left.annotate(figure(value), (end, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    left.set(title="All checkpoints and seeds", xlabel=f"hours of one {plan.gpu} at {plan.utilisation:g} of its peak")
    left.set_yticks(places, costs[KIND].apply(_label, axis=1))
    left.set_xlim(0, 1.12 * costs["hours high"].max())
    left.legend(loc="lower right")
    _stack(right, memory, places)
    right.axvline(gpu_named(plan.gpu).memory / 1e9, color=BLACK, linestyle="--", label=f"one {plan.gpu}")
    right.set(title="One run in one process", xlabel="GB")
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
    entitle(fig, f"What profile {plan.profile} takes")
    plt.close(fig)
    return fig


def _stack(axes: Axes, memory: pd.DataFrame, places: np.ndarray) -> None:
    start = np.zeros(len(memory))
    for color, (part, label) in zip(PALETTE, PARTS.items(), strict=False):
        axes.barh(places, memory[part], left=start, color=color, height=0.6, label=label)
        start += memory[part].to_numpy()


def _label(kind: pd.Series) -> str:
    taught = f" by {kind['taught by']}" if kind["taught by"] else ""
    return f"{kind['stage']}, {kind['model']}{taught}"
