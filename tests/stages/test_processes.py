"""Training in two processes, with real workers: the same as in one where nothing is sampled, and whole accounts where it is."""

import json

import pandas as pd
import pytest
from safetensors.torch import load_file

from s2d_lib.errors import StudyError
from s2d_lib.stages.account import read_account
from s2d_lib.stages.inputs import prepare
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge

pytestmark = pytest.mark.slow

TWO = {
    "hardware": {"processes": 2},
    "stages": {name: {"micro_batch": 4} for name in ("sparse_rl", "forward_kl", "teacher_sft")},
}
DENSE = {"stages": {"forward_kl": {"teacher_targets": "recompute"}}}


def test_one_process_has_the_hash_that_it_had_before_there_could_be_two(tiny):
    assert "processes" not in resolve("micro", "student.grpo", 0, tiny).model_dump(mode="json")["hardware"]
    one, two = (resolve("micro", "student.grpo", 0, deep_merge(tiny, over)).hash for over in ({}, TWO))
    assert one != two


def test_forward_kl_takes_the_same_steps_in_two_processes(make, tiny):
    one = make("student.warm.raw_teacher", overrides=deep_merge(tiny, DENSE))
    two = make("student.warm.raw_teacher", overrides=deep_merge(deep_merge(tiny, DENSE), TWO))
    losses = [pd.read_csv(run.path("metrics.csv"))["loss"].tolist() for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    first, second = (load_file(run.path("model") / "model.safetensors") for run in (one, two))
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-5
    assert two.record["optimizer_steps"] == one.record["optimizer_steps"]
    assert two.record["trained_tokens"] == one.record["trained_tokens"]
    assert not [path for path in two.folder.iterdir() if path.name.startswith(".")]


def test_grpo_in_two_processes_accounts_for_every_grading_once(make, tiny):
    run = make("student.grpo", overrides=deep_merge(tiny, TWO))
    account = read_account(run.path("gradings.jsonl"))
    assert account.groupby("step").size().tolist() == [16] * 4
    assert account["step"].is_monotonic_increasing
    assert run.record["label_use"]["gradings"] == 64
    assert run.record["sampled"]["sequences"] == 64
    assert len(pd.read_csv(run.path("metrics.csv"))) == 4
    assert json.loads(run.path("resolved.json").read_text())["hardware"]["processes"] == 2


def test_a_workers_error_is_the_notebooks(make, tiny):
    hopeless = {"stages": {"teacher_sft": {"batch": 32}, "teacher_rollouts": {"samples_per_problem": 1}}}
    with pytest.raises(StudyError, match=r"'teacher.sft' has \d+ correct rollouts \(of 16\)"):
        make("teacher.sft", overrides=deep_merge(deep_merge(tiny, TWO), hopeless))


def test_batches_that_two_processes_cannot_share_are_refused(make, tiny):
    from s2d_lib.runs import open_run

    over = deep_merge(tiny, {"hardware": {"processes": 2}, "stages": {"sparse_rl": {"micro_batch": 16}}})
    make("student", overrides=over)
    with pytest.raises(StudyError, match="2 processes with micro_batch 16 take 32 sequences at a time"):
        prepare(open_run("micro", "student.grpo", 0, over))
