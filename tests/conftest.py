"""Shared fixtures: a tiny study in a folder of its own."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import torch

from s2d_lib.study.load import deep_merge

torch.set_num_threads(1)  # two spinning threads on a shared core are several times slower than one

ROOT = Path(__file__).parents[1]


def data(*names: str) -> Path:
    """The first of some files in the folder $S2D_DATA of real data; the test is skipped where one of them is not there."""
    folder = ROOT / os.environ.get("S2D_DATA", "../shared/data")
    for name in names:
        if not (folder / name).exists():
            pytest.skip(f"{name} is not in the folder S2D_DATA")
    return folder / names[0]


def copy_project(folder: Path, **changes: dict) -> Path:
    """A copy of the project in a folder, with changes laid over the files of params/ that they are named by."""
    for name in ("params", "notebooks", "executors"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    for name, change in changes.items():
        path = folder / "params" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(deep_merge(yaml.safe_load(path.read_text()), change)))
    return folder


TINY = {
    "problems": {
        "labels": None,  # all of the pool
        "prompts": None,
        "pools": {"full": {"count": 16, "lengths": [2], "seed": 1}},
        "evaluations": {
            "micro-math": {"count": 6, "lengths": [2], "seed": 2},
            "micro-aime": {"count": 4, "lengths": [3], "rare": True, "seed": 3},
            "known-facts": {"count": 2, "lengths": [2], "seed": 5},
            "known-long": {"count": 2, "lengths": [3], "seed": 6},
        },
        "validation": {"count": 5, "lengths": [2], "seed": 4},
    },
    "validation": {"every": 2, "samples": 3},
    "evaluation": {"samples": 4},
    "stages": {
        "sparse_rl": {"steps": 4, "batch": 16, "micro_batch": 8, "group_size": 4, "save_steps": 2},
        "teacher_sft": {"steps": 4, "batch": 8, "micro_batch": 4, "save_steps": 2},
        "forward_kl": {"steps": 4, "batch": 16, "micro_batch": 8, "save_steps": 2},
        "opd": {"steps": 4, "batch": 16, "micro_batch": 8, "save_steps": 2},
        "teacher_sample_sft": {"steps": 4, "batch": 16, "micro_batch": 8, "save_steps": 2},
        "teacher_rollouts": {"samples_per_problem": 2},
        "self_distillation": {
            "method": "srpo",
            "steps": 4,
            "learning_rate": 1e-3,
            "batch": 16,
            "micro_batch": 8,
            "group_size": 4,
            "top_k": None,
            "reprompt": "{solution} {question}",
            "save_steps": 2,
        },
    },
}
"""Overrides of the micro profile that make every stage take seconds."""

HEADLINE = {"tables": ["headline"], "map": None}
"""Overrides of the micro profile that make the headline table of its default student instead of the ends of the map."""


@pytest.fixture
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """An empty place for runs."""
    monkeypatch.setenv("S2D_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("S2D_HOME", str(ROOT))
    return tmp_path / "runs"


@pytest.fixture
def tiny() -> dict:
    """Overrides of the micro profile that make every stage take seconds."""
    return TINY
