"""What training held is gone before an evaluation starts, whose engine may want the memory."""

import gc
import weakref

import torch

from s2d_lib.models.policy import load_policy
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.rl import sparse_rl
from s2d_lib.study.load import deep_merge


def optimisers() -> set[int]:
    return {id(one) for one in gc.get_objects() if issubclass(type(one), torch.optim.Optimizer)}


def test_no_optimiser_gradient_or_teacher_outlives_training(runs, tiny):
    overrides = deep_merge(tiny, {"stages": {"sparse_rl": {"steps": 1, "warmup_steps": 0}}})
    open_run("micro-full", "student", 0, overrides).finish()
    run = open_run("micro-full", "student.grpo", 0, overrides)
    inputs = prepare(run)
    inputs.teacher = load_policy(run.resolved.model, run.resolved.hardware)
    teacher = weakref.ref(inputs.teacher.model)
    gc.collect()
    before = optimisers()
    sparse_rl(run, inputs)
    inputs.drop_training()
    assert not optimisers() - before
    assert teacher() is None
    assert all(weight.grad is None for weight in inputs.policy.model.parameters())
