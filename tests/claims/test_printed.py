"""Honest errors of printed means: exact small cases, the floor, and what settles a difference."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.claims import load_published, printed
from s2d_lib.claims.printed import RUN_SPREAD, Cell, Difference


def cell(mean: float, problems: int = 100) -> Cell:
    return Cell(mean, None, ((mean, problems),), "")


def difference(better: float, than: float) -> Difference:
    return Difference(cell(better), cell(than))


def test_the_error_of_a_mean_in_its_extremes():
    assert cell(50).standard_error(rho=1) == pytest.approx(5)  # as 100 answers
    assert cell(50).standard_error(rho=0) == pytest.approx(5 / 4)  # as 1600
    assert cell(20, 30).standard_error(rho=0) == pytest.approx(math.sqrt(20 * 80 / 480))
    # models that agree on every problem differ by their samples alone
    width = difference(50, 50).interval(rho=0.5, correlation=1.0).high
    assert width == pytest.approx(1.959964 * math.sqrt(2 * 0.5 * 2500 / 100 / 16))


shares, means = st.floats(0, 1), st.floats(0.5, 99.5)


@given(means, means, shares, shares, shares)
def test_errors_grow_with_the_spread_of_difficulties_add_up_unpaired_and_narrow_by_pairing(
    better, than, one, other, paired
):
    low, high = (cell(better).standard_error(rho) for rho in sorted((one, other)))
    assert cell(better).standard_error(0) <= low * (1 + 1e-12)
    assert low <= high * (1 + 1e-12)
    unpaired = difference(better, than).interval(one)
    both = math.hypot(cell(better).standard_error(one), cell(than).standard_error(one))
    assert unpaired.high - unpaired.low == pytest.approx(2 * 1.959964 * both, rel=1e-5)
    assert difference(better, than).interval(one, paired).low >= unpaired.low - 1e-9


def test_verdicts_of_the_printed_tables():
    published = load_published()
    said = lambda better, than, name, **more: published.difference("Qwen3", better, than, name).verdict(**more)  # noqa: E731
    rl, raw, opd = "student.bridge.rl_teacher", "student.bridge.raw_teacher", "student.opd_only.rl_teacher"
    assert (said(rl, raw, "MATH"), said(raw, rl, "MATH")) == ("holds", "contradicted")
    assert said(rl, "student.grpo", "AIME 2024") == said(rl, opd, "MATH") == "undecided"
    assert said(rl, "student.grpo", "MATH", paired=True) == said(opd, rl, "MATH", margin=6) == "holds"
    assert published.difference("Qwen3", rl, "student.grpo_2H", "MATH") is None
    assert published.difference("Qwen3-8B", "SRPO", "GRPO", "Biology") is None  # without hours
    sets = ("average", *published.problems["B"])
    average, *apart = (published.difference("Qwen3-8B", "SRPO", "GRPO", name, hours=10).interval() for name in sets)
    assert average.mean == 3.4
    assert average.high - average.mean == pytest.approx(math.hypot(*((e.high - e.low) / 2 for e in apart)) / 5)


def test_what_settles_a_difference():
    wanted = (10 / 2.801585) ** 2
    alone, equal = (difference(60, 50).settled_by(rho=rho) for rho in (1.0, 0.0))
    assert alone.problems == math.ceil((2400 + 2500) / wanted)
    assert alone.samples == math.inf  # answers count once a problem, so samples change nothing
    assert equal.problems == math.ceil((2400 + 2500) / 16 / wanted)
    assert equal.samples == math.ceil((2400 + 2500) / 100 / wanted)
    assert difference(51, 50).settled_by().seeds == math.ceil(2 * RUN_SPREAD**2 / (1 / 2.801585) ** 2)
    assert difference(50, 50).settled_by().problems == math.inf


def test_shares_and_correlations_of_known_difficulties():
    # All right or all wrong: the whole variance lies between problems. Half of the samples right everywhere: none does.
    assert printed.share_between(np.array([[0.0, 1.0, 1.0, 0.0]]), samples=16) == pytest.approx(1)
    assert printed.share_between(np.full((2, 6), 0.5), samples=16) < 0  # unbiased, so it may be
    mixed = np.array([[0.25, 0.75, 0.5, 1.0], [0.0, 1.0, 0.5, 0.75]])
    assert printed.difficulty_correlation(mixed, mixed, samples=10**9) == pytest.approx(1)
    assert printed.difficulty_correlation(mixed, 1 - mixed, samples=10**9) == pytest.approx(-1)
    assert printed.run_spread(np.array([[0.2, 0.4], [0.4, 0.6]])) == pytest.approx(100 * math.sqrt(0.02))


def test_the_components_are_unbiased():
    # Every outcome of 2 samples on 2 problems that are solved at rates 0.2 and 0.8, with its probability.
    expected = np.zeros(2)
    for right in np.ndindex(3, 3):
        chance = math.prod(math.comb(2, k) * p**k * (1 - p) ** (2 - k) for k, p in zip(right, (0.2, 0.8), strict=True))
        expected += chance * np.array(printed.components(np.array([right]) / 2, samples=2))
    assert expected == pytest.approx([0.18, 0.16])  # of the rates (with n - 1), and mean p(1-p)
