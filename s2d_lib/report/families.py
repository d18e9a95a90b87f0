"""One table of two model families side by side: which profile plays which of the paper's families says claims.yaml."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from s2d_lib.claims import Claims
from s2d_lib.errors import StudyError
from s2d_lib.report.claims import results_of
from s2d_lib.report.study_table import StudyTable, study_table
from s2d_lib.report.tables import write_forms
from s2d_lib.study import load_study

TABLE = "table8"


@dataclass(frozen=True)
class Family:
    """A family's table, and the profile that it was measured with."""

    name: str
    profile: str
    table: StudyTable


def families(profile: str, claims: Claims, root: Path | None = None) -> tuple[list[Family], list[str]]:
    """The families that have results, and a sentence for each that has none yet.

    Raises:
        StudyError: When claims.yaml gives the profile no part, or results that exist are broken or incomplete.
    """
    results, rows = results_of(profile, claims, root), set(load_study(root).tables[TABLE].rows)
    found, missing = [], []
    for family, name in claims.families[profile].items():
        if family in results and rows <= {checkpoint for checkpoint, _ in results[family].bundle.records}:
            found.append(Family(family, name, study_table(results[family], TABLE, root)))
        else:
            missing.append(f"The {family} family is played by profile {name}, which has no results of {TABLE} yet.")
    if not found:
        raise StudyError(f"no family has results of {TABLE}: make them with `make study PROFILE={profile}`.")
    return found, missing


def family_numbers(found: list[Family]) -> pd.DataFrame:
    """All numbers of all families, one row a family and checkpoint: `family`, `profile`, then those of the table."""
    return pd.concat([f.table.numbers.assign(family=f.name, profile=f.profile) for f in found], ignore_index=True)[
        ["family", "profile", *found[0].table.numbers]
    ]


def family_differences(found: list[Family], profile: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The differences to the reference, families side by side, as `differences_figure` wants them.

    Args:
        found: From `families`, with the same rows.
        profile: Whose figure it is.

    Returns:
        One row a checkpoint with a group of columns for every family and set, `<profile>: <set> difference` and so on; and
        for each of these groups what leads from the figure to the profile's run pages.
    """
    rows = found[0].table.numbers[["checkpoint", "route"]].rename(columns={"route": "label"})
    pages = {}
    for family in found:
        own = family.table.numbers.set_index("checkpoint")
        for name in family.table.measured:
            panel = f"{family.profile}: {name}"
            pages[panel] = "" if family.profile == profile else f"../{family.profile}/"
            for kind in ("difference", "difference low", "difference high", "published"):
                rows[f"{panel} {kind}"] = rows["checkpoint"].map(own[f"{name} {kind}"])
    return rows.dropna(subset=[f"{next(iter(pages))} difference"]), pages


def write_families(found: list[Family], missing: list[str], folder: Path) -> None:
    """Write families.csv, families.md and families.tex into figures/<profile>, the folder's profile first."""
    shown, links = {}, {}
    for family in found:
        who = f"{family.name}, played by profile {family.profile}"
        tables = family.table.shown(f"{who}: {family.table.title}", f"{who}: costs")
        start = "" if family.profile == folder.name else f"../{family.profile}/"
        shown |= tables
        links |= family.table.links(tables, start)
    note = " ".join([*missing, *dict.fromkeys(family.table.note for family in found)])
    write_forms(family_numbers(found), shown, folder, "families", note, links)
