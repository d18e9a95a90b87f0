"""The committed tables say what the committed results say: recomputed from them, number by number and word by word."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from s2d_lib.claims import evaluate, load_claims, load_published
from s2d_lib.claims.claims import evaluate_curves
from s2d_lib.claims.printed import CORRELATION, RHO, RHO_RANGE, RUN_SPREAD
from s2d_lib.report.claims import (
    LOOKS,
    asked_table,
    claims_figure,
    claims_sheet,
    comparisons_table,
    judged_at,
    premises_sheet,
)
from s2d_lib.report.contrasts import by_level, contrasts, study_cost
from s2d_lib.report.courses import budgets_sheet, complete, ends_sheet, open_course, spec_of
from s2d_lib.report.looks import analyses_of
from s2d_lib.report.map import Chart, cells_table
from s2d_lib.report.published import cells_sheet, differences_sheet, measured_table, printed_figure
from s2d_lib.report.routes import route_map
from s2d_lib.report.study_table import families, open_results, results_of, study_table
from s2d_lib.report.tables import Sheet
from s2d_lib.results.map import read_map
from s2d_lib.study import load_profile, load_study, profile_names

TOLERANCE = 1e-6


def sheets(profile: str, root: Path) -> Iterator[Sheet]:
    """Every table that a profile's results give."""
    if chart := load_profile(profile, root=root).map:
        found = Chart(chart, read_map(root / "figures" / profile / "results"), load_study(root))
        yield Sheet("map", cells_table(found), {})
        return
    results, claims, study = open_results(profile, root), load_claims(root), load_study(root)
    yield from (study_table(results, name, root) for name in results.profile.tables)
    chosen, _ = analyses_of(profile, results.profile, claims)
    for analysis in chosen.values():
        yield from (contrasts(results, name, root) for name in analysis.contrasts)
    if "91_allocation" in chosen:
        yield route_map(study)
    if "95_families" in chosen:
        yield families(profile, claims, root)[1]
    if "97_claims" in chosen:
        played = results_of(profile, claims, root)
        outcomes = evaluate(claims, study, played)
        comparisons = comparisons_table(outcomes, load_published(root))
        asked = asked_table(outcomes, claims)
        yield (sheet := claims_sheet(outcomes, claims.claims, comparisons, judged_at(played), asked, profile))
        check_dashboard(sheet)
        yield premises_sheet(played, claims, study)
        yield study_cost(results.bundle, profile)
    if "70_language_model" in chosen:
        yield by_level(results.bundle, study.tables["same_size"].rows, results.bundle.sets[0], "Accuracy by task")


def check_dashboard(sheet: Sheet) -> None:
    """Every comparison has its verdict's marker, or is said not to be made, under its claim's verdict."""
    shown, figure = sheet.numbers[sheet.numbers["verdict"] != "no set"], claims_figure(sheet, "Claims")
    markers = [line.get_marker() for axes in figure.axes for line in axes.get_lines()]
    for verdict, (_, marker) in LOOKS.items():
        assert markers.count(marker) == (shown["verdict"] == verdict).sum()
    assert [text.get_text() for axes in figure.axes for text in axes.texts].count("not run") == shown[
        "low"
    ].isna().sum()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    claims = sheet.show().set_index("claim")["here"]
    assert [label for label in labels if ": " in label] == [f"{claim}: {here}" for claim, here in claims.items()]


def words(folder: Path, name: str) -> str:
    """A written table without its numbers, which may be rounded otherwise elsewhere."""
    return re.sub(r"[-+\d., ]+", " ", (folder / f"{name}.md").read_text(encoding="utf-8"))


def check(profile: str, found: Iterator[Sheet], root: Path, folder: Path) -> int:
    """Compare every table in figures/<profile> with what its results give; how many there are."""
    committed, count = root / "figures" / profile, 0
    for count, sheet in enumerate(found, 1):  # noqa: B007
        sheet.write(folder)
        if sheet.name == "map":  # which notebook 02 writes itself
            sheet.numbers.drop(columns="runs").to_csv(folder / "map.csv", index=False, float_format="%.5f")
        else:
            assert words(folder, sheet.name) == words(committed, sheet.name), sheet.name
        once, again = (pd.read_csv(place / f"{sheet.name}.csv") for place in (committed, folder))
        pd.testing.assert_frame_equal(once, again, check_dtype=False, rtol=0, atol=TOLERANCE, obj=sheet.name)
    return count


@pytest.mark.parametrize("profile", profile_names())
def test_committed_tables_are_those_of_the_committed_results(root, tmp_path, profile):
    if not (root / "figures" / profile / "results").is_dir():
        pytest.skip(f"profile {profile} has no committed results")
    assert check(profile, sheets(profile, root), root, tmp_path)


@pytest.mark.parametrize("group", load_claims().courses)
def test_committed_courses_are_those_of_the_committed_results(root, tmp_path, group):
    spec = spec_of(group, load_claims(root))
    if not complete(spec, root):
        pytest.skip(f"the benchmarks of {group} have no committed results")
    course = open_course(spec, root)
    outcomes = evaluate_curves(spec.claims, course)
    comparisons = comparisons_table(outcomes, load_published(root), spec)
    budgets = budgets_sheet(course, spec.budgets)
    found = [budgets, claims_sheet(outcomes, spec.claims, comparisons, budgets.note), ends_sheet(spec, root)]
    assert check(group, found, root, tmp_path) == 3


def test_the_papers_cells_and_differences_are_committed_as_printed(root, tmp_path):
    sheets = (
        cells_sheet(load_published(root)),
        differences_sheet(load_published(root), load_study(root), load_claims(root)),
    )
    assert check("published", iter(sheets), root, tmp_path) == 2
    cells, differences = (sheet.numbers for sheet in sheets)
    assert (cells["floor"] < cells["honest low"]).all()
    drawn = [text.get_text() for text in printed_figure(differences, "t").axes[0].get_yticklabels()]
    assert drawn == [where for where in differences["where"].unique() if where[1:].isdigit()]


def test_the_papers_model_of_errors_has_quantities_that_our_results_have(root):
    folders = [root / "figures" / name / "results" for name in ("smollm2", "micro-full")]
    measured = measured_table(folders, [name for name in load_study().checkpoints if name.startswith("student.")])
    assert measured["rho"].between(*RHO_RANGE).all()
    assert measured["rho"].min() > RHO
    assert measured["correlation"].min() > CORRELATION
    assert measured["spread"].min() < RUN_SPREAD < measured["spread"].max()
