"""Evaluation, teacher rollouts and training through vLLM, from overrides to finished runs."""

import pandas as pd
import pytest
import torch

from s2d_lib.errors import StudyError
from s2d_lib.evaluation import evaluate
from s2d_lib.notebook import finish
from s2d_lib.rollouts import read_rollouts
from s2d_lib.runs import open_run
from s2d_lib.stages.distillation import distill
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.sparse_rl import sparse_rl
from s2d_lib.stages.teacher_rollouts import teacher_rollouts
from s2d_lib.study.load import deep_merge

BY_VLLM = {"sampling": {"engine": "vllm", "batch": 64}}


@pytest.fixture
def overrides(tiny):
    return deep_merge(tiny, BY_VLLM)


def test_evaluation_and_teacher_rollouts_end_to_end(runs, overrides, clocked):
    run = open_run("micro", "teacher", 0, overrides)
    inputs = prepare(run)
    with clocked("evaluation"):
        evaluate(run, inputs)
    finish(run, inputs)
    rows = pd.read_csv(run.finished.path("evaluation.csv"), dtype={"correct": str})
    assert rows.groupby("set").size().to_dict() == {"micro-math": 6, "micro-aime": 4}
    assert rows["correct"].str.len().eq(4).all()
    assert rows["correct"].str.contains("1").any()
    said = run.finished.record["vllm"]["evaluation"]
    assert said["check"]["ties"] == 0
    print(f"\n{said}", end="")

    made = open_run("micro", "teacher.rollouts.full", 0, overrides)
    inputs = prepare(made)
    with clocked("teacher rollouts"):
        rollouts = teacher_rollouts(made, inputs)
    finish(made)
    assert read_rollouts(made.finished.path("rollouts.parquet"))[0] == rollouts
    assert len(rollouts) == 16 * 2
    assert "vllm" in made.finished.record
    assert not [path for path in made.finished.folder.iterdir() if path.name.startswith(".")]


def test_training_by_one_engine_is_refused_on_a_cpu(runs, overrides):
    run = open_run("micro", "student.grpo", 0, overrides)
    with pytest.raises(StudyError, match=r"trains on a CPU.*set `sampling\.vllm\.uses"):
        prepare(run)


def test_training_by_a_fresh_engine_for_every_update(runs, overrides, clocked):
    at_once = {"warmup_steps": 0, "learning_rate": 3e-3}
    stages = {"sparse_rl": at_once | {"steps": 2}, "forward_kl": {"steps": 1}, "opd": at_once | {"steps": 1}}
    options = {"uses": ["training"], "fresh_each_update": True}
    overrides = deep_merge(overrides, {"stages": stages, "sampling": {"vllm": options}})
    open_run("micro", "student", 0, overrides).finish()
    threads = torch.get_num_threads(), torch.set_num_threads
    for checkpoint, train in (("student.grpo", sparse_rl), ("student.opd_only.rl_same_size", distill)):
        run = open_run("micro", checkpoint, 0, overrides)
        inputs = prepare(run)
        with clocked(f"{checkpoint}, two steps"):
            metrics = train(run, inputs)
        assert len(metrics) == 2
        assert not run.path(".engine").exists()
        run.finish()
    assert (torch.get_num_threads(), torch.set_num_threads) == threads
