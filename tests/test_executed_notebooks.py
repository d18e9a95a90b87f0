"""What stays in an executed notebook: the same bytes each time, and no reading of results that are not its own."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from s2d_lib.batch import drop_readings, strip_machine


def executed(path, name, address):
    html = f'<style>#T_{name}_row0_col0 {{}}</style><table id="T_{name}"><td id="T_{name}_row0_col0">1</td></table>'
    data = {"text/html": html, "text/plain": f"<pandas.io.formats.style.Styler at {address}>"}
    shown = new_output("execute_result", data=data, execution_count=1)
    other = new_output("execute_result", data={"text/plain": f"<a.B object at {address}>"}, execution_count=1)
    notebook = new_notebook(cells=[new_code_cell("table", outputs=[shown, other], execution_count=1)])
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
