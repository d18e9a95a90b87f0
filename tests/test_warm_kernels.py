"""Warm kernels: the real server, papermill and a stage notebook; the same results as from a cold kernel."""

import os
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from s2d_lib.batch import execute, run_checkpoint
from s2d_lib.errors import StudyError
from s2d_lib.warm_kernels import ADDRESS, KERNEL, kernel_name, warm_kernels
from tests.conftest import TINY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="warm kernels are forks of a server: Linux only"),
]


@pytest.fixture(scope="module")
def server():
    """A server that has imported everything."""
    with pytest.MonkeyPatch.context() as patch, warm_kernels() as environment:
        for name in (ADDRESS, "JUPYTER_PATH"):
            patch.setenv(name, environment[name])
        for _ in range(600):
            if kernel_name("cold") == KERNEL:
                break
            time.sleep(0.2)
        yield


def notebook(tmp_path, *cells):
    path = tmp_path / "small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), path)
    return path


def printed(tmp_path, *cells) -> str:
    """What a notebook of these cells prints."""
    execute(notebook(tmp_path, *cells), tmp_path / "done.ipynb", {})
    done = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    return "".join(o.get("text", "") for c in done.cells for o in c.get("outputs", []))


def test_without_a_server_a_kernel_is_cold(monkeypatch, tmp_path):
    monkeypatch.setenv(ADDRESS, str(tmp_path / "nobody"))
    assert kernel_name("cold") == "cold"


def test_a_warm_kernel_has_the_callers_folder_and_environment_and_no_code_of_ours(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SAID_BY", "the caller")
    where = "import os, sys\nprint(os.getcwd(), os.environ['SAID_BY'], sys.path[0])"
    what = "print('torch' in sys.modules, 'trl' in sys.modules, [m for m in sys.modules if m.startswith('s2d_lib')])"
    first, second = printed(tmp_path, where, what).splitlines()
    assert first == f"{tmp_path} the caller {tmp_path}"
    assert second == "True True []"


def test_a_failing_cell_and_a_dying_kernel_are_told(server, tmp_path):
    with pytest.raises(StudyError, match=r"failed in cell 1: ValueError: no"):
        printed(tmp_path, "raise ValueError('no')")
    with pytest.raises(Exception, match="died"):
        printed(tmp_path, "import os; os._exit(3)")


def gone(number: int) -> bool:
    """Whether a process ends within seconds."""
    until = time.monotonic() + 10
    while psutil.pid_exists(number) and time.monotonic() < until:
        time.sleep(0.1)
    return not psutil.pid_exists(number)


def test_no_kernel_outlives_its_notebook_nor_its_driver(server, tmp_path):
    assert gone(int(printed(tmp_path, "import os; print(os.getpid())")))
    path = notebook(tmp_path, "import os, time; open('pid', 'w').write(f'{os.getpid()} ')", "time.sleep(100)")
    code = "import sys, pathlib, s2d_lib.batch as b; b.execute(*map(pathlib.Path, sys.argv[1:]), {})"
    driver, number = subprocess.Popen([sys.executable, "-c", code, path, tmp_path / "done.ipynb"]), ""
    while not number.endswith(" ") and driver.poll() is None:
        time.sleep(0.1)
        number = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
    driver.kill()
    driver.wait()
    assert gone(int(number))


def test_runs_and_tables_have_the_same_bytes_from_a_warm_and_a_cold_kernel(server, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    made, files = {}, ("evaluation.csv", "validation.csv", "model/model.safetensors")
    for kind, address in (("warm", os.environ[ADDRESS]), ("cold", "")):
        monkeypatch.setenv(ADDRESS, address)
        monkeypatch.setenv("S2D_RUNS", str(tmp_path / kind))
        for checkpoint in ("student", "student.grpo"):
            run_checkpoint("micro", checkpoint, 0, TINY)
        folder = next((tmp_path / kind).glob("*/seed-0/student.grpo"))
        table = printed(tmp_path, "import pandas\nprint(pandas.DataFrame([range(1000, 1019)]))")
        made[kind] = [table, *((folder / name).read_bytes() for name in files)]
    assert made["warm"] == made["cold"]
