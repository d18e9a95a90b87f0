"""The equality part of the benchmark: TRL's steps and two processes' are this trainer's."""

import pytest

from s2d_lib.bench.equality import equality_errors

pytestmark = pytest.mark.slow


def test_a_step_is_trls_and_that_of_two_processes():
    tiny = {"stages": {"self_distillation": {"batch": 16, "micro_batch": 16, "group_size": 4}}}
    table = equality_errors(tiny, ["srpo"]).set_index("compared")
    assert table["method"].tolist() == ["grpo", "sdpo", "sdpo", "srpo"]
    diluted = table.loc["TRL's SDPOTrainer, as it is"]
    same = table.drop("TRL's SDPOTrainer, as it is")
    assert (same[["loss_error", "gradient_error"]] < 1e-5).all(axis=None)
    assert diluted["loss_error"] > 1e-3
