"""The label frontier: exact crossings and matches, censoring, and intervals that cover known truths."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.claims import bootstrap
from s2d_lib.claims.frontier import Crossings, crossings, curves_of, isotonic, labels_to_match
from s2d_lib.errors import StudyError

LABELS = np.array([8, 16, 32, 64, 128, 256, 512])
RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def table(means, seeds: int = 3, problems: int = 20) -> np.ndarray:
    """Results without any spread, shape (points, seeds, problems)."""
    return np.broadcast_to(np.array(means, dtype=float)[:, None, None], (len(means), seeds, problems))


def noisy(rng, means, seeds: int = 3, problems: int = 100, seed_sd=0.03, problem_sd=0.1, rest_sd=0.15) -> np.ndarray:
    """Results of one route around its true means; problems keep half of their effect over the budgets."""
    points = len(means)
    shared = rng.normal(0, problem_sd / math.sqrt(2), problems)
    own = rng.normal(0, problem_sd / math.sqrt(2), (points, 1, problems))
    of_seed = rng.normal(0, seed_sd, (points, seeds, 1))
    return table(means, seeds, problems) + shared + own + of_seed + rng.normal(0, rest_sd, (points, seeds, problems))


def two(direct, bridge, labels=LABELS[:3]):
    return curves_of(labels, {"direct": table(direct), "bridge": table(bridge)})


def test_a_crossing_is_interpolated_in_log2_labels():
    (found,) = crossings(two([0.1, 0.2, 0.5], [0.2, 0.3, 0.3]), "direct", "bridge").found
    assert found.labels == pytest.approx(16 * 2 ** (1 / 3))
    assert (found.low, found.high) == pytest.approx((found.labels, found.labels))  # no spread, no width
    assert found.leads == "direct"


def test_no_crossing_tells_who_is_ahead_and_how_often_clearly():
    curves = two([0.1, 0.2, 0.3], [0.3, 0.4, 0.5])
    assert crossings(curves, "direct", "bridge") == Crossings((), "bridge", 3)
    assert crossings(curves, "bridge", "direct").leads == "bridge"


def test_all_crossings_are_found_also_at_a_budget_itself():
    result = crossings(two([0.1, 0.3, 0.2], [0.2, 0.2, 0.4]), "direct", "bridge")
    assert [c.labels for c in result.found] == pytest.approx([2**3.5, 16 * 2 ** (1 / 3)])
    assert [c.leads for c in result.found] == ["direct", "bridge"]
    (at,) = crossings(two([0.1, 0.3, 0.5], [0.2, 0.3, 0.4]), "direct", "bridge").found
    assert at.labels == pytest.approx(16)


def test_the_interval_of_a_crossing_ends_before_the_next_one():
    rng = np.random.default_rng(0)
    direct, bridge = ([0.3, 0.5, 0.3, 0.1, 0.3, 0.5, 0.3], [0.4, 0.3, 0.4, 0.3, 0.2, 0.3, 0.4])
    spread = {"seed_sd": 0.002, "problem_sd": 0.02, "rest_sd": 0.02}
    curves = curves_of(LABELS, {"direct": noisy(rng, direct, **spread), "bridge": noisy(rng, bridge, **spread)})
    found = crossings(curves, "direct", "bridge").found
    assert [c.leads for c in found] == ["direct", "bridge", "direct", "bridge"]
    assert all(c.low < c.labels < c.high for c in found)
    assert all(before.high < after.low for before, after in pairwise(found))


def test_touching_is_no_crossing_and_the_same_curve_has_nobody_ahead():
    assert not crossings(two([0.1, 0.3, 0.3], [0.2, 0.3, 0.4]), "direct", "bridge").found
    assert crossings(two([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]), "direct", "bridge") == Crossings((), None, 0)


def test_where_curves_coincide_between_two_sides_the_middle_counts():
    curves = two([0.1, 0.3, 0.4, 0.6], [0.2, 0.3, 0.4, 0.5], LABELS[:4])
    (found,) = crossings(curves, "direct", "bridge").found
    assert found.labels == pytest.approx(2**4.5)


def test_labels_to_match_between_budgets_and_beyond_them():
    more, between, fewer = labels_to_match(two([0.2, 0.3, 0.4], [0.5, 0.35, 0.1]), "direct", "bridge")
    assert between.needed == pytest.approx(2**4.5)
    assert (between.low, between.high) == pytest.approx((between.needed, between.needed))
    assert (more.needed, more.low, more.high) == (math.inf, math.inf, math.inf)
    assert (fewer.needed, fewer.low, fewer.high) == (0, 0, 0)


def test_an_interval_may_be_half_censored():
    rng = np.random.default_rng(0)
    curves = curves_of(LABELS, {"direct": noisy(rng, RISING), "bridge": noisy(rng, [0.67] * 7)})
    assert any(0 < match.low < 512 and match.high == math.inf for match in labels_to_match(curves, "direct", "bridge"))


def test_what_falls_is_pooled_before_it_is_inverted():
    assert isotonic(np.array([[0.1, 0.5, 0.3, 0.6], [0.4, 0.3, 0.2, 0.1]])) == pytest.approx(
        np.array([[0.1, 0.4, 0.4, 0.6], [0.25, 0.25, 0.25, 0.25]])
    )
    level = two([0.1, 0.5, 0.3], [0.4, 0.4, 0.4])
    assert [m.needed for m in labels_to_match(level, "direct", "bridge")] == pytest.approx([16, 16, 16])


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_points_have_the_tables_intervals_and_the_joint_draws_nearly_so(seeds):
    rng = np.random.default_rng(1)
    curves = curves_of(LABELS, {"direct": noisy(rng, RISING, seeds), "bridge": noisy(rng, RISING, seeds)})
    for point in range(len(LABELS)):
        own, other = (curves.values[name][point] for name in ("direct", "bridge"))
        assert curves.estimates("direct")[point] == bootstrap(own)
        difference = curves.estimates("direct", "bridge")[point]
        assert difference == bootstrap(own, other)
        drawn = curves.draws["direct"][:, point] - curves.draws["bridge"][:, point]
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert 0.93 <= (high - low) / (difference.high - difference.low) <= 1.2
        assert drawn.mean() == pytest.approx(difference.mean, abs=0.01)


def test_routes_on_unequal_results_and_falling_budgets_are_refused():
    with pytest.raises(StudyError, match=r"same 3 budgets, seeds and problems.*make the missing runs"):
        curves_of(LABELS[:3], {"direct": table([0.1] * 3), "bridge": table([0.1] * 3, seeds=2)})
    with pytest.raises(StudyError, match=r"increasing label budgets, given \[16.0, 8.0\]"):
        curves_of([16, 8], {"direct": table([0.1] * 2)})
    with pytest.raises(StudyError, match="at least two problems"):
        curves_of(LABELS[:2], {"direct": table([0.1] * 2, problems=1)})


@pytest.mark.parametrize(("seed_sd", "rest_sd", "seeds"), [(0.0, 0.15, 3), (0.08, 0.1, 3), (0.03, 0.15, 5)])
def test_intervals_cover_the_truth(seed_sd, rest_sd, seeds):
    """True curves are linear in log2 labels: direct crosses the bridge at 2^7.4 and matches its 32-label point at 2^6.8."""
    rng = np.random.default_rng(2)
    direct = np.linspace(0.2, 0.8, 7)
    bridge = np.linspace(0.5, 0.68, 7)
    matching = [2 ** (3 + (level - 0.2) / 0.1) for level in bridge]
    crossing = 2 ** (3 + 0.3 / 0.07)
    trials, matched, crossed = 120, 0, 0
    for _ in range(trials):
        values = [noisy(rng, means, seeds, 60, seed_sd, rest_sd=rest_sd) for means in (direct, bridge)]
        curves = curves_of(LABELS, dict(zip(("direct", "bridge"), values, strict=True)))
        match = labels_to_match(curves, "direct", "bridge")[2]
        matched += match.low <= matching[2] <= match.high
        crossed += any(c.low <= crossing <= c.high for c in crossings(curves, "direct", "bridge").found)
    assert matched / trials >= 0.92
    assert crossed / trials >= 0.92


@st.composite
def results(draw, routes: int = 1):
    """Accuracies of some routes at 2 to 5 budgets, 1 to 3 seeds, 2 to 6 problems, on a grid as samples give it."""
    shape = (routes, draw(st.integers(2, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 6)))
    grades = draw(st.lists(st.integers(0, 16), min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(grades).reshape(shape) / 16


@settings(deadline=None, max_examples=40)
@given(results(), st.data())
def test_a_strictly_rising_route_matches_itself_with_its_own_labels(values, data):
    (values,) = values
    steps = data.draw(st.lists(st.floats(0.01, 0.2), min_size=len(values), max_size=len(values)))
    rising = values - values.mean(axis=(1, 2), keepdims=True) + np.cumsum(steps)[:, None, None]
    labels = LABELS[: len(values)]
    curves = curves_of(labels, {"direct": rising, "same": rising})
    matches = labels_to_match(curves, "direct", "same")
    assert [match.needed for match in matches] == pytest.approx(labels)
    assert crossings(curves, "direct", "same") == Crossings((), None, 0)


@settings(deadline=None, max_examples=40)
@given(results(routes=2), st.randoms(use_true_random=False))
def test_the_order_of_problems_changes_nothing(values, random):
    order = random.sample(range(values.shape[-1]), values.shape[-1])
    labels = LABELS[: values.shape[1]]
    first, second = (curves_of(labels, {"direct": v[0], "bridge": v[1]}) for v in (values, values[..., order]))
    for name in ("direct", "bridge"):
        assert np.allclose(first.draws[name], second.draws[name], atol=1e-6)
        assert first.mean(name) == pytest.approx(second.mean(name))
    found = [crossings(curves, "direct", "bridge").found for curves in (first, second)]
    assert [c.labels for c in found[0]] == pytest.approx([c.labels for c in found[1]])


@settings(deadline=None, max_examples=40)
@given(results(routes=2))
def test_a_match_lies_in_its_range_and_a_better_route_never_needs_fewer_labels(values):
    labels = LABELS[: values.shape[1]]
    curves = curves_of(labels, {"direct": values[0], "bridge": values[1], "better": values[1] + 0.1})
    for match, better in zip(
        labels_to_match(curves, "direct", "bridge"), labels_to_match(curves, "direct", "better"), strict=True
    ):
        assert match.needed in (0, math.inf) or labels[0] <= match.needed <= labels[-1]
        assert match.low <= match.high
        assert match.needed <= better.needed
        assert (match.low, match.high) <= (better.low, better.high)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=7))
def test_isotonic_never_falls_and_keeps_what_never_fell_and_the_mean(row):
    curve = np.array([row])
    fitted = isotonic(curve)
    assert (np.diff(fitted) >= -1e-12).all()
    assert fitted.mean() == pytest.approx(curve.mean())
    assert isotonic(np.sort(curve)) == pytest.approx(np.sort(curve))
