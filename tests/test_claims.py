"""Intervals: exact small cases, coverage on synthetic data with known truth."""

import numpy as np
import pytest

from s2d_lib.claims import bootstrap
from s2d_lib.errors import StudyError


def test_no_spread_gives_no_width():
    estimate = bootstrap(np.full((3, 10), 0.25))
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_pairwise_constant_difference_has_no_width_however_noisy_the_sides():
    base = np.random.default_rng(0).random((3, 50))
    estimate = bootstrap(base + 0.1, base)
    assert (estimate.low, estimate.high) == pytest.approx((0.1, 0.1))


def test_the_same_numbers_give_the_same_interval():
    values = np.random.default_rng(0).random((3, 50))
    assert bootstrap(values) == bootstrap(values)


def test_unequal_sides_are_refused():
    with pytest.raises(StudyError, match="same seeds and problems"):
        bootstrap(np.zeros((3, 5)), np.zeros((2, 5)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        problems = rng.normal(0.1, 0.2, size=60)
        seeds = rng.normal(0.0, 0.03, size=8)
        estimate = bootstrap(problems + seeds[:, None] + rng.normal(0, 0.05, size=(8, 60)), draws=400, seed=trial)
        hits += estimate.low <= 0.1 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.99
