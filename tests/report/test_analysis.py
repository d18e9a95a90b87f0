"""Which notebook draws what: every table of a profile is written once, and notebooks are committed with their own profile."""

import json
import shutil

import nbformat
import pandas as pd
import pytest

from s2d_lib.batch import draw
from s2d_lib.claims import load_claims
from s2d_lib.report.analysis import ANALYSES, analyses_of
from s2d_lib.study import load_profile, load_study, profile_names
from tests.report.synthetic import TABLES, project_with_results


@pytest.mark.parametrize("name", profile_names())
def test_every_table_of_a_profile_is_written_by_one_notebook(name):
    profile = load_profile(name)
    chosen, rest = analyses_of(name, profile, load_claims())
    assert sorted([table for analysis in chosen for table in analysis.writes] + rest) == sorted(profile.tables)


def test_the_whole_study_has_every_analysis_and_a_smaller_one_only_what_it_has_runs_for():
    claims = load_claims()
    own = [analysis for analysis in ANALYSES if analysis.committed == "micro-full"]
    assert analyses_of("micro-full", load_profile("micro-full", {"tables": list(TABLES)}), claims) == (own, [])
    chosen, rest = analyses_of("micro", load_profile("micro", {"tables": ["headline"]}), claims)
    assert ([analysis.notebook for analysis in chosen], rest) == (["90_headline"], [])
    partial = load_profile("micro", {"tables": ["table2", "table7"]})
    chosen, rest = analyses_of("micro", partial, claims)
    assert ([analysis.notebook for analysis in chosen], rest) == (["94_placement"], ["table2"])  # 91 lacks table3


@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda analysis: analysis.notebook)
def test_a_notebooks_default_profile_is_the_one_it_is_committed_with(root, analysis):
    notebook = nbformat.read(root / "notebooks" / f"{analysis.notebook}.ipynb", as_version=4)
    parameters: dict = {}
    exec(next(cell.source for cell in notebook.cells if cell.cell_type == "code"), parameters)
    assert parameters["profile"] == analysis.committed
    assert set(analysis.writes) | set(analysis.reads) <= set(load_study().tables)


@pytest.fixture
def project(full, tmp_path, monkeypatch):
    """The whole study's results, but only two of its tables asked for, one of which needs the generic notebook."""
    folder = project_with_results(tmp_path, full.bundle, "micro-full", ("table2", "table7"))
    claims = folder / "params" / "claims.yaml"
    claims.write_text(claims.read_text().replace("micro-full: {Qwen3", "micro: {Qwen3"))
    monkeypatch.setenv("S2D_HOME", str(folder))
    return folder


@pytest.mark.slow
def test_figures_are_drawn_from_results_alone_and_again_byte_for_byte(project):
    figures = project / "figures" / "micro-full"
    lines = draw("micro-full")
    assert lines[1:] == ["notebooks/94_placement.ipynb", "figures/micro-full/table2.ipynb"]
    assert {"table2.csv", "table7.csv", "placement.csv", "placement.svg"} <= {path.name for path in figures.iterdir()}
    assert len(pd.read_csv(figures / "table2.csv")) == 6
    notebook = json.loads((project / "notebooks" / "94_placement.ipynb").read_text())
    assert any(cell.get("outputs") for cell in notebook["cells"])
    assert not any("injected-parameters" in cell["metadata"].get("tags", []) for cell in notebook["cells"])
    drawn = {path: path.read_bytes() for path in figures.rglob("*") if path.is_file()}
    before = (project / "notebooks" / "94_placement.ipynb").read_bytes()
    shutil.rmtree(figures / "runs")
    draw("micro-full")
    assert {path: path.read_bytes() for path in figures.rglob("*") if path.is_file()} == drawn
    assert (project / "notebooks" / "94_placement.ipynb").read_bytes() == before
