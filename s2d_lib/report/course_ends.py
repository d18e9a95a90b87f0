"""Where paper B's methods end on evaluation problems, and what the paper published of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.claims import Published
from s2d_lib.claims.bootstrap import bootstrap
from s2d_lib.claims.fair import accuracies, check_together
from s2d_lib.claims.schema import Courses
from s2d_lib.report.study_table import open_results
from s2d_lib.report.style import route_label
from s2d_lib.report.tables import write_forms
from s2d_lib.study import load_study


def ends_table(spec: Courses, root: Path | None = None) -> pd.DataFrame:
    """avg@k on the benchmarks' evaluation sets, on which nothing was chosen, untrained and after all steps.

    Returns:
        One row a checkpoint of the group's table and benchmark (`all` first, the mean over their problems): `checkpoint`,
        `benchmark`, `accuracy`, `low`, `high` (shares, 95% over seeds and problems).

    Raises:
        StudyError: Results are missing or do not belong together.
    """
    results = {name: open_results(name, root) for name in spec.profiles}
    checkpoints = load_study(root).tables[spec.table].rows
    for found in results.values():
        check_together(found.bundle, checkpoints)
    rows = []
    for checkpoint in checkpoints:
        each = {
            name: np.concatenate([accuracies(r.bundle, checkpoint, s).to_numpy() for s in r.bundle.sets], axis=1)
            for name, r in results.items()
        }
        for name, values in {"all": np.concatenate(list(each.values()), axis=1), **each}.items():
            found = bootstrap(values)
            rows.append((checkpoint, name, found.mean, found.low, found.high))
    return pd.DataFrame(rows, columns=["checkpoint", "benchmark", "accuracy", "low", "high"])


def readable_ends(numbers: pd.DataFrame) -> pd.DataFrame:
    """`ends_table` for readers: a row a method, a column a benchmark, percent with intervals."""
    cells = numbers.assign(
        cell=[
            f"{a:.1f} [{low:.1f}, {high:.1f}]" for a, low, high in 100 * numbers[["accuracy", "low", "high"]].to_numpy()
        ],
        method=numbers["checkpoint"].map(route_label),
    )
    order = {axis: list(dict.fromkeys(cells[axis])) for axis in ("method", "benchmark")}
    table = cells.pivot(index="method", columns="benchmark", values="cell")
    return table.reindex(index=order["method"], columns=order["benchmark"]).reset_index().rename_axis(columns=None)


def write_ends(numbers: pd.DataFrame, folder: Path, note: str) -> None:
    """Write ends.csv, ends.md and ends.tex."""
    write_forms(numbers, {"After all steps, on evaluation problems": readable_ends(numbers)}, folder, "ends", note)


def published_of_paper_b(published: Published) -> pd.DataFrame:
    """Paper B's figures for readers: a row a method (or pair) and unit, a column an hour budget; empty: not published here."""
    rows = []
    for figure in published.figures:
        if figure.paper == "B":
            against = f" minus {figure.against}" if figure.against else ""
            rows.append(
                {
                    "models": figure.family or "",
                    "set": figure.set or "",
                    "method": f"{figure.route}{against}",
                    "unit": figure.unit,
                    "hours": f"best within {figure.hours:g} h",
                    "value": f"{figure.value:g}",
                }
            )
    table = pd.DataFrame(rows)
    hours = list(dict.fromkeys(sorted(table["hours"], key=lambda text: float(text.split()[2]))))
    wide = table.pivot(index=["models", "set", "method", "unit"], columns="hours", values="value")
    order = pd.MultiIndex.from_frame(table[wide.index.names].drop_duplicates())
    return wide.reindex(index=order, columns=hours).fillna("").reset_index().rename_axis(columns=None)
