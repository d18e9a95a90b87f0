"""Training in two processes, with real workers: the steps of one, whole accounts, and a model that both share by FSDP2."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import read_table
from s2d_lib.stages import training
from s2d_lib.stages.rl import read_account
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge
from tests.stages.worker_on_cpus import SHARED, STEPS, seed_rollouts

pytestmark = pytest.mark.slow

LOGGED = {"loss", "grad_norm", "reward", "completions/mean_length", "routed/sdpo", "self_teacher/tokens"}


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


def same_steps(one, two) -> None:
    """What two runs logged of every step, within 1e-5 (or 1e-4 of it), and the weights that they came to, within 1e-4.

    Sums are the same in another order; AdamW makes more of the difference where a gradient is next to nothing.
    """
    first, second = (pd.read_csv(run.path("metrics.csv")) for run in (one, two))
    for name in LOGGED & set(first):
        assert second[name].tolist() == pytest.approx(first[name].tolist(), rel=1e-4, abs=1e-5), name
    assert first["grad_norm"].max() > 0
    weights = [load_file(run.path("model") / "model.safetensors") for run in (two, one)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


def both(make, tiny, checkpoint, **changes) -> tuple:
    """A run in one process and in two, on the same rollouts."""
    return tuple(make(checkpoint, overrides=in_processes(tiny, number, checkpoint, **changes)) for number in (1, 2))


def test_opd_takes_the_same_steps_in_two_processes(make, tiny, seeded):
    one, two = both(make, tiny, "student.bridge.raw_teacher")
    same_steps(one, two)
    assert two.record["optimizer_steps"] == one.record["optimizer_steps"]
    assert two.record["trained_tokens"] == one.record["trained_tokens"]
    assert not [path for path in two.folder.iterdir() if path.name.startswith(".")]


def test_a_workers_error_is_the_notebooks(make, tiny):
    over = in_processes(tiny, 2, "teacher.sft_own", batch=32)
    with pytest.raises(StudyError, match=r"^'teacher.sft_own' has \d+ answers to learn \(of 32\) but one"):
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
    pd.testing.assert_frame_equal(*rows, rtol=1e-3, atol=1e-4)
    if checkpoint != "student.grpo":  # each held half of the teacher
        assert {round(float(share), 2) for share in shares.read_text().split()} == {0.5}


def test_an_interrupted_run_of_a_shared_model_goes_on_and_its_processes_keep_one_account(
    make, tiny, tmp_path, shares, monkeypatch
):
    monkeypatch.setenv(STEPS, str(tmp_path / "steps"))
    # A self-teacher that began anew at step 3 would be elsewhere
    one, two = both(make, tiny, "student.srpo", warmup_steps=0, ema_rate=0.5)
    assert (tmp_path / "steps").read_text().splitlines() == ["[1, 2, 3, 3, 4]"] * 2
    assert pd.read_csv(one.path("metrics.csv"))["routed/sdpo"][2:].max() > 0  # the self-teacher is asked
    same_steps(one, two)
    assert {round(float(share), 2) for share in shares.read_text().split()} == {0.5}
    accounts = [read_account(run.path("gradings.jsonl")).sort_values(["step", "problem"]) for run in (one, two)]
    for column in accounts[0]:
        assert accounts[1][column].tolist() == accounts[0][column].tolist(), column
