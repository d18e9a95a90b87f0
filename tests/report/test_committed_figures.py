"""The committed tables say what the committed results say: recomputed from them, number by number."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from s2d_lib.claims import evaluate, load_claims, load_published
from s2d_lib.claims.claims import evaluate_curves
from s2d_lib.report import courses
from s2d_lib.report.analysis import analyses_of
from s2d_lib.report.claims import claims_table, comparisons_table, links_table, results_of, write_claims
from s2d_lib.report.contrasts import CONTRASTS, contrasts, write_contrasts
from s2d_lib.report.course_ends import ends_table, write_ends
from s2d_lib.report.families import families, write_families
from s2d_lib.report.map import Chart, cells_table
from s2d_lib.report.premises import asked_table, premises_table, write_premises
from s2d_lib.report.study_table import open_results, study_table
from s2d_lib.results.map import read_map
from s2d_lib.study import load_profile, load_study, profile_names
from tests.report.synthetic import project_with_results

TOLERANCE = 1e-6


def recomputed(profile: str, root: Path, folder: Path) -> Iterator[str]:
    """Write every table that a profile's results give into `folder`; yields their names."""
    if chart := load_profile(profile, root=root).map:
        found = Chart(chart, read_map(root / "figures" / profile / "results"), load_study(root))
        folder.mkdir()
        cells_table(found).to_csv(folder / "map.csv", index=False, float_format="%.5f")
        yield "map"
        return
    results, claims = open_results(profile, root), load_claims(root)
    for name in results.profile.tables:
        study_table(results, name, root).write(folder)
        yield name
    notebooks = {analysis.notebook for analysis in analyses_of(profile, results.profile, claims)[0]}
    written = {"92_bridge": ("transfers",), "93_student_rl": ("stage_3", "starts"), "94_placement": ("placement",)}
    written["99_crossing"] = ("crossing_pairs",)
    assert {name for names in written.values() for name in names} == set(CONTRASTS)
    for name in (name for notebook in notebooks for name in written.get(notebook, ())):
        write_contrasts(results, contrasts(results, name, root), name, folder)
        yield name
    if "95_families" in notebooks:
        write_families(*families(profile, claims, root), folder)
        yield "families"
    if "97_claims" in notebooks:
        played = results_of(profile, claims, root)
        outcomes = evaluate(claims, load_study(root), played)
        comparisons = comparisons_table(outcomes, load_published(root))
        summary, links = claims_table(outcomes, claims.claims, comparisons), links_table(outcomes, comparisons)
        write_claims(summary, links, asked_table(outcomes, claims), comparisons, folder)
        write_premises(premises_table(played, claims, load_study(root)), folder)
        yield from ("claims", "premises")


def check(profile: str, root: Path, folder: Path) -> list[str]:
    """Compare every table's csv in figures/<profile> with what its results give; the names of those compared."""
    names = list(recomputed(profile, root, folder))
    for name in names:
        committed = pd.read_csv(root / "figures" / profile / f"{name}.csv")
        pd.testing.assert_frame_equal(
            committed, pd.read_csv(folder / f"{name}.csv"), check_dtype=False, rtol=0, atol=TOLERANCE, obj=name
        )
    return names


@pytest.mark.parametrize("profile", profile_names())
def test_committed_tables_are_those_of_the_committed_results(root, tmp_path, profile):
    if not (root / "figures" / profile / "results").is_dir():
        pytest.skip(f"profile {profile} has no committed results")
    # A folder of the profile's name, since tables of several profiles tell their own from the others by it.
    assert check(profile, root, tmp_path / profile)


@pytest.mark.parametrize("group", load_claims().courses)
def test_committed_courses_are_those_of_the_committed_results(root, tmp_path, group):
    spec = courses.spec_of(group, load_claims(root))
    if not courses.complete(spec, root):
        pytest.skip(f"the benchmarks of {group} have no committed results")
    course = courses.open_course(spec, root=root)
    outcomes = evaluate_curves(spec.claims, course)
    comparisons = courses.comparisons_table(outcomes, spec, load_published(root))
    courses.write_claims(claims_table(outcomes, spec.claims, comparisons), comparisons, tmp_path, "")
    courses.write_budgets(courses.budgets_table(course, spec.budgets), tmp_path, "budgets", "")
    seconds = courses.open_course(spec, "seconds", root)
    courses.write_budgets(courses.budgets_table(seconds, spec.budgets), tmp_path, "budgets_seconds", "")
    write_ends(ends_table(spec, root), tmp_path, "")
    for path in sorted(tmp_path.glob("*.csv")):
        committed, found = (pd.read_csv(folder / path.name) for folder in (root / "figures" / group, tmp_path))
        pd.testing.assert_frame_equal(committed, found, check_dtype=False, rtol=0, atol=TOLERANCE, obj=path.name)


@pytest.fixture(scope="module")
def drawn(full, tmp_path_factory):
    """A project with results and the tables made from them."""
    project = project_with_results(tmp_path_factory.mktemp("drawn"), full.bundle, "micro-full")
    list(recomputed("micro-full", project, project / "figures" / "micro-full"))
    return project


def test_every_table_and_the_claims_are_compared(drawn, tmp_path):
    names = check("micro-full", drawn, tmp_path / "micro-full")
    assert {"headline", "table7", "estimators", "placement", "starts", "families", "claims"} <= set(names)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("table3", "micro-math low"),
        ("claims", "difference"),
        ("premises", "before"),
        ("stage_3", "labels first"),
        ("families", "micro-aime"),
    ],
)
def test_an_edited_number_is_found(drawn, tmp_path, name, column):
    path = drawn / "figures" / "micro-full" / f"{name}.csv"
    whole = path.read_text()
    table = pd.read_csv(path)
    table.loc[table[column].first_valid_index(), column] += 1e-4
    table.to_csv(path, index=False, float_format="%.6f")
    try:
        with pytest.raises(AssertionError, match=name):
            check("micro-full", drawn, tmp_path / "micro-full")
    finally:
        path.write_text(whole)


def test_an_edited_word_is_found(drawn, tmp_path):
    path = drawn / "figures" / "micro-full" / "claims.csv"
    whole = path.read_text()
    path.write_text(whole.replace(",undecided,", ",holds,", 1))
    try:
        with pytest.raises(AssertionError, match="claims"):
            check("micro-full", drawn, tmp_path / "micro-full")
    finally:
        path.write_text(whole)
