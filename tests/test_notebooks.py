"""Notebooks as they are committed: tagged, short, honest about outputs, the same bytes each time; notebook 10 for real."""

import json

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from s2d_lib.batch import drop_readings, execute, strip_machine
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
    return {p.stem: nbformat.read(p, as_version=4) for p in sorted((root / "notebooks").glob("*.ipynb"))}


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
        if name[0] in "2345":  # a stage's, committed without outputs
            assert not any(cell.outputs for cell in code), name


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
        if name[0] in "01689" and name not in waiting:
            outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
            assert outputs, name
            assert not [o for o in outputs if o.output_type == "error"], name


def test_a_misspelt_parameter_is_refused_and_a_users_own_variables_are_not(root, request):
    def injected(**parameters) -> str:
        made = parameterize_notebook(load_notebook_node(str(root / "notebooks/31_opd.ipynb")), parameters)
        return next(cell.source for cell in made.cells if "injected-parameters" in cell.metadata.tags)

    shell = InteractiveShell.instance()
    request.addfinalizer(InteractiveShell.clear_instance)
    for cell in ["mine, other = 1, 2", "seed = 0", injected(seed=1, overrides={"a": 1}), "sede = 3"]:
        shell.run_cell(cell, store_history=True)
    refuse_unknown_parameters(PARAMETERS)
    shell.run_cell(injected(sede=3), store_history=True)
    with pytest.raises(StudyError, match=r"no parameter 'sede'; did you mean 'seed'\?"):
        refuse_unknown_parameters(PARAMETERS)


def executed(path, name: str, address: str) -> str:
    """A notebook as one execution leaves it, cleaned."""
    said = f"<Model object at {address}> of T_{name}_row"
    html = f'<style>#T_{name}_row0_col0 {{}}</style><table id="T_{name}"><td id="T_{name}_row0_col0">1</td></table>'
    output = new_output("execute_result", data={"text/html": html, "text/plain": said}, execution_count=1)
    asked = {"papermill": {"start_time": address}, "tags": []}
    code = new_code_cell("print('T_0a1b2_row')", outputs=[output], metadata=asked)
    cells = [new_markdown_cell("at 0x7f00aa"), code, new_markdown_cell("**Reading.** A.")]
    nbformat.write(new_notebook(cells=cells, metadata={"papermill": {"output_path": address}}), path)
    strip_machine(path)
    return path.read_text()


def test_two_executions_leave_the_same_bytes_and_cleaning_touches_outputs_and_metadata_alone(tmp_path):
    path = tmp_path / "n.ipynb"
    assert executed(path, "1a2b3", "0x7f00aa") == executed(path, "ffe01", "0x7f11bb")
    text, code, _ = nbformat.read(path, as_version=4).cells
    assert (text.source, code.source, code.metadata) == ("at 0x7f00aa", "print('T_0a1b2_row')", {})
    assert code.outputs[0].data["text/plain"] == "<Model> of T_table0_row"
    assert "T_table0_row0_col0" in code.outputs[0].data["text/html"]
    drop_readings(path)  # they stay with the results that they read
    assert [cell.source for cell in nbformat.read(path, as_version=4).cells] == [text.source, code.source]


@pytest.mark.slow
def test_notebook_10_makes_base_models(root, tmp_path):
    names = list(load_profile("micro-llama").pretraining.models)
    overrides = {"pretraining": {"models": {name: {"steps": 4, "batch": 8} for name in names}}}
    asked = {"profile": "micro-llama", "remake": True, "overrides": overrides, "folder": str(tmp_path / "models")}
    execute(root / "notebooks" / "10_base_models.ipynb", tmp_path / "out.ipynb", asked)
    for name in names:
        assert released_record(tmp_path / "models" / name)["model"]["steps"] == 4
