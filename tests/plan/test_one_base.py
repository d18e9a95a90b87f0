"""Which teacher a dense stage holds beside its own model."""

import pytest

from s2d_lib.plan.one_base import taught_by, teacher_of
from s2d_lib.study import lineage


@pytest.mark.parametrize(
    ("checkpoint", "model"),
    [
        ("student.warm.rl_same_size", "Qwen/Qwen3-1.7B"),
        ("student.bridge.rl_teacher", "Qwen/Qwen3-8B"),
        ("student.teacher_sample_sft.rl_same_size", None),  # matches no distributions
        ("student.grpo", None),
    ],
)
def test_dense_stages_hold_their_teachers(checkpoint, model):
    of = lineage("qwen3-single-gpu", checkpoint, 0, {})
    assert teacher_of(of[checkpoint], of) == taught_by(of[checkpoint], of) == model
