"""What graded training takes: counted compute, and a self-teacher's part of it."""

import dataclasses

from s2d_lib.report.graded_cost import graded_cost
from tests.claims.test_moments import made_up


def test_a_self_teachers_tokens_are_counted_and_other_stages_left_out():
    bundle = made_up(
        {"student.grpo": [0, 0, 0], "student.srpo": [0, 0, 0], "student.bridge.rl_teacher": [0, 0, 0]},
        tokens=1e6,
        self_teacher__tokens={"student.srpo": 6e5},
        self_teacher__prompt_tokens={"student.srpo": 4e5},
    )
    stages = {"student.grpo": "sparse_rl", "student.srpo": "self_distillation", "student.bridge.rl_teacher": "opd"}
    records = {
        key: {"resolved": {**record["resolved"], "stage": stages[key[0]]}} for key, record in bundle.records.items()
    }
    table = graded_cost(dataclasses.replace(bundle, records=records), list(stages))
    assert table["route"].tolist() == ["direct GRPO", "SRPO"]
    assert table["compute, M"].tolist() == [40.0, 50.0]
    assert table["of a self-teacher, %"].tolist() == [0.0, 20.0]
    assert table["steps"].tolist() == [10, 10]
