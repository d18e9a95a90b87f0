"""avg@k, its standard error, pass@k: exact small cases."""

import itertools
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.evaluation import per_problem
from s2d_lib.problems.base import Problem
from s2d_lib.results.summary import pass_at_k, summarise
from s2d_lib.rollouts import Rollout


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(numbers):
    n, correct, k = numbers
    samples = [1] * correct + [0] * (n - correct)
    subsets = list(itertools.combinations(samples, k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_more_than_the_samples_is_refused():
    with pytest.raises(ValueError, match="between 1 and 4"):
        pass_at_k(4, 2, 5)


def test_summary_of_a_known_case():
    rows = [("a", "p", "1100", 3.0, 0.0), ("a", "q", "0000", 5.0, 0.5), ("b", "r", "1111", 2.0, 0.0)]
    table = pd.DataFrame(
        [(s, p, "", c, t, x) for s, p, c, t, x in rows],
        columns=["set", "problem", "level", "correct", "tokens", "cut_off"],
    )
    a, b = summarise(table).to_dict("records")
    assert (a["avg"], a["pass"], a["tokens"], a["cut_off"], a["samples"]) == (0.25, 0.5, 4.0, 0.25, 4)
    assert a["se"] == pytest.approx(math.sqrt(((0.25**2) * 2) / 1) / math.sqrt(2))
    assert b["avg"] == 1.0
    assert math.isnan(b["se"])
    assert "formed" not in a  # results from before it was measured
    assert [row["formed"] for row in summarise(table.assign(formed=[1, 0.5, 0])).to_dict("records")] == [0.75, 0]


def test_every_samples_grade_is_kept_in_order():
    problems = [Problem("p", "v1 f0 ?", "v2", "1"), Problem("q", "v1 f1 ?", "v3", "2")]
    texts = {"p": ["# v2", "# v1", "v1 f0 v2 # v2"], "q": ["# v2", "", "# v3 #"]}
    rollouts = [Rollout(p, i, (1,) * (i + 1), text, i < 2) for p, ts in texts.items() for i, text in enumerate(ts)]
    table = per_problem("set", problems, rollouts, "exact")
    assert table["correct"].tolist() == ["101", "000"]
    assert table["level"].tolist() == ["1", "2"]
    assert table["tokens"].tolist() == [2.0, 2.0]
    assert table["cut_off"].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert table["formed"].tolist() == pytest.approx([1, 1 / 3])
