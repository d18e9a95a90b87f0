"""Logging for a viewer: files in the run's folder, no trace in what makes a run stale, no step twice."""

import importlib.util
import sqlite3
from types import SimpleNamespace

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.runs import LOGS, open_run, read_finished
from s2d_lib.stages import trackers
from s2d_lib.stages.trackers import Tracker
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge

needs = lambda name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")  # noqa: E731
STEPS = [{"loss": 2.0, "reward": 0.25, "epoch": 0.1}, {"loss": 1.0, "reward": 0.5, "epoch": 0.2}]


def state(step: int, history=()):
    return SimpleNamespace(is_world_process_zero=True, global_step=step, log_history=list(history))


@pytest.fixture
def run(runs, monkeypatch):
    """Opens a run with a logging of its own."""
    monkeypatch.setattr(trackers, "check_tracker", lambda name: None)
    return lambda name: open_run("micro-full", "student.grpo", 0, {"logging": name})


def train(tracker: Tracker, steps, begin=0, history=()):
    tracker.on_train_begin(None, state(begin, history), None)
    for step, logs in enumerate(steps, start=begin + 1):
        tracker.on_log(None, state(step), None, logs=logs)
    tracker.on_log(None, state(len(steps)), None, logs={"train_runtime": 1.0})
    tracker.on_train_end(None, state(len(steps)), None)


def test_logging_changes_no_hash_and_is_not_in_the_record_of_runs_without():
    plain, logged = (
        resolve("micro-full", "student.grpo", 0),
        resolve("micro-full", "student.grpo", 0, {"logging": "trackio"}),
    )
    assert logged.hash == plain.hash
    assert logged.logging == "trackio"
    assert "logging" not in plain.model_dump()
    with pytest.raises(StudyError, match="logging"):
        resolve("micro-full", "student.grpo", 0, {"logging": "wandb"})


class Written:
    """A writer that keeps what it is given."""

    def __init__(self, folder, project, name):
        self.rows, self.labels, self.closed = [], (project, name), False

    def write(self, metrics, step):
        self.rows.append((step, metrics))

    def close(self):
        self.closed = True


def test_every_step_is_written_once_also_after_an_interruption(run, monkeypatch):
    monkeypatch.setattr(trackers, "TensorBoardWriter", Written)
    tracker = Tracker(run("tensorboard"))
    (tracker.folder).mkdir()
    (tracker.folder / "of the killed attempt").write_text("x")
    history = [{"step": 1, **STEPS[0]}]
    train(tracker, STEPS[1:], begin=1, history=history)
    assert tracker.writer.rows == [(1, {"loss": 2.0, "reward": 0.25}), (2, {"loss": 1.0, "reward": 0.5})]
    assert tracker.writer.labels == ("micro-full", "student.grpo@0")
    assert tracker.writer.closed
    assert list(tracker.folder.iterdir()) == []


def test_a_viewer_may_change_its_files(run):
    made = run("tensorboard")
    made.path(LOGS).mkdir()
    made.path(LOGS).joinpath("database").write_text("x")
    made.path("evaluation.csv").write_text("x")
    assert set(made.finish()["files"]) == {"evaluation.csv", "resolved.json"}
    made.path(LOGS).joinpath("database").write_text("changed")
    assert read_finished(made.final)


def test_a_missing_package_is_said_before_training(make, tiny, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: (name != "trackio" and find(name, *rest)) or None
    )
    with pytest.raises(
        StudyError, match=r"`logging: trackio`, but the package trackio is not installed: `.*pip install"
    ):
        make("student", overrides=deep_merge(tiny, {"logging": "trackio"}))


@needs("tensorboard")
def test_tensorboards_file_holds_the_steps(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(run("tensorboard"))
    train(tracker, STEPS)
    events = EventAccumulator(str(tracker.folder)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward")] == [(1, 0.25), (2, 0.5)]


@needs("trackio")
def test_trackios_database_holds_the_steps_and_no_space_is_asked(run, monkeypatch):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/somewhere")
    tracker = Tracker(run("trackio"))
    train(tracker, STEPS)
    assert tracker.writer.process.returncode == 0
    (database,) = tracker.folder.glob("*.db")
    rows = sqlite3.connect(database).execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(name, step) for name, step, _ in rows] == [("student.grpo@0", 1), ("student.grpo@0", 2)]


@pytest.mark.slow
@needs("tensorboard")
def test_a_logged_run_is_the_run(make, tiny):
    run = make("student.grpo", overrides=deep_merge(tiny, {"logging": "tensorboard"}))
    assert list(run.path(LOGS).iterdir())
    assert len(pd.read_csv(run.path("metrics.csv"))) == 4
