"""C1 and C2 as measured: known values before and after the warmup come out, and what was not measured says so."""

import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims import Results, load_claims
from s2d_lib.report.premises import QUANTITIES, premises_table, readable_premises, write_premises
from s2d_lib.results.bundle import Bundle
from s2d_lib.study import load_profile, load_study
from tests.claims.synthetic import bundle_of

WARMUP, TEACHER = "student.warm.rl_teacher", "teacher.rl"
FORWARD, OVERLAP = "forward_kl/student_states", "top16_overlap/student_states"


@pytest.fixture
def results():
    runs = {TEACHER: {}, WARMUP: {"stage": "forward_kl"}}
    sets = {"micro-math": 40, "micro-aime": 20}
    made = bundle_of({TEACHER: {"micro-math": 0.9, "micro-aime": 0.6}}, runs, 3, sets, np.random.default_rng(0))
    rows = [
        {"seed": seed, "checkpoint": WARMUP, "step": step, FORWARD: value + seed / 100, OVERLAP: np.nan}
        for seed in range(3)
        for step, value in ((50, 0.1), (0, 0.5), (25, 9.0))
    ]
    return {
        "Qwen3": Results(
            "micro", load_profile("micro"), Bundle(made.evaluation, made.curves, made.records, pd.DataFrame(rows))
        )
    }


def test_before_and_after_are_the_first_and_last_measurement(results, tmp_path):
    numbers = premises_table(results, load_claims(), load_study())
    assert numbers["quantity"].tolist() == list(QUANTITIES)
    assert set(numbers["teacher"]) == {TEACHER}
    first = numbers.iloc[0]
    assert (first["before"], first["after"]) == (pytest.approx(0.51), pytest.approx(0.11))
    assert first["before high"] - first["before"] == pytest.approx(4.302653 * 0.01 / np.sqrt(3))
    assert first["accuracy, MATH low"] < first["accuracy, MATH"] < first["accuracy, MATH high"]
    shown = readable_premises(numbers)
    assert shown["before"].tolist() == ["0.510 [0.485, 0.535]", *["not measured"] * 4]  # no column, or nothing in it
    assert (shown["accuracy, set for MATH, %"] != "").tolist() == [True, *[False] * 4]
    write_premises(numbers, tmp_path)
    assert (tmp_path / "premises.md").read_text().count("not measured") == 8
