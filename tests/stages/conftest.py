"""Making runs in this process, as the notebooks do, without notebooks; killing them, and comparing them."""

import shutil

import pytest
from safetensors.torch import load_file

from s2d_lib.notebook import evaluate, finish
from s2d_lib.runs import Run, find_run, open_run
from s2d_lib.stages.common import LiveCurve
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.stored_teacher import teacher_rollouts
from s2d_lib.stages.training import train
from s2d_lib.study import resolve


@pytest.fixture
def make(runs, tiny, tmp_path_factory):
    """Make a run of the tiny micro study, ancestors first; returns the finished run. Ancestors, and what is asked for `once`, are
    made once in all tests."""
    store = tmp_path_factory.getbasetemp() / "made"

    def make_run(checkpoint: str, seed: int = 0, overrides: dict = tiny, once: bool = False):
        resolved = resolve("micro-full", checkpoint, seed, overrides)
        for parent in resolved.parents.values():
            if not find_run(resolve("micro-full", parent, seed, overrides)):
                make_run(parent, seed, overrides, once=True)
        stored = store / resolved.hash
        if once and stored.is_dir():
            shutil.copytree(stored, Run(resolved).final)
            return find_run(resolved)
        run = open_run("micro-full", checkpoint, seed, overrides)
        inputs = prepare(run)
        if resolved.stage == "teacher_rollouts":
            teacher_rollouts(run, inputs)
            finish(run)
        else:
            if resolved.stage != "base":
                train(run, inputs)
            evaluate(run, inputs)
            finish(run, inputs)
        if once:
            shutil.copytree(run.folder, stored)
        return run.finished

    return make_run


class Killed(BaseException):
    """Stands for the process dying at some point of training."""


@pytest.fixture
def ends_in_the_same_bytes(make, tiny, monkeypatch):
    """Makes a run, and makes it again with a kill at the end of a step; the resumed one, and the weights in the trainer
    checkpoint that it has resumed from."""

    def check(checkpoint: str, overrides: dict = tiny, step: int = 3):
        def die(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Killed

        whole = make(checkpoint, overrides=overrides)
        expected = {name: h for name, h in whole.record["files"].items() if name != "metrics.csv"}
        shutil.rmtree(whole.folder)
        with monkeypatch.context() as patch:
            patch.setattr(LiveCurve, "on_step_end", die, raising=False)
            with pytest.raises(Killed):
                make(checkpoint, overrides=overrides)
        saved = open_run("micro-full", checkpoint, 0, overrides).folder / "trainer" / f"checkpoint-{step - 1}"
        assert saved.is_dir()
        kept = {path.name: load_file(path) for path in saved.glob("*.safetensors")}
        resumed = make(checkpoint, overrides=overrides)
        assert {name: resumed.record["files"][name] for name in expected} == expected
        assert resumed.record["optimizer_steps"] == whole.record["optimizer_steps"]
        return resumed, kept

    return check
