"""Tables and plots of the benchmark, in figures/bench/."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION
from s2d_lib.report.tables import markdown

COLORS = {
    "s2d": BLUE,
    "TRL": VERMILLION,
    "TRL, best tile": ORANGE,
    "Liger, best chunk": GREEN,
    "naive": GREY,
}


def write_table(table: pd.DataFrame, folder: Path, name: str, note: str) -> None:
    """Write a table as `name`.csv (all digits that mean something) and `name`.md with a note under it."""
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4g")
    text = markdown(table.map(_text))
    (folder / f"{name}.md").write_text(f"{text}\n\n{note}\n", encoding="utf-8")


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def loss_plot(table: pd.DataFrame) -> Figure:
    """Time of every contender over TRL's on every case, with the spread over rounds; under it, peak memory over TRL's.

    The line is no bound: whole products run once by torch take longer than those of a loss whose pieces stay in the cache.
    """
    cases = list(dict.fromkeys(table["case"]))
    memory = table[table["peak_mib"].notna()]
    fig, (upper, lower) = plt.subplots(2, 1, figsize=(9, 6.2), height_ratios=[2, 1])
    _bars(upper, table, cases, "over_trl")
    for case, rows in table.groupby("case"):
        ours = rows[rows["contender"] == "s2d"].iloc[0]
        at = cases.index(case)
        upper.plot([at - 0.42, at + 0.42], [ours["floor"] * ours["over_trl"]] * 2, color="black", linewidth=1.2)
    upper.set(
        ylabel="time over TRL's",
        title="Forward and backward pass (line: its matrix products alone, each as one call of torch)",
    )
    upper.legend(ncols=len(COLORS), loc="upper left", bbox_to_anchor=(0, 1.0), fontsize=8)
    upper.set_ylim(0, 1.35)
    over = memory["peak_mib"] / memory.groupby("case")["peak_mib"].transform(
        lambda m: m[memory["contender"] == "TRL"].iloc[0]
    )
    _bars(lower, memory.assign(over=over, smallest=over, largest=over), list(dict.fromkeys(memory["case"])), "over")
    lower.set(
        ylabel="memory over TRL's",
        title="Peak memory beyond the inputs (x: not measured, to save minutes, or has no such loss)",
    )
    return fig


def _bars(axes, table: pd.DataFrame, cases: list[str], column: str) -> None:
    width = 0.84 / len(COLORS)
    for number, (name, color) in enumerate(COLORS.items()):
        rows = table[table["contender"] == name]
        shift = (number - (len(COLORS) - 1) / 2) * width
        at = np.array([cases.index(case) for case in rows["case"]]) + shift
        left_out = [place + shift for place, case in enumerate(cases) if case not in set(rows["case"])]
        axes.plot(left_out, [0.02] * len(left_out), "x", color=color, markersize=4)
        spread = np.abs(np.array([rows[column] - rows["smallest"], rows["largest"] - rows[column]]))
        axes.bar(at, rows[column], width, color=color, label=name, yerr=spread, error_kw={"elinewidth": 0.8})
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(cases)), [case.replace(" ", "\n", 1) for case in cases])
    axes.grid(axis="x", visible=False)


def stages_plot(table: pd.DataFrame) -> Figure:
    """Seconds of one optimiser step by stage, ours beside TRL's, split into sampling and the rest."""
    stages = list(dict.fromkeys(table["stage"]))
    fig, axes = plt.subplots(figsize=(7, 3.4))
    for number, (side, color) in enumerate((("s2d", BLUE), ("TRL", VERMILLION))):
        rows = table[table["side"] == side].set_index("stage").loc[stages]
        at = np.arange(len(stages)) + (number - 0.5) * 0.38
        axes.bar(at, rows["seconds_step"], 0.36, color=color, label=side)
        axes.bar(at, rows["seconds_sampling"], 0.36, color="white", alpha=0.55, hatch="///", edgecolor=PURPLE)
    axes.set_xticks(range(len(stages)), stages)
    axes.set(ylabel="seconds per optimiser step", title="A step of each stage (hatched: sampling)")
    axes.legend()
    axes.grid(axis="x", visible=False)
    return fig
