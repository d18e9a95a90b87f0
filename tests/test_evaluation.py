"""avg@k, its standard error, pass@k: exact small cases."""

import itertools
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.evaluation import per_problem
from s2d_lib.plan.cost import counts
from s2d_lib.problems.base import Problem
from s2d_lib.results.bundle import collect, read_bundle, read_evaluation
from s2d_lib.results.summary import pass_at_k, summarise
from s2d_lib.sampling import Rollout
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge
from tests.stages.conftest import make  # noqa: F401 (a fixture)


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


@pytest.mark.slow
def test_further_decodings_stand_below_the_main_one_which_stays_as_it_was(make, tiny):  # noqa: F811
    plain = make("student")
    alone = plain.path("evaluation.csv").read_text()
    assert "decoding" not in alone
    also = {"warm": {"temperature": 1.0, "samples": 2}, "greedy": {"temperature": 0}}
    run = make("student", overrides=deep_merge(tiny, {"evaluation": {"also": also, "untrained": [0.5]}}))
    path = run.path("evaluation.csv")
    table = read_evaluation(path, None)
    assert table.groupby("decoding", sort=False).size().to_dict() == {"main": 10, "warm": 10, "greedy": 10, "T 0.5": 10}
    main, warm, greedy = (read_evaluation(path, name) for name in ("main", "warm", "greedy"))
    pd.testing.assert_frame_equal(main, read_evaluation(plain.path("evaluation.csv")))
    assert [set(part["correct"].str.len()) for part in (main, warm, greedy)] == [{4}, {2}, {1}]
    assert run.path("samples.csv").read_bytes() == plain.path("samples.csv").read_bytes()
    assert counts(resolve("micro-full", "student", 0, {"evaluation": {"also": also}})).tested == (16 + 2 + 1) * 300
    collect([run], path.parent / "bundle")
    bundle = read_bundle(path.parent / "bundle", "greedy")
    assert bundle.evaluation["correct"].tolist() == greedy["correct"].tolist()
    assert bundle.constant["problems"].sum() == 10
    with pytest.raises(StudyError, match=r"no results of decoding 'cold'; it has main, warm, greedy, T 0\.5"):
        read_evaluation(path, "cold")
