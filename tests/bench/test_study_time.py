"""Where a study's time goes: means by stage and role of what the records say."""

import pandas as pd
import pytest

from s2d_lib.bench.study_time import study_time, study_time_plot
from s2d_lib.results.bundle import Bundle


def test_phases_are_means_by_stage_and_role_and_the_rest_is_other():
    phases = {"papermill": 1.0, "imports": 2.0, "sampling": 3.0, "updates": 4.0, "validation": 1.0}
    record = lambda seconds, role: {"seconds": seconds, "phases": phases, "resolved": {"stage": "opd", "role": role}}  # noqa: E731
    records = {("a", 0): record(10.0, "student"), ("a", 1): record(12.0, "student"), ("b", 0): record(8.0, "teacher")}
    table = study_time(Bundle(pd.DataFrame(), pd.DataFrame(), records))
    assert table.index.tolist() == ["opd, student", "opd, teacher", "all"]
    assert table["runs"].tolist() == [2, 1, 3]
    assert table.loc["opd, student", "other"] == pytest.approx(3.0)  # 11 less sampling, updates and validation
    assert table.loc["all", "sampling"] == 3.0
    assert study_time_plot(table).axes[0].get_xlabel() == "seconds of one run, mean"
