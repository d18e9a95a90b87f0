"""Verdicts on graded samples with known truth: wrong ones are rare, power grows with the difference."""

import numpy as np
import pytest

from s2d_lib.claims.bootstrap import Spread
from s2d_lib.claims.verdict import Compared, _verdict, claim_verdict, compare
from tests.claims.synthetic import SAMPLES, graded


def pairs(count: int, seeds: int = 3, problems: int = 100, accuracy: float = 0.4, seed_sd: float = 0.3):
    """Pairs of routes that are equally good, correctness of shape (seeds, problems)."""
    rng = np.random.default_rng(2)
    for _ in range(count):
        difficulty = rng.normal(0, 1.2, problems)
        yield [graded(rng, accuracy, seeds, difficulty, seed_sd) / SAMPLES for _ in range(2)]


EQUAL = list(pairs(250))


def test_without_a_difference_few_verdicts_are_wrong():
    results = [compare(*pair) for pair in EQUAL]
    assert sum(result.verdict != "undecided" for result in results) / len(results) <= 0.08
    claims = [claim_verdict(results[start : start + 5]) for start in range(0, len(results), 5)]
    assert claims.count("contradicted") <= 4
    assert claims.count("holds") == 0


def test_power_grows_with_the_difference_and_is_as_promised():
    detectable = np.median([compare(*pair).detectable for pair in EQUAL[:120]])
    found = lambda part: np.mean([compare(a + part * detectable, b).verdict == "holds" for a, b in EQUAL[:120]])  # noqa: E731
    quarter, half, whole, double = (found(part) for part in (0.25, 0.5, 1, 2))
    assert quarter < half < whole < double
    assert 0.68 <= whole <= 0.9
    assert double > 0.95


def test_swapped_sides_swap_the_verdict():
    a, b = EQUAL[0]
    assert compare(a + 0.6, b).verdict == compare(b, a - 0.6).verdict == "holds"
    assert compare(b, a + 0.6).verdict == "contradicted"


def test_more_seeds_detect_less():
    assert compare(*next(pairs(1, seeds=8))).detectable < compare(*next(pairs(1, seeds=3))).detectable


@pytest.mark.parametrize(
    ("difference", "margin", "verdict"),
    [(0.001, 0.015, "holds"), (-0.01, 0.015, "holds"), (-0.02, 0.015, "contradicted"), (-0.01, 0.0, "contradicted")],
)
def test_a_margin_moves_what_is_asked_for(difference, margin, verdict):
    base = np.random.default_rng(0).random((3, 50))
    assert compare(base + difference, base, margin).verdict == verdict


def test_one_seed_decides_nothing():
    base = np.random.default_rng(0).random((1, 50))
    result = compare(base + 0.5, base)
    assert result.difference.low > 0
    assert result.verdict == "undecided"
    assert not compare(base - 0.5, base).refuted(1)


def test_the_error_over_problems_is_that_of_their_mean_difference():
    a, b = EQUAL[1]
    expected = (a - b).mean(axis=0).std(ddof=1) / np.sqrt(100)
    assert compare(a, b).problem_error == pytest.approx(expected)


def test_two_models_that_are_always_wrong_decide_nothing():
    wrong = np.zeros((3, 100))
    found = compare(wrong, wrong, margin=0.015)
    assert (found.verdict, found.refuted(1)) == ("undecided", False)
    assert found.detectable > 0.03


def test_the_chance_to_hold_is_that_of_repeated_studies():
    found = [compare(*pair) for pair in EQUAL[:120]]
    for points in (0.05, 0.15):
        held = np.mean([compare(a + points, b).verdict == "holds" for a, b in EQUAL])
        assert np.mean([result.chance(points) for result in found]) == pytest.approx(held, abs=0.12)
    assert compare(EQUAL[0][0][:1], EQUAL[0][1][:1]).chance(0.5) == 0  # one seed decides nothing


def result(mean: float) -> Compared:
    """A difference of three seeds, known to 0.043 at 95%, and at 97.5%, as one of two, to 0.062."""
    spread = Spread(mean, np.zeros(10), 0.01, 2, None)
    return Compared(spread.interval(), 0, 0, _verdict(spread.interval(), 0.0), 3, 10, spread, 0.0)


HOLDS, UNDECIDED, NARROWLY, CLEARLY = (result(mean) for mean in (0.1, 0.0, -0.05, -0.1))


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([HOLDS, HOLDS], "holds"),
        ([HOLDS, UNDECIDED], "undecided"),
        ([NARROWLY], "contradicted"),
        ([HOLDS, NARROWLY], "undecided"),
        ([HOLDS, CLEARLY], "contradicted"),
        ([HOLDS, None], "not run"),
        ([None, None], "not run"),
        ([], "no set"),
        ([None, CLEARLY], "contradicted"),
    ],
)
def test_a_claim_from_its_comparisons(results, verdict):
    assert claim_verdict(results) == verdict


@pytest.mark.parametrize("here", [HOLDS, UNDECIDED, CLEARLY])
def test_nothing_is_tested_where_a_premise_is_absent(here):
    assert claim_verdict([here], [True]) == "premise absent"
    assert claim_verdict([here, HOLDS], [True, False]) == "premise absent"
    assert claim_verdict([here, CLEARLY], [True, False]) == "contradicted"  # by one that has its premises
    assert claim_verdict([here, None], [True, False]) == "not run"
