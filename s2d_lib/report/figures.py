"""Figures of a study: accuracies with intervals, and the curves of its training."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_lib.report.decodings import STUDENT, shared_decodings, with_best
from s2d_lib.report.run_pages import run_page
from s2d_lib.report.style import BEST, BLACK, GREY, ROUTE_LABELS, entitle, route_label, route_look, use_style
from s2d_lib.report.tables import at_decoding
from s2d_lib.results.bundle import Bundle, ancestry

MARKS = "sdv^<>"  # of further decodings
OPEN = {"color": BLACK, "markerfacecolor": "none", "markersize": 4, "markeredgewidth": 0.8}


def accuracy_figure(bundle: Bundle, numbers: pd.DataFrame, title: str) -> Figure:
    """Accuracy of every row of a table, one panel a set: the mean with its 95% interval, and each seed as a dot;
    dotted the untrained student, where it is a row, at its best temperature, if that is known. Where the table has several
    decodings, small open marks show the means at the further ones.

    In an SVG beside the run pages, a mean leads to the page of its runs.
    """
    use_style()
    bundle = with_best(bundle)
    sets, decodings = bundle.sets, shared_decodings(bundle, [c for c in numbers["checkpoint"] if not c.endswith(BEST)])
    further = dict(zip(MARKS, decodings[1:], strict=False))
    figure, panels = plt.subplots(
        1, len(sets), sharey=True, figsize=(3.4 * len(sets) + 2.0, 0.36 * len(numbers) + 1.3), squeeze=False
    )
    places = np.arange(len(numbers))[::-1]
    for axes, name in zip(panels[0], sets, strict=True):
        for place, row in zip(places, numbers.to_dict("records"), strict=True):
            color, marker = route_look(row["checkpoint"])
            seeds = bundle.accuracy(row["checkpoint"], name).mean(axis=1)
            axes.plot(100 * seeds, np.full(len(seeds), place - 0.26), ".", color=color, alpha=0.55, markersize=4)
            mean, low, high = (100 * row[c] for c in (name, f"{name} low", f"{name} high"))
            bars = axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt=marker, color=color, capsize=3)
            bars.lines[0].set_url(run_page(row["checkpoint"]))
            axes.annotate(f"{mean:.1f}", (mean, place), (0, 5), textcoords="offset points", ha="center", fontsize=8)
            for mark, decoding in further.items():
                axes.plot(100 * row[at_decoding(name, decoding)], place, mark, **OPEN)
        axes.set(title=name, xlabel="avg@16, %" if _samples(bundle, name) == 16 else f"avg@{_samples(bundle, name)}, %")
        at_best = numbers["checkpoint"] == f"{STUDENT}{BEST}"
        for untrained in numbers.loc[at_best if at_best.any() else numbers["checkpoint"] == STUDENT, name]:
            axes.axvline(100 * untrained, color=GREY, linestyle=":", linewidth=1, zorder=0)
        axes.set_xlim(0, 100)
        if further:
            axes.set_ylim(-0.6, len(numbers) - 0.4)
        axes.grid(axis="y", visible=False)
    panels[0][0].set_yticks(places, numbers["route"])
    if further:
        handles = [Line2D([], [], marker="o", linewidth=0, color=GREY)]
        handles += [Line2D([], [], marker=mark, linewidth=0, **OPEN) for mark in further]
        figure.legend(handles, decodings, loc="outside lower right", ncols=len(handles))
    entitle(figure, title)
    plt.close(figure)
    return figure


def _samples(bundle: Bundle, name: str) -> int:
    return len(bundle.evaluation.loc[bundle.evaluation["set"] == name, "correct"].iloc[0])


def curves_figure(bundle: Bundle, metric: str, ylabel: str, title: str, log: bool = False) -> Figure:
    """A metric over the optimiser steps of every run that has it: the mean over seeds, and their range.

    Each seed's curve is a running mean over the last 5 steps.
    """
    use_style()
    rows = bundle.curves.dropna(subset=[metric]).sort_values(["checkpoint", "seed", "step"], kind="stable")
    smooth = rows.groupby(["checkpoint", "seed"])[metric].transform(lambda v: v.rolling(5, min_periods=1).mean())
    order = [name for name in ROUTE_LABELS if name in set(rows["checkpoint"])]
    order += sorted(set(rows["checkpoint"]) - set(order))
    labels = {name: ROUTE_LABELS.get(name, route_label(name)) for name in order}
    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    sns.lineplot(
        data=rows.assign(value=smooth, route=rows["checkpoint"].map(labels)),
        x="step",
        y="value",
        hue="route",
        hue_order=list(labels.values()),
        palette=[route_look(name)[0] for name in order],
        estimator="mean",
        errorbar=("pi", 100),
        ax=axes,
    )
    axes.set(xlabel="optimiser step", ylabel=ylabel, title=title, yscale="log" if log else "linear")
    legend = axes.legend(title="line: mean over seeds of running means\nover 5 steps, band: their range")
    legend.get_title().set_fontsize("small")
    plt.close(figure)
    return figure


def of_stages(bundle: Bundle, stages: tuple[str, ...], routes: Sequence[str]) -> Bundle:
    """The bundle with the curves of these stages only, of the routes and what they are made from."""
    needed = {run for route, seed in bundle.records if route in routes for run in ancestry(bundle, route, seed)}
    chosen = {
        name for (name, _), record in bundle.records.items() if name in needed and record["resolved"]["stage"] in stages
    }
    return Bundle(bundle.evaluation, bundle.curves[bundle.curves["checkpoint"].isin(chosen)], bundle.records)
