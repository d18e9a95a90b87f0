"""The cost of a study is the sum of its records, each run once."""

import pandas as pd

from s2d_lib.report.study_cost import readable_cost, study_cost, write_cost
from s2d_lib.results.bundle import Bundle


def record(stage, seconds, steps=0, sampled=0, trained=0):
    own = {"seconds": seconds, "resolved": {"stage": stage}}
    return own | (
        {"optimizer_steps": steps, "sampled": {"tokens": sampled}, "trained_tokens": trained} if steps else {}
    )


def test_stages_and_the_sum(tmp_path):
    records = {
        ("student", 0): record("base", 36),
        ("teacher.rl", 0): record("sparse_rl", 360, 22, 1000, 900),
        ("student.grpo", 0): record("sparse_rl", 1800, 700, 4000, 4000),
        ("student.grpo", 1): record("sparse_rl", 1800, 700, 5000, 5000),
    }
    table = study_cost(Bundle(pd.DataFrame(), pd.DataFrame(), records))
    assert table["stage"].tolist() == ["base", "sparse_rl", "all"]
    assert table["runs"].tolist() == [1, 3, 4]
    assert table["process hours"].round(6).tolist() == [0.01, 1.1, 1.11]
    assert table["tokens trained on"].tolist() == [0, 9900, 9900]
    assert readable_cost(table).iloc[1].tolist() == ["sparse_rl", "3", "1.10", "1,422", "10,000", "9,900"]
    write_cost(table, tmp_path, "micro")
    assert pd.read_csv(tmp_path / "cost.csv")["optimiser steps"].tolist() == [0, 1422, 1422]
