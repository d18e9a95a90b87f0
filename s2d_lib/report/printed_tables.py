"""What the published tables can and cannot show: honest errors beside printed ones, which differences stand, what settles."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from s2d_lib.claims import Claims, Published, settle
from s2d_lib.claims.printed import (
    AVERAGE,
    CORRELATION,
    RHO,
    RHO_RANGE,
    Cell,
    difficulty_correlation,
    honest_difference,
    run_spread,
    share_between,
    standard_error,
)
from s2d_lib.report.style import BLACK, BLUE, BROWN, GREEN, GREY, ORANGE, PURPLE, entitle, route_label, use_style
from s2d_lib.report.tables import write_forms
from s2d_lib.results.bundle import Bundle, read_bundle
from s2d_lib.study.page import Study

MEDIAN_AND_TENTHS = (0.5, 0.1, 0.9)
DECIDED = 1.96  # standard errors
FLOOR = f"Floor: no spread of difficulty. Honest: at rho {RHO} [{RHO_RANGE[0]}, {RHO_RANGE[1]}]."
METHODS_OF_B = ("SRPO", "GRPO", "SDPO")
ABLATIONS_OF_B = ("Advantage Mix (0.9)", "SRPO without dynamic weighting")
CLAIMS_OF_B = {
    "B1": (10, [("SRPO", "GRPO"), ("SRPO", "SDPO")]),
    "B2": (1, [("SDPO", "GRPO")]),
    "B7": (10, [("SRPO", ABLATIONS_OF_B[0])]),
    "B8": (10, [("SRPO", ABLATIONS_OF_B[1])]),
}
"""Paper B's claims about accuracies -> hours, and what is compared; the others are about curves that it does not print."""
SET_LOOKS = {
    "MATH": (BLUE, "o"),
    "AIME 2024": (ORANGE, "^"),
    "AIME 2025": (PURPLE, "s"),
    "average of five": (GREEN, "D"),
    "one of the five": (BROWN, "v"),
}


def measured_table(folders: Sequence[Path], routes: Sequence[str]) -> pd.DataFrame:
    """The model's quantities as this study's own per-problem results have them.

    Args:
        folders: Of committed results (figures/<profile>/results).
        routes: The trained checkpoints to look at; a set counts where one is right in 10 to 90% of its answers.

    Returns:
        One row a profile and set: `routes`, `pairs`, and median with tenths (`low`, `high`) of `rho`, `correlation` (of two
        routes of one seed) and `spread` (points between seeds).
    """
    rows = []
    for folder in folders:
        bundle = read_bundle(folder)
        for name in bundle.sets:
            found = dict(_accuracies(bundle, name, routes))
            samples = len(bundle.evaluation["correct"].iloc[0])
            pairs = [
                difficulty_correlation(one, other, samples)
                for one, other in combinations(found.values(), 2)
                if one.shape == other.shape
            ]
            row = {"profile": folder.parent.name, "set": name, "routes": len(found), "pairs": len(pairs)}
            for what, values in {
                "rho": [share_between(accuracy, samples) for accuracy in found.values()],
                "correlation": pairs,
                "spread": [run_spread(accuracy) for accuracy in found.values()],
            }.items():
                quantiles = np.quantile(values, MEDIAN_AND_TENTHS)
                row |= dict(zip((what, f"{what} low", f"{what} high"), quantiles, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def _accuracies(bundle: Bundle, name: str, routes: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    for route in sorted(set(bundle.evaluation["checkpoint"]) & set(routes)):
        accuracy = bundle.accuracy(route, name).to_numpy()
        if 0.1 < accuracy.mean() < 0.9:
            yield route, accuracy


def trained_routes(study: Study) -> list[str]:
    """The study's trained students."""
    return [name for name in study.checkpoints if name.startswith("student.")]


def readable_measured(numbers: pd.DataFrame) -> pd.DataFrame:
    """The same for readers."""
    shown = numbers[["profile", "set", "routes"]].copy()
    names = {
        "rho": ("rho", 2),
        "correlation": ("correlation of two routes", 2),
        "spread": ("spread of runs, points", 1),
    }
    for what, (title, digits) in names.items():
        columns = numbers[[what, f"{what} low", f"{what} high"]].to_numpy()
        shown[title] = [f"{a:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for a, low, high in columns]
    return shown


def cells_table(published: Published) -> pd.DataFrame:
    """Every printed accuracy with the errors that it can have, in points.

    Returns:
        `paper`, `models`, `route`, `set`, `hours`, `mean`, `printed` (error; NaN in paper B), `floor`, `honest`, `honest low`
        and `honest high` (at the ends of RHO_RANGE), `source`.
    """
    rows = []
    for (models, route, name, hours), cell in published.accuracies.items():
        rows.append(
            {
                "paper": "A" if hours is None else "B",
                "models": models,
                "route": route,
                "set": name,
                "hours": hours,
                "mean": cell.mean,
                "printed": cell.error,
                "floor": standard_error(cell, rho=0),
                "honest": standard_error(cell),
                "honest low": standard_error(cell, RHO_RANGE[0]),
                "honest high": standard_error(cell, RHO_RANGE[1]),
                "source": cell.source,
            }
        )
    return pd.DataFrame(rows).astype({"printed": float})


def below_floor(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells print an error below their floor, and below the smallest honest one; a row a set of paper A."""
    printed = cells.dropna(subset="printed").assign(
        cells=1,
        **{
            "printed below the floor": lambda c: c["printed"] < c["floor"],
            f"below the error at rho {RHO_RANGE[0]}": lambda c: c["printed"] < c["honest low"],
        },
    )
    kinds = list(printed.columns[-3:])
    return printed.groupby("set", sort=False)[kinds].sum().reset_index()


def readable_cells(cells: pd.DataFrame, paper: str) -> pd.DataFrame:
    """The cells of a paper for readers: a row a route, a column a set."""
    own = cells[cells["paper"] == paper].copy()
    own["route"] = own["route"].map(route_label) if paper == "A" else own["route"] + own["hours"].map(", {:g} h".format)
    printed = own["printed"].map(lambda error: "" if pd.isna(error) else f" ± {error:.1f}")
    own["cell"] = [
        f"{c['mean']:.1f}{p} (floor {c['floor']:.1f}, honest {c['honest']:.1f} [{c['honest low']:.1f}, {c['honest high']:.1f}])"
        for c, p in zip(own.to_dict("records"), printed, strict=True)
    ]
    order = own[["models", "route"]].drop_duplicates()
    wide = own.pivot(index=["models", "route"], columns="set", values="cell").reindex(columns=own["set"].unique())
    return wide.reindex(pd.MultiIndex.from_frame(order)).fillna("not printed").reset_index().rename_axis(columns=None)


def differences_table(published: Published, study: Study, claims: Claims) -> pd.DataFrame:
    """Every difference of the papers' tables to their reference, and every one that a claim is about, as far as printed.

    Returns:
        `where` (a table or a claim), `models`, `better`, `than`, `set`, `hours`, `margin`, `difference` (points); its standard
        errors `printed error` (from the two printed ones), `unpaired`, `unpaired low`, `unpaired high` (at RHO and at the ends
        of its range), `paired` and its ends; `problems`, `samples`, `seeds` that settle it unpaired, `problems, paired`.
    """
    rows = []
    for where, models, better, than, name, hours, margin in _compared(published, study, claims):
        cells = [published.cell(models, route, name, hours) for route in (better, than)]
        if None in cells:
            continue
        what = {
            "where": where,
            "models": models,
            "better": better,
            "than": than,
            "set": name,
            "hours": hours,
            "margin": margin,
        }
        rows.append(what | _numbers(*cells, margin))
    return pd.DataFrame(rows)


def _compared(published: Published, study: Study, claims: Claims) -> Iterator[tuple]:
    tables = {f"table {number}": f"table{number}" for number in range(2, 9)} | {"component ablation": "components"}
    for where, key in tables.items():
        table, family = study.tables[key], "Llama" if key == "table8" else "Qwen3"
        for route in table.rows:
            if route != table.reference:
                for name in published.problems["A"]:
                    yield where, family, route, table.reference, name, None, 0.0
    sets = (*published.problems["B"], AVERAGE)
    models = list(dict.fromkeys(block.model for block in published.paper_b))
    for where, pairs in {
        "paper B, table 1": [*combinations(METHODS_OF_B, 2)],
        "paper B, table 2": [("SRPO", method) for method in ABLATIONS_OF_B],
    }.items():
        for model in models:
            for pair in pairs:
                for hours in (1, 5, 10):
                    for name in sets:
                        yield where, model, *pair, name, hours, 0.0
    for name, claim in claims.claims.items():
        for comparison in claim.comparisons:
            for better, than in comparison.pairs():
                for meant in comparison.sets:
                    yield name, claim.family, better, than, meant, None, comparison.margin
    for name, (hours, pairs) in CLAIMS_OF_B.items():
        for model in models:
            for pair in pairs:
                for meant in sets:
                    yield name, model, *pair, meant, hours, 0.0


def _numbers(better: Cell, than: Cell, margin: float) -> dict[str, float]:
    row = {"difference": honest_difference(better, than).mean}
    row["printed error"] = math.hypot(better.error, than.error) if better.error and than.error else math.nan
    for kind, correlation in (("unpaired", 0.0), ("paired", CORRELATION)):
        for end, rho in (("", RHO), (" low", RHO_RANGE[0]), (" high", RHO_RANGE[1])):
            found = honest_difference(better, than, rho, correlation)
            row[f"{kind}{end}"] = (found.high - found.mean) / DECIDED
    needed = settle(better, than, margin)
    paired = settle(better, than, margin, correlation=CORRELATION).problems
    return row | {
        "problems": needed.problems,
        "samples": needed.samples,
        "seeds": needed.seeds,
        "problems, paired": paired,
    }


def standing(differences: pd.DataFrame) -> pd.DataFrame:
    """How many differences of every table or claim are further than 1.96 standard errors from zero (or the margin): with the
    printed errors, with honest ones, and with those of pairing by problem; in brackets at the ends of RHO_RANGE."""
    size = (differences["difference"] + differences["margin"]).abs() / DECIDED
    stands = {c: size > differences[c] for c in differences if c.startswith(("unpaired", "paired"))}
    counts = differences.assign(**stands, printed=size > differences["printed error"], differences=1)
    counts = counts.groupby("where", sort=False)[["differences", "printed", *stands]].sum()
    without = differences.groupby("where", sort=False)["printed error"].count() == 0
    shown = (
        counts[["differences"]]
        .astype(str)
        .assign(**{"stand by printed errors": counts["printed"].astype(str).mask(without, "none printed")})
    )
    for kind in ("unpaired", "paired"):
        rows = counts[[kind, f"{kind} high", f"{kind} low"]].to_numpy()
        shown[f"by honest errors, {kind}"] = [f"{a} [{low}, {high}]" for a, low, high in rows]
    return shown.reset_index()


def readable_settling(differences: pd.DataFrame) -> pd.DataFrame:
    """What would settle each claim's comparisons: the largest and smallest need of those on a set."""
    own = differences[differences["where"].str.fullmatch(r"[A-Z]\d+")]
    rows = []
    for (claim, models, name), group in own.groupby(["where", "models", "set"], sort=False):
        sizes = group["difference"]
        row = {"claim": claim, "models": models, "set": name, "comparisons": f"{len(group)}"}
        row["printed differences"] = _span(sizes, "{:+.1f}")
        for what in ("problems", "problems, paired", "samples", "seeds"):
            row[what] = _span(group[what], "{:,.0f}")
        rows.append(row)
    return pd.DataFrame(rows)


def _span(values: pd.Series, form: str) -> str:
    ends = [form.format(v) if math.isfinite(v) else "no number" for v in (values.min(), values.max())]
    return " to ".join(dict.fromkeys(ends))


NOTE = (
    "Paper A: arXiv 2605.12483, paper B: arXiv 2604.02288; cells are in params/published.yaml. Errors are standard errors over "
    f"problems in points, with rho = {RHO} (in brackets {RHO_RANGE[0]} and {RHO_RANGE[1]}): the share of an answer's variance "
    f"that lies between problems. Paired: as if two models' solve rates correlated by {CORRELATION} and had been compared "
    "problem by problem. Another training run is in none of them."
)
SETTLING = (
    " Problems at 16 samples of each; samples of each of the paper's own problems; training runs of each side that are needed "
    "however many problems there are: each for 80% power at two-sided 5%, for a true difference as large as the printed one."
)


def write_printed(cells: pd.DataFrame, differences: pd.DataFrame, folder: Path) -> None:
    """Write cells and differences as csv, md and tex into figures/published."""
    shown = {f"Paper {paper}. {FLOOR}": readable_cells(cells, paper) for paper in "AB"}
    write_forms(cells, shown, folder, "cells", NOTE)
    tables = {
        "How many of the printed differences stand?": standing(differences),
        "What would settle the claims?": readable_settling(differences),
    }
    write_forms(differences, tables, folder, "differences", NOTE + SETTLING)


def printed_figure(cells: pd.DataFrame, differences: pd.DataFrame, problems: dict[str, int]) -> Figure:
    """Printed errors below their floor, and every claim's printed differences in honest standard errors."""
    use_style()
    figure = plt.figure(figsize=(11, 8.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    for axes, (title, sets) in zip(
        left.subplots(2, 1), {"AIME": ["AIME 2024", "AIME 2025"], "MATH-500": ["MATH"]}.items(), strict=True
    ):
        _errors(axes, cells, sets, problems[sets[0]], f"{title}: {problems[sets[0]]} problems")
    band = Patch(color=GREY, alpha=0.35, label=f"honest, rho {RHO_RANGE[0]} to {RHO_RANGE[1]}")
    lines = [
        band,
        Line2D([], [], color=BLACK, label=f"honest, rho {RHO}"),
        Line2D([], [], color=BLACK, ls="--", label="floor, rho 0"),
    ]
    left.legend(handles=lines, loc="outside lower center", ncols=3, columnspacing=1, handlelength=1.5)
    _claims(right.subplots(), differences)
    looks = [Line2D([], [], color=c, marker=m, linewidth=0, label=name) for name, (c, m) in SET_LOOKS.items()]
    looks.append(
        Line2D([], [], color=BLACK, marker="o", markerfacecolor="none", linewidth=0, label="if paired by problem")
    )
    right.legend(handles=looks, loc="outside lower center", ncols=3, columnspacing=1, handletextpad=0.2)
    entitle(
        figure,
        "AIME's printed errors are smaller than an error over problems can be; most of the claims' differences are undecided",
    )
    plt.close(figure)
    return figure


def _errors(axes: Axes, cells: pd.DataFrame, sets: list[str], problems: int, title: str) -> None:
    own = cells[cells["set"].isin(sets)]
    span = np.linspace(max(0, own["mean"].min() - 3), min(100, own["mean"].max() + 3), 100)
    at = lambda rho: [standard_error(Cell(mean, None, ((mean, problems),), ""), rho) for mean in span]  # noqa: E731
    axes.fill_between(span, at(RHO_RANGE[0]), at(RHO_RANGE[1]), color=GREY, alpha=0.35, linewidth=0)
    axes.plot(span, at(RHO), color=BLACK)
    axes.plot(span, at(0), color=BLACK, linestyle="--")
    for name in sets:
        color, marker = SET_LOOKS[name]
        rows = own[own["set"] == name]
        axes.plot(rows["mean"], rows["printed"], marker, color=color, markersize=4, linewidth=0)
    axes.set(title=title, xlabel="printed accuracy, %", ylabel="standard error, points", ylim=(0, None))


def _claims(axes: Axes, differences: pd.DataFrame) -> None:
    own = differences[differences["where"].str.fullmatch(r"[A-Z]\d+")]
    names = list(dict.fromkeys(own["where"]))
    axes.axvspan(-DECIDED, DECIDED, color=GREY, alpha=0.2, linewidth=0)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    for place, claim in enumerate(names):
        axes.axhline(place + 0.5, color=GREY, linewidth=0.4)
        group = own[own["where"] == claim]
        kinds = group["set"].replace(AVERAGE, "average of five")
        kinds = kinds.where(kinds.isin(list(SET_LOOKS)), "one of the five")
        shown = [name for name in SET_LOOKS if name in set(kinds)]
        for offset, name in zip(np.linspace(-0.27, 0.27, len(shown)) if len(shown) > 1 else (0.0,), shown, strict=True):
            rows, (color, marker) = group[kinds == name], SET_LOOKS[name]
            size = rows["difference"] + rows["margin"]
            y = np.full(len(rows), place + offset)
            axes.plot(size / rows["unpaired"], y, marker, color=color, markersize=4)
            axes.plot(
                size / rows["paired"], y, marker, color=color, markersize=4, markerfacecolor="none", markeredgewidth=0.7
            )
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="printed difference in honest standard errors; grey: undecided")
    axes.set_title("The claims' differences")
    axes.grid(axis="y", visible=False)
