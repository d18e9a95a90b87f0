"""Making runs in this process, as the notebooks do, without notebooks."""

import pytest

from s2d_lib.evaluation import evaluate
from s2d_lib.notebook import finish
from s2d_lib.runs import find_run, open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.stored_teacher import teacher_rollouts
from s2d_lib.study import resolve
from s2d_lib.worker import TRAINING

STAGES = {"base": lambda run, inputs: None, "teacher_rollouts": teacher_rollouts, **TRAINING}


@pytest.fixture
def make(runs, tiny):
    """Make a run of the tiny micro study, ancestors first; returns the finished run."""

    def make_run(checkpoint: str, seed: int = 0, overrides: dict = tiny):
        resolved = resolve("micro-full", checkpoint, seed, overrides)
        for parent in resolved.parents.values():
            if not find_run(resolve("micro-full", parent, seed, overrides)):
                make_run(parent, seed, overrides)
        run = open_run("micro-full", checkpoint, seed, overrides)
        inputs = prepare(run)
        STAGES[resolved.stage](run, inputs)
        if resolved.stage == "teacher_rollouts":
            finish(run)
        else:
            evaluate(run, inputs)
            finish(run, inputs)
        return run.finished

    return make_run
