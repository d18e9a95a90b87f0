"""Figures of paired differences: against a table's reference, or of chosen pairs, with the published ones beside them."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_lib.report.claims import contrast_label
from s2d_lib.report.run_pages import run_page
from s2d_lib.report.style import BLACK, entitle, route_look, use_style

ROW, HEAD = 0.3, 1.5  # inches


def table_differences(numbers: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that are compared with its reference, as `differences_figure` wants them."""
    compared = numbers.dropna(subset=[c for c in numbers if c.endswith(" difference")], how="all")
    return compared.assign(label=compared["route"])


def contrast_differences(numbers: pd.DataFrame) -> pd.DataFrame:
    """The rows of `contrasts` likewise; a point has the look, and leads to the page, of the first of its pair."""
    labels = [contrast_label(*pair, " minus ") for pair in zip(numbers["first"], numbers["second"], strict=True)]
    return numbers.assign(label=labels, checkpoint=numbers["first"])


def differences_figure(
    rows: pd.DataFrame, sets: Sequence[str], title: str, pages: Mapping[str, str] | None = None
) -> Figure:
    """One panel a set: every row's difference with its 95% interval, the published one as a hollow diamond.

    Args:
        rows: `label`, `checkpoint` and for each set `<set> difference`, `low`, `high` (shares), `<set> published` (points), or
            only one of the two.
        sets: Which.
        title: Of the figure.
        pages: Set -> what leads from the figure to the profile of its run pages, where they are not those beside it.
    """
    pages = pages or {}
    use_style()
    places = np.arange(len(rows))[::-1]
    figure, panels = plt.subplots(
        1, len(sets), sharex=True, sharey=True, figsize=(2.9 * len(sets) + 3.4, ROW * len(rows) + HEAD), squeeze=False
    )
    for axes, name in zip(panels[0], sets, strict=True):
        axes.axvline(0, color=BLACK, linewidth=0.8)
        for place, row in zip(places, rows.to_dict("records"), strict=True):
            color, marker = route_look(row["checkpoint"])
            if f"{name} difference" in row:
                mean, low, high = (100 * row[f"{name} difference{bound}"] for bound in ("", " low", " high"))
                axes.plot([low, high], [place, place], color=color, linewidth=1.4)
                axes.plot(mean, place, marker, color=color, url=pages.get(name, "") + run_page(row["checkpoint"]))
                axes.annotate(
                    f"{mean:+.1f}", (mean, place), (0, 4), textcoords="offset points", ha="center", fontsize=7
                )
            if f"{name} published" in row:
                axes.plot(row[f"{name} published"], place, "D", color=BLACK, markerfacecolor="none", markersize=5)
        axes.set(title=name, xlabel="difference, points", ylim=(-0.6, len(rows) - 0.4))
        axes.grid(axis="y", visible=False)
    panels[0][0].set_yticks(places, rows["label"])
    if rows.filter([f"{name} published" for name in sets]).notna().any(axis=None):
        diamond = Line2D([], [], color=BLACK, marker="D", markerfacecolor="none", markersize=5, linewidth=0)
        figure.legend([diamond], ["published, on the paper's own scale"], loc="outside lower right")
    entitle(figure, title)
    plt.close(figure)
    return figure
