"""A step is the same however it is cut, and the benchmark sees the mistake that makes it another one."""

import pytest

from s2d_lib.bench.accumulation import OF_ITS_OWN, ONE_DENOMINATOR, accumulation_errors, accumulation_plot

pytestmark = pytest.mark.slow


def test_the_mistake_shows_in_gradients(tiny):
    table = accumulation_errors((1, 4), tiny).set_index(["divided by", "method", "micro_batches"])
    ours, mistaken = (table.loc[way] for way in (ONE_DENOMINATOR, OF_ITS_OWN))
    assert (ours["gradient_error"] < 1e-5).all()
    assert (mistaken.xs(1, level="micro_batches")["gradient_error"] < 1e-5).all()  # its own tokens are the step's
    assert (mistaken.xs(4, level="micro_batches")["gradient_error"] > 1e-2).any()
    assert len(accumulation_plot(table.reset_index()).axes[0].lines) == 8
