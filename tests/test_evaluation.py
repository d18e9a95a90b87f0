"""What an evaluation writes: every sample's grade, at every decoding."""

import pandas as pd
import pytest

from s2d_lib.notebook import per_problem
from s2d_lib.problems.base import Problem
from s2d_lib.results.bundle import collect, read_bundle, read_evaluation
from s2d_lib.sampling import Rollout
from s2d_lib.study.load import deep_merge
from tests.stages.conftest import make  # noqa: F401 (a fixture)


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
    plain, also = make("student"), {"warm": {"temperature": 1.0, "samples": 2}, "greedy": {"temperature": 0}}
    run = make("student", overrides=deep_merge(tiny, {"evaluation": {"also": also, "untrained": [0.5]}}))
    path = run.path("evaluation.csv")
    sizes = read_evaluation(path, None).groupby("decoding", sort=False).size()
    assert list(sizes.index) == ["main", "t1", "greedy", "warm", "T 0.5"]
    assert set(sizes) == {sizes["main"]}
    main, warm, greedy = (read_evaluation(path, name) for name in ("main", "warm", "greedy"))
    pd.testing.assert_frame_equal(main, read_evaluation(plain.path("evaluation.csv")), check_dtype=False)
    assert [set(part["correct"].str.len()) for part in (main, warm, greedy)] == [{4}, {2}, {1}]
    assert run.path("samples.csv").read_bytes() == plain.path("samples.csv").read_bytes()
    collect([run], path.parent / "bundle")
    bundle = read_bundle(path.parent / "bundle")
    assert bundle.at("greedy").evaluation["correct"].tolist() == greedy["correct"].tolist()
    assert bundle.constant["problems"].sum() == sizes["main"]
