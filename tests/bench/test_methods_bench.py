"""Paper B's part of the benchmark: every contender trains on the same first rollouts and is timed."""

import pytest

from s2d_lib.bench.self_distillation import CONTENDERS, methods_cost
from s2d_lib.study.load import deep_merge

pytestmark = pytest.mark.slow


def test_every_contender_is_timed_on_the_same_first_batch(tiny):
    whole = deep_merge(tiny, {"stages": {"self_distillation": {"micro_batch": 16}}})
    table = methods_cost(rounds=1, steps=1, overrides=whole)  # refuses contenders whose first batches differ
    assert list(table["contender"]) == list(CONTENDERS)
    assert (table["seconds_step"] > table["seconds_sampling"]).all()
    assert table.set_index("contender").loc["GRPO, TRL", "over_trl"] == 1
