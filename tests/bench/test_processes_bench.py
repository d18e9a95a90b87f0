"""The benchmark's part on several processes: FSDP2 in two takes one process's steps, and both can be seen."""

import pytest

from s2d_lib.bench.processes import LOSS, ONE, SHARED, process_steps, processes_plot

pytestmark = pytest.mark.slow


def test_opd_and_teacher_sample_sft_take_the_same_steps_under_fsdp2():
    stages = ("OPD", "teacher-sample SFT")
    points, table = process_steps(3, stages, (ONE, SHARED))
    assert table["within"].tolist() == [True, True]
    assert (table["weights_moved"] > 100 * table["weight_difference"]).all()
    assert points.groupby(["stage", "processes"]).size().tolist() == [3] * 4
    assert (points.loc[points["processes"] == ONE, "difference"] == 0).all()
    assert points["difference"].max() < LOSS * 10
    figure = processes_plot(points)
    assert tuple(axes.get_title("left") for axes in figure.axes[:2]) == stages
