"""Training in two processes, with real workers: the steps of one, whole accounts, and a model that both share by FSDP2."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import read_table
from s2d_lib.stages import training
from s2d_lib.stages.rl import read_account
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge
from tests.stages.conftest import same_steps
from tests.stages.worker_on_cpus import SHARED, STEPS, seed_rollouts

pytestmark = pytest.mark.slow


def in_processes(tiny: dict, number: int, checkpoint: str, **changes) -> dict:
    """Overrides by which so many processes train this checkpoint's stage, with some parameters changed; what it is made from is
    one process's."""
    stage = resolve("micro-full", checkpoint, 0, tiny).stage
    own = {"hardware": {"processes": number}, "micro_batch": 8 // number} | changes
    return deep_merge(tiny, {"rules": [{"match": {"stage": stage}, "set": own}]})


@pytest.fixture
def seeded(monkeypatch):
    """Rollouts that are the same in one process and in two."""
    seed_rollouts(monkeypatch.setattr)
    monkeypatch.setattr(training, "MODULE", "tests.stages.worker_on_cpus")


def both(make, tiny, checkpoint, **changes) -> tuple:
    """A run in one process and in two, on the same rollouts."""
    return tuple(make(checkpoint, overrides=in_processes(tiny, number, checkpoint, **changes)) for number in (1, 2))


def test_opd_takes_the_same_steps_in_two_processes(make, tiny, seeded):
    one, two = both(make, tiny, "student.bridge.raw_teacher")
    same_steps(one, two)
    assert two.record["optimizer_steps"] == one.record["optimizer_steps"]
    assert two.record["trained_tokens"] == one.record["trained_tokens"]
    assert not [path for path in two.folder.iterdir() if path.name.startswith(".")]


def test_srpo_takes_the_same_steps_in_two_processes_and_they_keep_one_account(make, tiny, seeded):
    one, two = both(make, tiny, "student.srpo")
    metrics = pd.read_csv(one.path("metrics.csv"))
    assert metrics["grad_norm"].max() > 0
    assert metrics["routed/sdpo"].max() > 0
    same_steps(one, two)
    accounts = [read_account(run.path("gradings.jsonl")).sort_values(["step", "problem"]) for run in (one, two)]
    for column in accounts[0]:
        assert accounts[1][column].tolist() == accounts[0][column].tolist(), column


def test_a_workers_error_is_the_notebooks(make, tiny):
    over = in_processes(tiny, 2, "teacher.sft_own", batch=32)
    said = (
        r"'teacher.sft_own' has \d+ answers to learn \(of 32\) but one optimiser step takes 32: lower `batch` or raise"
    )
    with pytest.raises(StudyError, match=said):
        make("teacher.sft_own", overrides=over)


# A shared model


@pytest.fixture
def shares(tmp_path, monkeypatch, seeded):
    """Runs in several processes share their models; the file in which these say how much they hold of a teacher."""
    monkeypatch.setenv(SHARED, str(tmp_path / "shares"))
    return tmp_path / "shares"


@pytest.mark.parametrize(
    ("checkpoint", "more"),
    [("student.warm.raw_teacher", {"teacher_targets": "recompute"}), ("student.grpo", {"kl_coefficient": 1.0})],
)
def test_processes_that_share_a_model_take_the_steps_of_one(make, tiny, shares, checkpoint, more):
    one, two = both(make, tiny, checkpoint, steps=3, warmup_steps=0, **more)
    same_steps(one, two)
    rows = [read_table(run.path("validation.csv")) for run in (one, two)]
    assert rows[0]["correct"].tolist() == rows[1]["correct"].tolist()
    numbers = [part.drop(columns="correct") for part in rows]
    pd.testing.assert_frame_equal(*numbers, rtol=1e-3, atol=1e-4)
    if checkpoint != "student.grpo":  # each held half of the teacher
        assert {round(float(share), 2) for share in shares.read_text().split()} == {0.5}
    model = AutoModelForCausalLM.from_pretrained(two.path("model"))
    assert all(torch.isfinite(weights).all() for weights in model.parameters())


def test_an_interrupted_run_of_a_shared_model_goes_on(make, tiny, tmp_path, shares, monkeypatch):
    monkeypatch.setenv(STEPS, str(tmp_path / "steps"))
    # A self-teacher that began anew at step 3 would be elsewhere
    one, two = both(make, tiny, "student.srpo", warmup_steps=0, ema_rate=0.5)
    assert (tmp_path / "steps").read_text().splitlines() == ["[1, 2, 3, 3, 4]"] * 2
    assert pd.read_csv(one.path("metrics.csv"))["routed/sdpo"][2:].max() > 0  # the self-teacher is asked
    same_steps(one, two)
    assert {round(float(share), 2) for share in shares.read_text().split()} == {0.5}


def test_what_sampling_leaves_gathered_goes_back_into_shards(runs, tmp_path, root):
    command = [sys.executable, "-m", "tests.stages.gathered_worker", str(tmp_path)]
    on_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=root, env=on_cpu, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sharded"] == found["back"] == 0
    assert found["sampled"] > 0  # else accelerate needs no help any more
    assert found["synced"] == found["parameters"]
    assert found["validated"] == 0
