"""What a given solution is worth to the base models of a group of benchmarks: measured once, kept with the results."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from s2d_lib.claims import Estimate, bootstrap
from s2d_lib.claims.schema import Courses
from s2d_lib.report.tables import write_forms
from s2d_lib.study import load_profile
from s2d_lib.study.resolve import released_weights

FILE = "given_solution"
SHOWN = ("alone", "own solution", "another's solution")
PAIRS = {"own - alone": ("own solution", "alone"), "own - another's": ("own solution", "another's solution")}


def given_table(
    spec: Courses, folder: Path, measure: Callable[[str], pd.DataFrame], root: Path | None = None
) -> pd.DataFrame:
    """Accuracies of each benchmark's base model: alone, shown its own correct answer, shown one to another problem.

    They are sampled where `folder` does not hold them yet for these weights, which takes the models.

    Args:
        spec: The group of benchmarks.
        folder: figures/<group>.
        measure: From a profile to its problems' accuracies (s2d_lib.stages.given_solution.given_to_base).
        root: The project's folder.

    Returns:
        One row a benchmark: `benchmark`, `weights` (the beginning of their hash, empty for models of the Hub), `problems`
        (solved now and then), SHOWN (shares), and the differences PAIRS with `low` and `high` (95%, over problems).
    """
    path = folder / f"{FILE}.csv"
    kept = pd.DataFrame(columns=["benchmark", "weights"])
    if path.is_file():
        kept = pd.read_csv(path, keep_default_na=False, dtype={"weights": str})  # 12 hex digits may look like a number
    rows = []
    for name in spec.profiles:
        weights = (released_weights(load_profile(name, root=root).roles["student"].model) or "")[:12]
        own = kept[(kept["benchmark"] == name) & (kept["weights"] == weights)]
        rows.append(
            own.iloc[0].to_dict() if len(own) else {"benchmark": name, "weights": weights} | _measured(measure(name))
        )
    return pd.DataFrame(rows)


def _measured(table: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {"problems": len(table)} | {name: table[name].mean() for name in SHOWN}
    for name, (first, second) in PAIRS.items():
        sides = (table[[side]].to_numpy(dtype=float).T for side in (first, second))
        found = bootstrap(*sides) if len(table) > 1 else Estimate(*[float("nan")] * 3)
        row |= {name: found.mean, f"{name} low": found.low, f"{name} high": found.high}
    return row


def readable_given(numbers: pd.DataFrame) -> pd.DataFrame:
    """`given_table` for readers: percent, and differences in points with intervals."""
    shown = numbers[["benchmark", "problems"]].astype(str)
    for name in SHOWN:
        shown[f"{name}, %"] = [f"{100 * float(value):.1f}" for value in numbers[name]]
    for name in PAIRS:
        cells = 100 * numbers[[name, f"{name} low", f"{name} high"]].to_numpy(dtype=float)
        shown[f"{name}, points"] = [f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" for mean, low, high in cells]
    return shown


def write_given(numbers: pd.DataFrame, folder: Path) -> None:
    """Write given_solution.csv, .md and .tex."""
    note = "Validation problems that the untrained model solves now and then; 95% intervals over problems."
    write_forms(
        numbers, {"What a given solution is worth to the base model": readable_given(numbers)}, folder, FILE, note
    )
