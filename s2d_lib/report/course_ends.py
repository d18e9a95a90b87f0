"""Where paper B's methods end on evaluation problems, and what the paper published of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.claims import Published
from s2d_lib.claims.bootstrap import bootstrap
from s2d_lib.claims.fair import accuracies, check_together
from s2d_lib.claims.printed import AVERAGE
from s2d_lib.claims.schema import Courses
from s2d_lib.report.decodings import beside_untrained, with_best
from s2d_lib.report.study_table import NOT_PRINTED, open_results
from s2d_lib.report.style import route_label
from s2d_lib.report.tables import write_forms
from s2d_lib.study import load_study


def ends_table(spec: Courses, root: Path | None = None) -> pd.DataFrame:
    """avg@k on the benchmarks' evaluation sets, on which nothing was chosen, untrained and after all steps.

    Returns:
        One row a checkpoint of the group's table and benchmark (`all` first, the mean over their problems): `checkpoint`,
        `benchmark`, `accuracy`, `low`, `high` (shares, 95% over seeds and problems). The untrained one is a row also at its
        best temperature on each benchmark, where all results know it.

    Raises:
        StudyError: Results are missing or do not belong together.
    """
    bundles = {name: with_best(open_results(name, root).bundle) for name in spec.profiles}
    listed = load_study(root).tables[spec.table].rows
    checkpoints = min((beside_untrained(bundle, listed) for bundle in bundles.values()), key=len)
    for bundle in bundles.values():
        check_together(bundle, checkpoints)
    rows = []
    for checkpoint in checkpoints:
        each = {
            name: np.concatenate([accuracies(bundle, checkpoint, s).to_numpy() for s in bundle.sets], axis=1)
            for name, bundle in bundles.items()
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
    """All that paper B prints, for readers: a row a method and set, a column an hour budget; `not printed` where it is not."""
    accuracies = [
        (model, name, method, "percent", hours, cell.mean)
        for (model, method, name, hours), cell in published.accuracies.items()
        if hours is not None
    ]
    seconds = [
        (m, AVERAGE, method, "seconds a step", h, c[AVERAGE])
        for m, method, h, _, c in published.rows_of_b("seconds a step")
    ]
    table = pd.DataFrame(accuracies + seconds, columns=["models", "set", "method", "unit", "hours", "value"])
    rows = ["models", "unit", "set", "method"]
    wide = table.assign(value=table["value"].map("{:.1f}".format)).pivot(index=rows, columns="hours", values="value")
    wide = wide.reindex(
        pd.MultiIndex.from_frame(table[rows].drop_duplicates().sort_values(rows[:3], kind="stable"))
    ).fillna(NOT_PRINTED)
    names = {hours: f"best within {hours:g} h" if hours else "untrained" for hours in wide}
    return wide.rename(columns=names).reset_index().rename_axis(columns=None)
