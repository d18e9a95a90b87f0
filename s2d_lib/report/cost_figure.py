"""Accuracy against what a whole route cost: gradings, tokens sampled, FLOPs of training."""

import contextlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from s2d_lib.claims.fair import seeds_of
from s2d_lib.errors import StudyError
from s2d_lib.plan.cost import DENSE, forward_flops
from s2d_lib.plan.shapes import shape_of
from s2d_lib.report.decodings import with_best
from s2d_lib.report.run_pages import run_page
from s2d_lib.report.style import entitle, route_look, use_style
from s2d_lib.results.bundle import Bundle, ancestry, spent

PANELS = {"gradings": "gradings", "tokens sampled": "tokens sampled", "flops": "training FLOPs"}
SIDE = 1.07  # times a cost, from one route to the next that has the same


def route_flops(bundle: Bundle, checkpoint: str, seed: int) -> float:
    """FLOPs of a route's whole ancestry, its teachers and their rollouts included, as s2d_lib.plan.cost counts them.

    6N for a token trained on, 2N for one that was sampled or that a teacher (also a model's own) scored, with the N
    parameters of the model that did it. Prompts, attention, validation and pretraining are left out.
    """
    total = 0.0
    for name in ancestry(bundle, checkpoint, seed):
        record = bundle.records[name, seed]
        run, trained = record["resolved"], record.get("trained_tokens", 0)
        if run["stage"] == "base":
            continue
        model = shape_of(run["model"]["model"])
        read = record.get("sampled", {}).get("tokens", 0)
        if run["stage"] == "self_distillation":
            read += spent(bundle, name, seed)["scored"].iloc[-1]
        total += 3 * forward_flops(model, trained) + forward_flops(model, read)
        if run["stage"] in DENSE:
            teacher = bundle.records[run["parents"]["teacher"], seed]["resolved"]["model"]["model"]
            total += forward_flops(shape_of(teacher), trained)
    return total


def cost_figure(bundle: Bundle, numbers: pd.DataFrame, name: str, title: str) -> Figure:
    """Every route's accuracy with its 95% interval against each cost of PANELS, logarithmic.

    What cost nothing stands at 0, and routes of one cost side by side.

    Args:
        bundle: The results.
        numbers: From `table_of`: accuracies and costs of the routes.
        name: Of the evaluation set.
        title: Of the figure.
    """
    use_style()
    bundle = with_best(bundle)
    with contextlib.suppress(StudyError):  # a model whose shape is not known: no panel
        flops = [np.mean([route_flops(bundle, c, s) for s in seeds_of(bundle, c)]) for c in numbers["checkpoint"]]
        numbers = numbers.assign(flops=flops)
    shown = {cost: label for cost, label in PANELS.items() if cost in numbers}
    figure, panels = plt.subplots(1, len(shown), sharey=True, figsize=(10.5, 4.8))
    for axes, (cost, label) in zip(panels, shown.items(), strict=True):
        least = numbers.loc[numbers[cost] > 0, cost].min() if numbers[cost].any() else 1.0
        alike = numbers.groupby(cost)[cost]
        beside = SIDE ** (alike.cumcount() - (alike.transform("size") - 1) / 2)
        for shift, row in zip(beside, numbers.to_dict("records"), strict=True):
            color, marker = route_look(row["checkpoint"])
            mean, low, high = (100 * row[c] for c in (name, f"{name} low", f"{name} high"))
            look = {"color": color, "fmt": marker, "capsize": 2.5, "label": row["route"]}
            bars = axes.errorbar(shift * (row[cost] or least / 4), mean, yerr=[[mean - low], [high - mean]], **look)
            bars.lines[0].set_url(run_page(row["checkpoint"]))
        axes.set(xscale="log", xlabel=f"{label}, whole route")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if (numbers[cost] == 0).any():
            axes.set_xlim(least / 8)
            axes.axvspan(least / 8, least / 2, color="#F2F2F2", zorder=0)
            axes.text(least / 4, 0.01, "0", transform=axes.get_xaxis_transform(), ha="center")
    panels[0].set(ylabel=f"{name}, accuracy in %", ylim=(0, 100))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    entitle(figure, title)
    plt.close(figure)
    return figure
