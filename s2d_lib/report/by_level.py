"""Accuracies by the level of the problems (a task, a chain length), and completions side by side, before and after."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.claims.bootstrap import bootstrap
from s2d_lib.report.decodings import beside_untrained, with_best
from s2d_lib.report.run_pages import one_line, run_page
from s2d_lib.report.style import BLACK, entitle, route_label, route_look, use_style
from s2d_lib.report.tables import write_forms
from s2d_lib.results.bundle import Bundle

CONSTANT = "always the most frequent answer"
WIDTH = 0.7  # of a level's rows in the figure, in units of the distance between levels


def by_level(bundle: Bundle, checkpoints: Sequence[str], name: str) -> pd.DataFrame:
    """Accuracy of checkpoints on every level of one evaluation set, of untrained ones also at their best temperature there.

    Returns:
        One row a level and checkpoint: `level`, `problems`, `checkpoint`, `accuracy`, `low`, `high` (95% over seeds and
        problems). Where the results know it, a row a level without a checkpoint: what always its most frequent right answer
        would score, without an interval.

    Raises:
        StudyError: A checkpoint was not evaluated on the set.
    """
    bundle = with_best(bundle)
    checkpoints = beside_untrained(bundle, checkpoints)
    own = bundle.evaluation[bundle.evaluation["set"] == name]
    levels = own.drop_duplicates("problem").set_index("problem")["level"]
    always = bundle.constant[bundle.constant["set"] == name].set_index("level")["share"]
    rows = []
    for level in levels.unique():
        problems = levels.index[levels == level]
        head = {"level": level, "problems": len(problems)}
        for checkpoint in checkpoints:
            estimate = bootstrap(bundle.accuracy(checkpoint, name)[problems].to_numpy())
            rows.append(
                head | {"checkpoint": checkpoint, "accuracy": estimate.mean, "low": estimate.low, "high": estimate.high}
            )
        if level in always.index:
            rows.append(head | {"checkpoint": "", "accuracy": always[level], "low": np.nan, "high": np.nan})
    return pd.DataFrame(rows)


def readable_levels(numbers: pd.DataFrame) -> pd.DataFrame:
    """`by_level` for readers: a row a checkpoint, a column a level, percent with intervals."""
    shown = numbers.assign(
        route=[route_label(name) if name else CONSTANT for name in numbers["checkpoint"]],
        cell=[_cell(*row) for row in numbers[["accuracy", "low", "high"]].to_numpy()],
        column=[f"{level} ({count}), %" for level, count in zip(numbers["level"], numbers["problems"], strict=True)],
    )
    table = shown.pivot(index="route", columns="column", values="cell").fillna("")
    return table.loc[shown["route"].unique(), shown["column"].unique()].rename_axis(columns=None).reset_index()


def _cell(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:.1f}" + ("" if np.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")


def write_levels(numbers: pd.DataFrame, folder: Path, title: str) -> None:
    """Write levels.csv, .md and .tex into figures/<profile>."""
    note = (
        "Accuracy of all samples in percent with 95% intervals over seeds and problems; how many problems of each level "
        f"stands beside it. '{CONSTANT}' is the share of a level's problems that have its most frequent right answer."
    )
    write_forms(numbers, {title: readable_levels(numbers)}, folder, "levels", note)


def levels_figure(numbers: pd.DataFrame, title: str) -> Figure:
    """Accuracy by level, a colour a checkpoint; a dashed line is the score of always the most frequent answer."""
    use_style()
    levels = list(numbers["level"].unique())
    routes = [name for name in numbers["checkpoint"].unique() if name]
    figure, axes = plt.subplots(figsize=(2.6 * len(levels) + 2.4, 3.4))
    shifts = np.linspace(-WIDTH / 2, WIDTH / 2, len(routes)) if len(routes) > 1 else [0.0]
    for shift, route in zip(shifts, routes, strict=True):
        rows = numbers[numbers["checkpoint"] == route]
        color, marker = route_look(route)
        mean, low, high = (100 * rows[c].to_numpy() for c in ("accuracy", "low", "high"))
        places = np.array([levels.index(level) for level in rows["level"]]) + shift
        bars = axes.errorbar(
            places, mean, yerr=[mean - low, high - mean], fmt=marker, color=color, capsize=2.5, label=route_label(route)
        )
        bars.lines[0].set_url(run_page(route))
    for row in numbers[numbers["checkpoint"] == ""].to_dict("records"):
        place = levels.index(row["level"])
        axes.hlines(
            100 * row["accuracy"], place - 0.45, place + 0.45, color=BLACK, linestyle="--", linewidth=1,
            label=CONSTANT if place == 0 else None,
        )  # fmt: skip
    axes.set_xticks(range(len(levels)), [level.replace("_", " ") for level in levels])
    axes.set(ylabel="accuracy, %", ylim=(0, 100), xlim=(-0.6, len(levels) - 0.4))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    entitle(figure, title)
    plt.close(figure)
    return figure


def completions_beside(bundle: Bundle, checkpoints: Sequence[str]) -> pd.DataFrame:
    """The completions that the results keep as text, one row a problem and one column a checkpoint.

    Returns:
        `problem` (as it was asked), `right answer`, and a column a route; a completion that was graded right ends in " ✓".
    """
    said = bundle.samples[bundle.samples["checkpoint"].isin(checkpoints)]
    marked = said.assign(
        cell=[
            one_line(text).strip("`") + (" ✓" if right else "")
            for text, right in zip(said["completion"], said["correct"], strict=True)
        ]
    )
    wide = marked.pivot(index="problem", columns="checkpoint", values="cell")
    wide = wide.reindex(index=marked["problem"].unique(), columns=checkpoints).fillna("")
    first = marked.drop_duplicates("problem").set_index("problem")
    table = pd.DataFrame({"problem": first["prompt"].map(one_line).str.strip("`"), "right answer": first["answer"]})
    for checkpoint in checkpoints:
        table[route_label(checkpoint)] = wide[checkpoint]
    return table.reset_index(drop=True)
