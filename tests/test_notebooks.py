"""Notebooks as they are committed: tagged, short, honest about outputs; and notebook 10 run for real, briefly."""

import json

import nbformat
import papermill
import pytest

from s2d_lib.claims import load_claims
from s2d_lib.report.analysis import ANALYSES, COURSES, analyses_of
from s2d_lib.report.courses import complete
from s2d_lib.report.study_table import open_results
from s2d_lib.study import load_profile
from s2d_lib.study.resolve import released_record

MAX_CELL_LINES = 18


@pytest.fixture
def notebooks(root):
    """Every notebook by name."""
    return {p.name: nbformat.read(p, as_version=4) for p in sorted((root / "notebooks").glob("*.ipynb"))}


def test_every_notebook_has_one_cell_of_parameters_and_it_is_the_first_code_cell(notebooks):
    for name, notebook in notebooks.items():
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
        assert tagged == code[:1], name


def test_every_notebook_opens_with_a_title_and_its_question(notebooks):
    for name, notebook in notebooks.items():
        first = notebook.cells[0]
        assert first.cell_type == "markdown", name
        assert first.source.startswith("# "), name
        assert "question" in first.source.lower(), name


def test_cells_are_short_and_tell_no_path_of_a_machine(notebooks):
    for name, notebook in notebooks.items():
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert len(cell.source.splitlines()) <= MAX_CELL_LINES, (name, cell.source)
        assert "/home/" not in json.dumps(notebook), name
        assert "papermill" not in notebook.metadata, name


def test_stage_notebooks_are_committed_without_outputs(notebooks):
    for name, notebook in notebooks.items():
        if name[0] in "2345":
            assert not any(cell.get("outputs") for cell in notebook.cells), name


def test_analysis_notebooks_are_committed_with_outputs_and_without_errors(root, notebooks):
    waiting = {a.notebook for a in ANALYSES} | {COURSES}  # for the runs of their tables
    for profile in {a.committed for a in ANALYSES if (root / "figures" / a.committed / "results").is_dir()}:
        results = open_results(profile, root)
        waiting -= {a.notebook for a in analyses_of(profile, results.profile, load_claims(root))[0]}
    if any(complete(spec, root) for spec in load_claims(root).courses.values()):
        waiting -= {COURSES}
    assert "90_headline" not in waiting
    for name, notebook in notebooks.items():
        if name[0] in "01689" and name.removesuffix(".ipynb") not in waiting:
            outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
            assert outputs, name
            assert not [o for o in outputs if o.output_type == "error"], name


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["micro", "micro-llama"])
def test_notebook_10_makes_base_models(root, tmp_path, profile):
    names = load_profile(profile).pretraining.models
    overrides = {"pretraining": {"models": {name: {"steps": 4, "batch": 8} for name in names}}}
    papermill.execute_notebook(
        root / "notebooks" / "10_base_models.ipynb",
        tmp_path / "out.ipynb",
        {"profile": profile, "remake": True, "overrides": overrides, "folder": str(tmp_path / "models")},
        kernel_name="python3",
        progress_bar=False,
        cwd=root / "notebooks",
    )
    for name in names:
        assert released_record(tmp_path / "models" / name)["model"]["steps"] == 4
