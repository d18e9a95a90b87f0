"""Validation curves of whole routes: the stages of the deployed weights one after the other on one axis of steps."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_lib.claims.fair import seeds_of
from s2d_lib.report.run_pages import run_page
from s2d_lib.report.style import BLACK, BROWN, GREEN, GREY, ORANGE, PURPLE, SKY, entitle, route_look, use_style
from s2d_lib.results.bundle import Bundle, own_line

SPARE = (ORANGE, GREEN, PURPLE, SKY, BROWN, BLACK)  # without the colour of direct GRPO, which has a meaning
LineStyle = str | tuple
DASHES: tuple[LineStyle, ...] = ("-", "--", "-.", (0, (1, 1)))


def path_of(bundle: Bundle, checkpoint: str, column: str) -> pd.DataFrame:
    """What was measured while the weights of a checkpoint were trained, from their base model on.

    Args:
        bundle: The results.
        checkpoint: Where the route ends.
        column: Of the validation rows.

    Returns:
        `stage` (the checkpoint being trained), `seed`, `step` (over all stages so far) and the column; empty where nothing
        was validated. A stage that did not measure the column has no rows.
    """
    parts = []
    for seed in seeds_of(bundle, checkpoint):
        before = 0
        for name in reversed(own_line(bundle, checkpoint, seed)):
            rows = bundle.validation
            own = rows[(rows["checkpoint"] == name) & (rows["seed"] == seed)]
            if column in own:
                moved = own.assign(stage=name, step=own["step"] + before)
                parts.append(moved[["stage", "seed", "step", column]].dropna())
            before += bundle.records[name, seed].get("optimizer_steps", 0)
    return pd.concat(parts) if parts else pd.DataFrame(columns=["stage", "seed", "step", column])


def paths_figure(
    bundle: Bundle,
    panels: Mapping[str, tuple[str, Mapping[str, str]]],
    title: str,
    ylabel: str,
    log: bool = False,
    ncols: int = 2,
) -> Figure:
    """One panel a group of routes: the mean over seeds as a line, the range of the seeds as a band, a dotted line where one
    stage ends and the next begins.

    Args:
        bundle: The results.
        panels: Title of a panel -> column of the validation rows, and the routes: label -> checkpoint. A label looks the
            same in every panel, so panels that differ in the teacher alone share theirs.
        title: Of the figure.
        ylabel: What the columns are.
        log: Logarithmic.
        ncols: Panels side by side.
    """
    use_style()
    ncols = min(ncols, len(panels))
    nrows = -(-len(panels) // ncols)
    figure, grid = plt.subplots(
        nrows, ncols, sharex=True, sharey=True, figsize=(4.2 * ncols + 0.6, 2.5 * nrows + 1.2), squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    looks = _looks([routes for _, routes in panels.values()])
    shown: dict[str, Line2D] = {}
    for axes, (head, (column, routes)) in zip(grid.flat, panels.items(), strict=False):
        for label, checkpoint in routes.items():
            if line := _draw(axes, bundle, checkpoint, column, *looks[label]):
                shown.setdefault(label, line)
        if not axes.lines:
            axes.text(0.5, 0.5, "not validated", transform=axes.transAxes, ha="center", color=GREY)
        axes.set(title=head, yscale="log" if log and axes.lines else "linear")
    for axes in grid[-1]:
        axes.set(xlabel="optimiser steps of the weights")
    for axes in grid[:, 0]:
        axes.set(ylabel=ylabel)
    figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=min(3, len(shown) or 1),
        title="line: mean over seeds, band: their range, dotted: a stage ends",
    )
    entitle(figure, title)
    plt.close(figure)
    return figure


def _looks(groups: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, LineStyle]]:
    """Label -> colour and dashes: the route's own colour where no other label has it yet, else the next free one."""
    looks: dict[str, tuple[str, LineStyle]] = {}
    for label, checkpoint in (pair for routes in groups for pair in routes.items() if pair[0] not in looks):
        taken = {color for color, _ in looks.values()}
        own, _ = route_look(checkpoint)
        color = own if own not in taken else next((c for c in SPARE if c not in taken), BLACK)
        looks[label] = color, DASHES[len(looks) % len(DASHES)]
    return looks


def _draw(axes: plt.Axes, bundle: Bundle, checkpoint: str, column: str, color: str, dashes: LineStyle) -> Line2D | None:
    """Draw a route; returns a line of it for the legend, or None when there is nothing to draw."""
    line = None
    for stage, part in path_of(bundle, checkpoint, column).groupby("stage", sort=False):
        over = part.groupby("step")[column].agg(["mean", "min", "max"])
        axes.fill_between(over.index, over["min"], over["max"], color=color, alpha=0.15, linewidth=0)
        (line,) = axes.plot(over.index, over["mean"], color=color, linestyle=dashes, url=run_page(stage))
        if over.index[0] > 0:
            axes.axvline(over.index[0], color=GREY, linestyle=":", linewidth=0.9, zorder=0)
    return line
