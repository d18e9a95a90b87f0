"""Training in two processes, with real workers: the same as in one where nothing is sampled, and whole accounts where it is."""

import json

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.stages import processes
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.rl import read_account
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge
from tests.stages.same_steps import same_steps
from tests.stages.seeded_rollouts import seed_rollouts

pytestmark = pytest.mark.slow

TWO = {
    "hardware": {"processes": 2},
    "stages": {
        name: {"micro_batch": 4} for name in ("sparse_rl", "forward_kl", "opd", "teacher_sft", "self_distillation")
    },
}
DENSE = {"stages": {"forward_kl": {"teacher_targets": "recompute"}}}


def test_one_process_has_the_hash_that_it_had_before_there_could_be_two(tiny):
    assert "processes" not in resolve("micro-full", "student.grpo", 0, tiny).model_dump(mode="json")["hardware"]
    one, two = (resolve("micro-full", "student.grpo", 0, deep_merge(tiny, over)).hash for over in ({}, TWO))
    assert one != two


def both(make, tiny, checkpoint) -> tuple:
    """A run in one process and in two, on the same rollouts."""
    whole = deep_merge(tiny, DENSE)
    return tuple(make(checkpoint, overrides=deep_merge(whole, over)) for over in ({}, TWO))


@pytest.fixture
def seeded(monkeypatch):
    """Rollouts that are the same in one process and in two."""
    seed_rollouts(monkeypatch.setattr)
    monkeypatch.setattr(processes, "MODULE", "tests.stages.seeded_rollouts")


def test_the_bridge_takes_the_same_steps_in_two_processes(make, tiny, seeded):
    for checkpoint in ("student.warm.raw_teacher", "student.bridge.raw_teacher"):  # forward KL, then OPD
        one, two = both(make, tiny, checkpoint)
        same_steps(one, two)
        assert two.record["optimizer_steps"] == one.record["optimizer_steps"]
        assert two.record["trained_tokens"] == one.record["trained_tokens"]
        assert not [path for path in two.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("checkpoint", ["student.grpo", "student.srpo"])
def test_rl_takes_the_same_steps_in_two_processes(make, tiny, seeded, checkpoint):
    one, two = both(make, tiny, checkpoint)
    metrics = pd.read_csv(one.path("metrics.csv"))
    assert metrics["grad_norm"].max() > 0
    if checkpoint == "student.srpo":
        assert metrics["routed/sdpo"].max() > 0
    same_steps(one, two)
    accounts = [read_account(run.path("gradings.jsonl")).sort_values(["step", "problem"]) for run in (one, two)]
    for column in accounts[0]:
        assert accounts[1][column].tolist() == accounts[0][column].tolist(), column


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
    hopeless = {"stages": {"teacher_sft": {"batch": 32}}}
    with pytest.raises(StudyError, match=r"'teacher.sft_own' has \d+ correct rollouts \(of 32\)"):
        make("teacher.sft_own", overrides=deep_merge(deep_merge(tiny, TWO), hopeless))


def test_batches_that_two_processes_cannot_share_are_refused(make, tiny):
    from s2d_lib.runs import open_run

    over = deep_merge(tiny, {"hardware": {"processes": 2}, "stages": {"sparse_rl": {"micro_batch": 16}}})
    make("student", overrides=over)
    with pytest.raises(StudyError, match="2 processes with micro_batch 16 take 32 sequences at a time"):
        prepare(open_run("micro-full", "student.grpo", 0, over))
