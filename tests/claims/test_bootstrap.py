"""Intervals: exact small cases, coverage on synthetic data with known truth."""

import numpy as np
import pytest

from s2d_lib.claims import bootstrap
from s2d_lib.claims.bootstrap import spread
from s2d_lib.errors import StudyError


def test_no_spread_gives_no_width():
    estimate = bootstrap(np.full((3, 10), 0.25))
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_pairwise_constant_difference_has_no_width_however_noisy_the_sides():
    base = np.random.default_rng(0).random((3, 50))
    estimate = bootstrap(base + 0.1, base)
    assert (estimate.low, estimate.high) == pytest.approx((0.1, 0.1), abs=1e-4)


def test_the_same_numbers_give_the_same_interval():
    values = np.random.default_rng(0).random((3, 50))
    assert bootstrap(values) == bootstrap(values)


def test_unequal_sides_are_refused():
    with pytest.raises(StudyError, match="same seeds and problems"):
        bootstrap(np.zeros((3, 5)), np.zeros((2, 5)))


def test_one_problem_and_one_seed_are_refused():
    with pytest.raises(StudyError, match="at least two problems"):
        bootstrap(np.zeros((1, 1)))


def test_an_accuracy_stays_a_share_and_a_difference_may_be_negative():
    wild = np.repeat([[0.0], [0.02], [0.5]], 20, axis=1)
    assert bootstrap(wild).low == 0
    assert bootstrap(wild, np.zeros_like(wild)).low < -0.4


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.706), (3, 4.3027), (5, 2.7764), (8, 2.3646)])
def test_where_only_seeds_differ_the_interval_is_students(seeds, quantile):
    of_seed = np.random.default_rng(1).normal(0.0, 0.01, (seeds, 1))
    estimate = bootstrap(np.repeat(of_seed, 50, axis=1), np.zeros((seeds, 50)))
    half = quantile * of_seed.std(ddof=1) / np.sqrt(seeds)
    assert (estimate.low, estimate.high) == pytest.approx((of_seed.mean() - half, of_seed.mean() + half), abs=1e-4)


@pytest.mark.parametrize("seeds", [1, 3])
def test_where_only_problems_differ_the_interval_is_that_of_their_mean(seeds):
    of_problem = np.random.default_rng(1).normal(0.5, 0.1, 200)
    estimate = bootstrap(np.repeat(of_problem[None], seeds, axis=0))
    half = 1.96 * of_problem.std(ddof=1) / np.sqrt(200)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.05)


def test_a_higher_level_is_wider():
    distribution = spread(np.random.default_rng(0).random((3, 50)))
    widths = [distribution.interval(level).high - distribution.interval(level).low for level in (0.6, 0.95, 0.99)]
    assert widths == sorted(widths)


@pytest.mark.parametrize(
    ("seeds", "problems", "of_seed", "of_problem"),
    [(3, 100, 0.02, 0.15), (3, 100, 0.1, 0.1), (3, 60, 0.0, 0.15), (5, 100, 0.06, 0.03), (8, 60, 0.02, 0.15)],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds, problems, of_seed, of_problem):
    rng = np.random.default_rng(2)
    trials, hits = 1000, 0
    for _ in range(trials):
        values = rng.normal(0.1, of_problem, problems) + rng.normal(0, of_seed, (seeds, 1))
        estimate = bootstrap(values + rng.normal(0, 0.18, (seeds, problems)), np.zeros((seeds, problems)))
        hits += estimate.low <= 0.1 <= estimate.high
    assert 0.93 <= hits / trials <= 0.98


def test_one_unit_leaves_students_t_over_the_seeds():
    found = bootstrap(np.array([[1.0], [2.0], [3.0]]), bounds=None)
    assert found.mean == 2.0
    half_width = 4.302652729911275 / np.sqrt(3)  # t of two degrees of freedom, standard deviation 1
    assert (found.low, found.high) == pytest.approx((2 - half_width, 2 + half_width))


@pytest.mark.parametrize("seeds", [1, 3])
def test_samples_that_are_all_wrong_or_all_right_leave_clopper_and_pearsons_bound(seeds):
    wrong, bound = np.zeros((seeds, 100)), 1 - 0.025 ** (1 / 100)
    assert (bootstrap(wrong).low, bootstrap(wrong).high) == pytest.approx((0, bound))
    assert (bootstrap(1 - wrong).low, bootstrap(1 - wrong).high) == pytest.approx((1 - bound, 1))
    estimate = bootstrap(wrong, wrong)
    assert (estimate.low, estimate.high) == pytest.approx((-bound, bound))
    assert bootstrap(1 - wrong, wrong).low == pytest.approx(1 - np.hypot(bound, bound), abs=1e-3)
    assert spread(wrong, wrong).detectable(0.05, 0.8) > bound


def test_one_right_answer_is_no_surer_than_none():
    one = np.zeros((3, 100))
    one[0, 0] = 1 / 16
    assert bootstrap(one).high > bootstrap(np.zeros((3, 100))).high
    assert bootstrap(one).low >= 0


@pytest.mark.parametrize(("seeds", "problems"), [(1, 60), (3, 200)])
@pytest.mark.parametrize("rate", [0.002, 0.01, 0.05, 0.99])
@pytest.mark.parametrize("alike", [0.05, 0.6])
def test_rare_answers_are_covered_as_often_as_it_says(seeds, problems, rate, alike):
    """`alike`: the share of an answer's variance that lies between problems. Resampling covers in 25 to 95%."""
    rng = np.random.default_rng(3)
    chance = rng.beta(rate * (1 - alike) / alike, (1 - rate) * (1 - alike) / alike, (200, 1, problems))
    drawn = rng.binomial(16, np.broadcast_to(chance, (200, seeds, problems))) / 16
    found = [bootstrap(values) for values in drawn]
    assert np.mean([estimate.low <= rate <= estimate.high for estimate in found]) >= 0.92
    differences = [bootstrap(a, b) for a, b in zip(drawn, np.roll(drawn, 1, axis=0), strict=True)]
    assert np.mean([estimate.low <= 0 <= estimate.high for estimate in differences]) >= 0.9


def test_power_inverts_the_detectable_difference():
    for values in (np.random.default_rng(0).normal(0.1, 0.2, (3, 80)), np.zeros((3, 80))):
        distribution = spread(values, np.zeros_like(values))
        assert distribution.power(distribution.detectable(0.05, 0.8), 0.05) == pytest.approx(0.8, abs=1e-3)
        assert distribution.power(0.0, 0.05) == pytest.approx(0.025, abs=0.01)
