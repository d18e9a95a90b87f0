"""Labels on the map: what a label is worth upstream and downstream, and what prompts without labels add."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from s2d_lib.claims.bootstrap import Estimate
from s2d_lib.report.map import BRIDGE, Chart
from s2d_lib.report.style import PALETTE, entitle, route_label, route_look, use_style

GRPO = "student.grpo"
SHOWN = (GRPO, BRIDGE, "teacher.rl")


def labels_needed(labels: np.ndarray, accuracy: np.ndarray, level: float) -> float:
    """How many labels a route needs for an accuracy, on a log2 axis.

    The curve is made monotone by isotonic regression first: labels never hurt in truth, and of points that fall a running
    maximum would take the luckiest.

    Args:
        labels: Budgets, increasing, shape (points,).
        accuracy: Of the route there, shape (points,).
        level: Asked for.

    Returns:
        0 where the smallest budget is better already, infinity where the largest does not suffice.
    """
    curve = isotonic_regression(accuracy).x
    if level < curve[0] or level > curve[-1]:
        return 0.0 if level < curve[0] else math.inf
    right = max(int(np.searchsorted(curve, level)), 1)
    rise = curve[right] - curve[right - 1]
    share = (level - curve[right - 1]) / rise if rise > 0 else 0.0
    place = np.log2(labels)
    return float(2 ** (place[right - 1] + share * (place[right] - place[right - 1])))


def labels_table(chart: Chart, name: str, part: str = "labels") -> pd.DataFrame:
    """Direct GRPO and the bridge on as many labels, cell by cell.

    Args:
        chart: The map.
        name: Of the evaluation set.
        part: One across `labels` and `opening` with both routes.

    Returns:
        A row an opening and budget: `opening`, `labels`, accuracies `grpo` and `bridge`, their `difference` with `low` and
        `high` (95%, paired), `mixed` (share of the student's groups with right and wrong answers, over the first ten steps of its
        GRPO), `needed` (labels with which direct GRPO is as good as the bridge), `fewest` and `most` (of single seeds).
    """
    spec, facts = chart.parts[part], chart.results.runs.set_index(["run", "seed"])
    budgets = np.array([float(text) for text in spec.across["labels"]])
    rows = []
    for opening in spec.across["opening"]:
        cells = [{"labels": text, "opening": opening} for text in spec.across["labels"]]
        cells = [{dial: cell[dial] for dial in spec.across} for cell in cells]
        direct, bridge = (
            np.stack([chart.accuracy(part, cell, route, name) for cell in cells]) for route in (GRPO, BRIDGE)
        )
        for place, cell in enumerate(cells):
            found = chart.difference(part, cell, BRIDGE, GRPO, name)
            by_seed = [
                labels_needed(budgets, curve, level)
                for curve, level in zip(direct.mean(2).T, bridge[place].mean(1), strict=True)
            ]
            mean = labels_needed(budgets, direct.mean((1, 2)), bridge[place].mean())
            rows.append(
                {"opening": opening, "labels": int(budgets[place]), "grpo": direct[place].mean(), "bridge": bridge[place].mean(),
                 "difference": found.mean, "low": found.low, "high": found.high,
                 "mixed": facts.loc[chart.runs(part, cell, GRPO)[1], "mixed_groups"].mean(),
                 "needed": mean, "fewest": min(by_seed), "most": max(by_seed)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def readable_labels(table: pd.DataFrame) -> pd.DataFrame:
    """`labels_table` for readers: percent and points with intervals, labels with the seeds' range."""
    most = table["labels"].max()

    def number(labels: float) -> str:
        return f"over {most}" if math.isinf(labels) else f"{labels:.0f}" if labels else f"under {table['labels'].min()}"

    return pd.DataFrame(
        {
            "opening": table["opening"],
            "labels": table["labels"],
            "mixed groups, %": (100 * table["mixed"]).round(1),
            "direct GRPO": (100 * table["grpo"]).round(1),
            "bridge": (100 * table["bridge"]).round(1),
            "difference": [
                f"{100 * r.difference:+.1f} [{100 * r.low:+.1f}, {100 * r.high:+.1f}]" for r in table.itertuples()
            ],
            "labels that direct GRPO needs": [
                f"{number(r.needed)} (seeds: {number(r.fewest)} to {number(r.most)})" for r in table.itertuples()
            ],
        }
    )


def mixed_rank(table: pd.DataFrame) -> tuple[float, float]:
    """Spearman's rank correlation over cells of the chance of a mixed group and the bridge's lead, and its p-value (MA3)."""
    found = spearmanr(table["mixed"], table["difference"])
    return float(found.statistic), float(found.pvalue)


def labels_figure(chart: Chart, name: str, part: str = "labels") -> Figure:
    """Accuracy by labels, a panel an opening: direct GRPO on the student, the teacher's GRPO, and what the bridge brings of it
    over free prompts; means with 95% intervals.

    Args:
        chart: The map.
        name: Of the evaluation set.
        part: One across `labels` and `opening` with these routes.
    """
    use_style()
    spec = chart.parts[part]
    budgets, openings = spec.across["labels"], spec.across["opening"]
    figure, panels = plt.subplots(
        1, len(openings), sharey=True, figsize=(3.1 * len(openings) + 1.4, 3.5), squeeze=False
    )
    for axes, opening in zip(panels[0], openings, strict=True):
        for route in SHOWN:
            cells = [{dial: {"labels": text, "opening": opening}[dial] for dial in spec.across} for text in budgets]
            _line(
                axes,
                budgets,
                [chart.estimate(part, cell, route, name) for cell in cells],
                route_label(route),
                *route_look(route),
            )
        axes.set(title=f"opening {opening}", xlabel="labeled problems", ylim=(0, 100))
    panels[0][0].set_ylabel(f"{name}, %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
    entitle(figure, "Who should get the labels, if prompts are free?")
    plt.close(figure)
    return figure


def prompts_figure(chart: Chart, name: str) -> Figure:
    """The bridge's accuracy by labels, a line a number of prompts for its transfer; means with 95% intervals. Needs the parts
    `prompts` and `labeled`."""
    use_style()
    figure, axes = plt.subplots(figsize=(6.5, 3.6))
    lines = {
        f"{prompts} prompts": (
            "prompts",
            [{"labels": text, "prompts": prompts} for text in chart.parts["prompts"].across["labels"]],
        )
        for prompts in chart.parts["prompts"].across["prompts"]
    }
    own = chart.parts["labeled"].across["labeled_prompts"]
    lines = {"labeled prompts only": ("labeled", [{"labeled_prompts": text} for text in own])} | lines
    known = list(dict.fromkeys([*own, *chart.parts["prompts"].across["labels"]]))
    known.sort(key=float)
    for (label, (part, cells)), color, marker in zip(lines.items(), PALETTE, "oXDs^", strict=False):
        budgets = [cell.get("labels", cell.get("labeled_prompts")) for cell in cells]
        found = [chart.estimate(part, cell, BRIDGE, name) for cell in cells]
        _line(axes, budgets, found, label, color, marker)
    axes.set_xticks([float(text) for text in known], known)
    axes.set(xlabel="labeled problems, all of them the teacher's", ylabel=f"{name}, %", ylim=(0, 100))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    entitle(figure, "What are prompts without labels worth?")
    plt.close(figure)
    return figure


def _line(axes: plt.Axes, budgets: list[str], found: list[Estimate], label: str, color: str, marker: str) -> None:
    places = [float(text) for text in budgets]
    mean, low, high = (100 * np.array([getattr(one, key) for one in found]) for key in ("mean", "low", "high"))
    axes.errorbar(places, mean, yerr=[mean - low, high - mean], color=color, marker=marker, capsize=2, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, budgets)
    axes.minorticks_off()


def mixed_figure(table: pd.DataFrame, name: str) -> Figure:
    """The bridge's lead over direct GRPO against the chance that a group of the untrained student's is mixed, a point a cell of
    `labels_table`, with 95% intervals."""
    use_style()
    figure, axes = plt.subplots(figsize=(6.5, 3.6))
    axes.axhline(0, color="#666666", linewidth=0.8)
    for (labels, own), color, marker in zip(table.groupby("labels"), PALETTE, "oXDs^", strict=False):
        middle = 100 * own["difference"]
        spread = [middle - 100 * own["low"], 100 * own["high"] - middle]
        axes.errorbar(
            100 * own["mixed"],
            middle,
            yerr=spread,
            color=color,
            marker=marker,
            linestyle="",
            capsize=2,
            label=f"{labels} labels",
        )
    axes.set(
        xlabel="groups with right and wrong answers, first ten steps of direct GRPO, %",
        ylabel=f"bridge - direct GRPO, {name}",
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    entitle(figure, "Does the chance of a mixed group say where labels pay upstream?")
    plt.close(figure)
    return figure
