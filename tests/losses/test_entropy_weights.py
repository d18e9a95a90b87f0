"""The self-teacher's entropies as weights: they average 1 over the batch, however it is cut."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_srpo import plain_weights

from s2d_lib.losses import WeightSums, entropy_weights, merge_weight_sums, weight_sums


@st.composite
def batches(draw):
    n = draw(st.integers(1, 40))
    entropies = draw(st.lists(st.floats(0, 12), min_size=n, max_size=n))
    mask = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=7)))
    return torch.tensor(entropies, dtype=torch.float32), torch.tensor(mask), [0, *cuts, n]


@given(batches(), st.sampled_from([0.0, 0.3, 1.0, 5.0]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_weights_average_one_over_the_valid_tokens_of_all_parts(batch, beta):
    entropy, mask, cuts = batch
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]  # some are empty
    sums = merge_weight_sums([weight_sums(entropy[part], mask[part], beta) for part in parts])
    weights = torch.cat([entropy_weights(entropy[part], mask[part], sums, beta) for part in parts])
    assert weights.dtype == torch.float32
    assert sums.count == mask.sum()
    assert not weights[~mask].any()
    if mask.any():
        assert weights[mask].double().mean().item() == pytest.approx(1, abs=1e-6)
        expected = plain_weights(entropy[mask].tolist(), beta)
        assert weights[mask].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-30)
        if beta == 0:
            assert torch.equal(weights[mask], torch.ones(int(mask.sum())))


def test_a_mean_per_part_would_be_another():
    entropy = torch.tensor([0.0, 0.0, 3.0, 3.0])
    mask = torch.ones(4)
    whole = entropy_weights(entropy, mask, weight_sums(entropy, mask))
    parts = [entropy_weights(e, torch.ones(2), weight_sums(e, torch.ones(2))) for e in entropy.split(2)]
    assert torch.equal(torch.cat(parts), torch.ones(4))  # each part by its own mean: the weights say nothing
    assert whole.tolist() == pytest.approx([1.9051, 1.9051, 0.0949, 0.0949], abs=1e-4)


@pytest.mark.parametrize("level", [0.0, 800.0, 1e6])
def test_underflow_everywhere_is_no_zero_over_zero(level):
    entropy = torch.tensor([0.0, math.log(2), math.log(4)], dtype=torch.float64) + level
    first, second = (weight_sums(e, torch.ones_like(e), 1.0) for e in (entropy[:1], entropy[1:]))
    sums = merge_weight_sums([first, second])
    weights = entropy_weights(entropy, torch.ones(3), sums, 1.0)
    assert weights.tolist() == pytest.approx([12 / 7, 6 / 7, 3 / 7], rel=1e-8)
    # One certain token among unsure ones takes it all
    entropy = torch.tensor([0.0, 1000.0, 1000.0])
    weights = entropy_weights(entropy, torch.ones(3), weight_sums(entropy, torch.ones(3), 10.0), 10.0)
    assert weights.tolist() == [3, 0, 0]


def test_gathered_sums_of_processes_merge_like_micro_batches():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.rand(n, generator=generator) * 5 for n in (3, 1, 6, 2)]
    each = [weight_sums(p, torch.ones_like(p)) for p in parts]
    gathered = WeightSums(torch.stack([s.log_total for s in each]), torch.stack([s.count for s in each]))
    expected = weight_sums(torch.cat(parts), torch.ones(12))
    for merged in (merge_weight_sums(each), merge_weight_sums([gathered]), merge_weight_sums([gathered])):
        torch.testing.assert_close(merged.log_total, expected.log_total)
        assert merged.count == 12
    # The same by two all-reduces: the highest logarithm, then the sums relative to it
    highest = gathered.log_total.max()
    total = (gathered.log_total - highest).exp().sum()
    torch.testing.assert_close(highest + total.log(), expected.log_total)


def test_no_tokens_no_gradient_and_garbage_under_the_mask():
    entropy = torch.tensor([1.0, math.nan, 2.0], requires_grad=True)
    mask = torch.tensor([1, 0, 1])
    weights = entropy_weights(entropy, mask, weight_sums(entropy, mask))
    assert not weights.requires_grad
    assert weights.isfinite().all()
    for empty in (weight_sums(entropy, torch.zeros(3)), weight_sums(torch.zeros(0), torch.zeros(0))):
        assert empty.log_total == -math.inf
        assert empty.count == 0
        assert torch.equal(entropy_weights(entropy, torch.zeros(3), empty), torch.zeros(3))
    merged = merge_weight_sums([weight_sums(entropy, torch.zeros(3)), weight_sums(entropy, mask)])
    assert torch.equal(entropy_weights(entropy, mask, merged), weights)


def test_bad_arguments_are_refused():
    entropy, mask = torch.ones(3), torch.ones(3)
    sums = weight_sums(entropy, mask)
    with pytest.raises(ValueError, match="same shape"):
        weight_sums(entropy, mask[:2])
    for beta in (-1.0, math.inf, math.nan, "1"):
        with pytest.raises(ValueError, match="beta must be"):
            weight_sums(entropy, mask, beta)
    with pytest.raises(ValueError, match="sum up the whole optimiser batch first"):
        entropy_weights(torch.ones(4), torch.ones(4), sums)
    with pytest.raises(ValueError, match="no weight sums"):
        merge_weight_sums([])
