"""Notebooks as they are committed: tagged, short, honest about outputs, the same bytes each time; notebook 10 for real."""

import json

import nbformat
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from s2d_lib.batch import drop_readings, strip_machine
from s2d_lib.claims import load_claims
from s2d_lib.errors import StudyError
from s2d_lib.notebook import PARAMETERS, refuse_unknown_parameters
from s2d_lib.report.courses import complete
from s2d_lib.report.looks import analyses_of, load_report
from s2d_lib.report.study_table import open_results
from s2d_lib.study import load_profile
from s2d_lib.study.resolve import released_record

MAX_CELL_LINES = 18


@pytest.fixture
def notebooks(root):
    """Every notebook by name."""
    return {p.name: nbformat.read(p, as_version=4) for p in sorted((root / "notebooks").glob("*.ipynb"))}


def test_every_notebook_opens_with_its_question_and_its_parameters_and_has_short_cells(notebooks):
    for name, notebook in notebooks.items():
        first, code = notebook.cells[0], [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert first.cell_type == "markdown", name
        assert first.source.startswith("# "), name
        assert "question" in first.source.lower(), name
        assert [cell for cell in code if "parameters" in cell.metadata.get("tags", [])] == code[:1], name
        assert max(len(cell.source.splitlines()) for cell in code) <= MAX_CELL_LINES, name
        assert "/home/" not in json.dumps(notebook), name
        assert "papermill" not in notebook.metadata, name


def test_stage_notebooks_are_committed_without_outputs(notebooks):
    for name, notebook in notebooks.items():
        if name[0] in "2345":
            assert not any(cell.get("outputs") for cell in notebook.cells), name


def test_analysis_notebooks_are_committed_with_outputs_and_without_errors(root, notebooks):
    report = load_report(root)
    waiting = {*report.notebooks, report.courses}  # for the runs of their tables
    committed = {one.committed for one in report.notebooks.values()}
    for profile in (name for name in committed if (root / "figures" / name / "results").is_dir()):
        results = open_results(profile, root)
        waiting -= set(analyses_of(profile, results.profile, load_claims(root))[0])
    if any(complete(spec, root) for spec in load_claims(root).courses.values()):
        waiting -= {report.courses}
    assert "90_headline" not in waiting
    for name, notebook in notebooks.items():
        if name[0] in "01689" and name.removesuffix(".ipynb") not in waiting:
            outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
            assert outputs, name
            assert not [o for o in outputs if o.output_type == "error"], name


@pytest.fixture
def shell():
    """A kernel's shell."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


OWN = "profile = 'micro'\ncheckpoint = 'student'\nseed = 0\noverrides = {}"


@pytest.mark.parametrize("cells_before", [0, 1, 9])
@pytest.mark.parametrize("wrong", ["# Parameters\nsede = 3\n", OWN + "\nsede = 3"])
def test_a_misspelt_parameter_is_refused_however_many_cells_were_run(shell, cells_before, wrong):
    for cell in ["mine = 1"] * cells_before + [OWN, "import math", wrong, "x = math.pi"]:
        shell.run_cell(cell, store_history=True)
    with pytest.raises(StudyError, match=r"no parameter 'sede'; did you mean 'seed'\?"):
        refuse_unknown_parameters(PARAMETERS)
    for cell in [OWN, "sede = 3", "seed, other = 1, 2"]:  # put right, and variables of the user's own
        shell.run_cell(cell, store_history=True)
    refuse_unknown_parameters(PARAMETERS)


def test_cleaning_touches_outputs_and_metadata_alone(tmp_path):
    said = "<Model object at 0x7f0a12> of T_0a1b2_row"
    cells = [new_markdown_cell(said), new_code_cell(f"print('{said}')")]
    cells[1].outputs = [new_output("stream", text=f"{said}\n{said} T_ffff0_ ü"), new_output("stream")]
    cells[1].metadata = {"papermill": {"start_time": "now"}, "tags": []}
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    strip_machine(tmp_path / "a.ipynb")
    text, code = nbformat.read(tmp_path / "a.ipynb", as_version=4).cells
    assert (text.source, code.source, code.metadata) == (said, f"print('{said}')", {})
    line = "<Model> of T_table0_row"
    assert code.outputs[0].text == f"{line}\n{line} T_table1_ ü"


def executed(path, name, address):
    html = f'<style>#T_{name}_row0_col0 {{}}</style><table id="T_{name}"><td id="T_{name}_row0_col0">1</td></table>'
    styled, other = f"<pandas.io.formats.style.Styler at {address}>", f"<a.B object at {address}>"
    shown = [
        new_output("execute_result", data=data, execution_count=1)
        for data in ({"text/html": html, "text/plain": styled}, {"text/plain": other})
    ]
    notebook = new_notebook(cells=[new_code_cell("table", outputs=shown, execution_count=1)])
    notebook.metadata["papermill"] = {"output_path": "/somewhere"}
    nbformat.write(notebook, path)
    strip_machine(path)
    return path.read_text()


def test_two_executions_leave_the_same_bytes(tmp_path):
    first, second = (executed(tmp_path / "n.ipynb", *made) for made in (("1a2b3", "0x7f00aa"), ("ffe01", "0x7f11bb")))
    assert first == second
    assert "T_table0_row0_col0" in first
    assert "0x7f" not in first
    assert "somewhere" not in first


def test_readings_stay_with_the_results_that_they_read(tmp_path):
    path = tmp_path / "n.ipynb"
    cells = [new_markdown_cell("## The table"), new_markdown_cell("**Reading.** A is ahead."), new_code_cell("1")]
    nbformat.write(new_notebook(cells=cells), path)
    drop_readings(path)
    assert [cell.source for cell in nbformat.read(path, as_version=4).cells] == ["## The table", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["micro-llama", "micro-selection"])
def test_notebook_10_makes_base_models(root, tmp_path, profile):
    names = list(load_profile(profile).pretraining.models)
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
