"""Making runs in this process, as the notebooks do, without notebooks; killing them, and comparing them."""

import contextlib
import shutil

import pandas as pd
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
    """Make a run of the tiny micro study, ancestors first; returns the finished run. What is only an ancestor is made once in
    all tests."""
    store = tmp_path_factory.getbasetemp() / "ancestors"

    def make_run(checkpoint: str, seed: int = 0, overrides: dict = tiny, ancestor: bool = False):
        resolved = resolve("micro-full", checkpoint, seed, overrides)
        for parent in resolved.parents.values():
            if not find_run(resolve("micro-full", parent, seed, overrides)):
                make_run(parent, seed, overrides, ancestor=True)
        stored = store / resolved.hash
        if ancestor and stored.is_dir():
            shutil.copytree(stored, Run(resolved).final)
            return None
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
        if ancestor:
            shutil.copytree(run.folder, stored)
        return run.finished

    return make_run


class Killed(BaseException):
    """Stands for the process dying at some point of training."""


@pytest.fixture
def dying(monkeypatch):
    """A block in which training dies at the end of a step."""

    @contextlib.contextmanager
    def block(step: int = 3):
        def die(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(LiveCurve, "on_step_end", die, raising=False)
            with pytest.raises(Killed):
                yield

    return block


@pytest.fixture
def ends_in_the_same_bytes(make, tiny, dying):
    """Makes a run, and makes it again with a kill; the resumed one, and the trainer checkpoint that it has resumed from."""

    def check(checkpoint: str, overrides: dict = tiny, step: int = 3):
        whole = make(checkpoint, overrides=overrides)
        expected = {name: h for name, h in whole.record["files"].items() if name != "metrics.csv"}
        shutil.rmtree(whole.folder)
        with dying(step):
            make(checkpoint, overrides=overrides)
        saved = open_run("micro-full", checkpoint, 0, overrides).folder / "trainer" / f"checkpoint-{step - 1}"
        assert saved.is_dir()
        kept = {path.name: load_file(path) for path in saved.glob("*.safetensors")}
        resumed = make(checkpoint, overrides=overrides)
        assert {name: resumed.record["files"][name] for name in expected} == expected
        assert resumed.record["optimizer_steps"] == whole.record["optimizer_steps"]
        return resumed, kept

    return check


LOGGED = {"loss", "grad_norm", "reward", "completions/mean_length", "routed/sdpo", "self_teacher/tokens"}


def same_steps(one, two) -> None:
    """What two runs logged of every step, within 1e-5 (or 1e-4 of it), and the weights that they came to, within 1e-4.

    Sums are the same in another order; AdamW makes more of the difference where a gradient is next to nothing.
    """
    first, second = (pd.read_csv(run.path("metrics.csv")) for run in (one, two))
    for name in LOGGED & set(first):
        assert second[name].tolist() == pytest.approx(first[name].tolist(), rel=1e-4, abs=1e-5), name
    weights = [load_file(run.path("model") / "model.safetensors") for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-4
