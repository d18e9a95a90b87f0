"""Paper B's steps, from routing to objective: against loops over floats and finite differences, and beside TRL."""

import copy
import functools
import itertools
import math
import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from cases import make_case
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_srpo import plain_clipped, plain_ratio, plain_siblings, plain_weights
from srpo_step import make_batch, plain_step, step
from trl.experimental.sdpo import loss_utils

from s2d_lib.losses import Head, Pair
from s2d_lib.losses.srpo import (
    WeightSums,
    clamped_ratio,
    clipped_policy_loss,
    entropy_weights,
    merge_weight_sums,
    route,
    self_distillation,
    srpo_objective,
    weight_sums,
)

METHODS = ("grpo", "sdpo", "srpo", "advantage_mix")
MIXED = [1, 0, 0, 1] + [0, 0, 0, 0] + [0, 1, 0, 0] + [1, 1, 1, 1]  # noqa: RUF005 (groups)


# Routing


def test_siblings_go_round_and_are_not_always_the_first():
    routes = route(torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]).flatten(), 4)
    assert routes.sibling.tolist() == [2, 2, 0, 0] + [-1] * 4 + [9, -1, 9, 9] + [13, 14, 15, 12]
    assert routes.sdpo.tolist() == [False, True, False, True] + [False] * 4 + [True, False, True, True] + [False] * 4
    assert torch.equal(routes.grpo, ~routes.sdpo)
    assert route(torch.tensor([0.2, 0.9, 0.5, 0.4]), 2, threshold=0.5).correct.tolist() == [False, True, True, False]


@st.composite
def rollouts(draw):
    size = draw(st.integers(2, 5))
    n = size * draw(st.integers(1, 5))
    coins = st.lists(st.booleans(), min_size=n, max_size=n)
    return size, draw(coins), draw(st.none() | coins)


@given(rollouts())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_routes_follow_the_formulas(batch):
    size, coins, feedback = batch
    rewards = torch.tensor(coins, dtype=torch.float32)
    said = None if feedback is None else torch.tensor(feedback)
    siblings = plain_siblings(coins, size)
    m = [j >= 0 or bool(feedback and feedback[i]) for i, j in enumerate(siblings)]
    failed, correct = ([mi and c == right for mi, c in zip(m, coins, strict=True)] for right in (False, True))
    nobody = [False] * len(coins)
    expected = {("grpo", "all"): nobody, ("srpo", "all"): failed, ("advantage_mix", "all"): nobody}
    expected |= {("sdpo", "all"): m, ("sdpo", "failed"): failed, ("sdpo", "correct"): correct}
    for (method, sdpo_on), z in expected.items():
        routes = route(rewards, size, feedback=said, method=method, sdpo_on=sdpo_on)
        assert (routes.correct.tolist(), routes.sibling.tolist(), routes.sdpo.tolist()) == (coins, siblings, z)
        assert routes.grpo.tolist() == [method != "sdpo" and not zi for zi in z]
        assert routes.scored.tolist() == (m if method == "advantage_mix" else z)
        for i, j in enumerate(routes.sibling.tolist()):  # said once more, without the rule
            assert j == -1 or (j != i and j // size == i // size and coins[j])


@pytest.mark.parametrize(
    ("rewards", "size", "sentence"),
    [
        ([0, 0.5, 1, 1], 2, "pass a threshold"),
        ([0, math.nan, 1, 1], 2, "rewards must be finite"),
        ([], 2, "0 rollouts are not whole groups of 2"),
        ([0, 1, 1, 0], 3, "4 rollouts are not whole groups of 3"),
        ([0, 1, 1, 0], 1, "2 rollouts or more"),
    ],
)
def test_rewards_that_do_not_route_are_refused(rewards, size, sentence):
    with pytest.raises(ValueError, match=sentence):
        route(torch.tensor(rewards), size)


# Weights


@given(
    st.lists(st.floats(0, 12), max_size=40), st.lists(st.integers(0, 40), max_size=7), st.sampled_from([0, 0.3, 1, 5])
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_weights_average_one_over_the_tokens_of_all_parts(entropies, cuts, beta):
    entropy = torch.tensor(entropies, dtype=torch.float32)
    edges = [0, *sorted(min(cut, len(entropies)) for cut in cuts), len(entropies)]
    parts = [entropy[a:b] for a, b in itertools.pairwise(edges)]  # some are empty
    each = [weight_sums(part, beta) for part in parts]
    gathered = WeightSums(torch.stack([s.log_total for s in each]), torch.stack([s.count for s in each]))
    sums = merge_weight_sums(each)
    torch.testing.assert_close(merge_weight_sums([gathered]), sums)  # of processes as of micro-batches
    weights = torch.cat([entropy_weights(part, sums, beta) for part in parts])
    assert weights.dtype == torch.float32
    assert sums.count == len(entropies)
    if entropies:
        assert weights.double().mean().item() == pytest.approx(1, abs=1e-6)
        assert weights.tolist() == pytest.approx(plain_weights(entropy.tolist(), beta), rel=1e-6, abs=1e-30)
        assert beta or torch.equal(weights, torch.ones(len(entropies)))


@pytest.mark.parametrize("level", [0.0, 800.0, 1e6])
def test_underflow_everywhere_is_no_zero_over_zero(level):
    entropy = torch.tensor([0.0, math.log(2), math.log(4)], dtype=torch.float64) + level
    sums = merge_weight_sums([weight_sums(entropy[:1]), weight_sums(entropy[1:])])
    assert entropy_weights(entropy, sums).tolist() == pytest.approx([12 / 7, 6 / 7, 3 / 7], rel=1e-8)
    entropy = torch.tensor([0.0, 1000.0, 1000.0])  # one certain token among unsure ones takes it all
    assert entropy_weights(entropy, weight_sums(entropy, 10.0), 10.0).tolist() == [3, 0, 0]
    with pytest.raises(ValueError, match="sum up the whole optimiser batch first"):
        entropy_weights(entropy, weight_sums(entropy[:2]))


# Token losses


@pytest.mark.parametrize("per_token", [False, True])
def test_clipped_loss(per_token):
    shapes, generator = ((5, 7), (5, 7), (5, 7) if per_token else (5,)), torch.Generator().manual_seed(0)
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64, requires_grad=True)
    log_probs, drift, advantages = (normal(*shape) for shape in shapes)
    sampled = log_probs.detach() + 0.4 * drift  # ratios on both sides of both limits
    out, seen = clipped_policy_loss(log_probs, advantages, sampled), set()
    for b, t in itertools.product(range(5), range(7)):
        a = (advantages[b, t] if per_token else advantages[b]).item()
        now, then = log_probs[b, t].item(), sampled[b, t].item()
        assert out[b, t].item() == pytest.approx(plain_clipped(now, then, a), rel=1e-12)
        ratio = math.exp(now - then)
        seen.add((a > 0, "low" if ratio < 0.8 else "high" if ratio > 1.28 else "within"))
    assert len(seen) == 6
    assert torch.autograd.gradcheck(lambda now: clipped_policy_loss(now, advantages, sampled), [log_probs])
    out.sum().backward()
    assert [leaf.grad is None for leaf in (log_probs, drift, advantages)] == [False, True, True]
    for changed in ((log_probs, advantages[:2], sampled), (log_probs, advantages, sampled[:2])):
        with pytest.raises(ValueError, match="advantages"):
            clipped_policy_loss(*changed)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("top_k", [4, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_self_distillation_and_its_gradient_are_trls(alpha, top_k, temperature):
    case = make_case((4, 5), 30, 30, 30, dtype=torch.float64)
    student, teacher = 2 * case["student_hidden"].requires_grad_(), 2 * case["teacher_hidden"]
    head, weights = Head(torch.eye(30, dtype=torch.float64)), torch.rand(4, 5)  # so logits are hidden states
    sides, options = (student / temperature, teacher / temperature), {"distillation_alpha": alpha}
    if top_k is None:
        theirs = loss_utils.compute_full_logit_self_distillation_loss(*sides, **options)
    else:
        options |= {"distillation_topk": top_k, "distillation_add_tail": True}
        theirs = loss_utils.compute_topk_self_distillation_loss(*sides, **options)
    models = Pair(student, head, teacher, head, temperature=temperature, weights=weights, normalizer=1)
    ours = self_distillation(models, alpha, top_k)
    torch.testing.assert_close(ours.per_token, theirs.detach())
    gradients = (torch.autograd.grad(loss, student)[0] for loss in (ours.loss, (theirs * weights).sum()))
    torch.testing.assert_close(*gradients)


def test_ratio_is_clamped_from_above_only():
    gaps = [-100.0, -20.0, -1.0, 0.0, 0.5, math.log(2), 1.0, 100.0, math.inf]
    now = torch.tensor(gaps, dtype=torch.float64, requires_grad=True)
    out = clamped_ratio(now, torch.zeros_like(now))
    assert out.tolist() == pytest.approx([plain_ratio(gap, 0.0) for gap in gaps])
    assert (out.max(), out[0]) == (2, math.exp(-20))
    assert not out.requires_grad


# The objective


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("beta", "top_k"), [(1.0, 3), (0.0, None), (2.5, 1)])
def test_objective_is_the_formula(method, beta, top_k):
    batch, options = make_batch(MIXED), {"method": method, "beta": beta, "top_k": top_k}
    loss, (of_hidden, _) = step(batch, **options)
    assert loss == pytest.approx(plain_step(batch, **options), rel=1e-10)
    assert not of_hidden[~batch["mask"]].any()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_finite_differences(method):
    batch = make_batch([0, 1, 0, 0], longest=3)
    batch["sampled"] += 0.01  # no ratio near a limit by accident: a corner has no derivative
    _, (of_hidden, of_weight) = step(batch, method)
    h = 1e-6

    def moved(name, *where):
        values = []
        for sign in (1, -1):
            changed = copy.deepcopy(batch[name].tolist())
            inner = changed
            for place in where[:-1]:
                inner = inner[place]
            inner[where[-1]] += sign * h
            values.append(plain_step(batch, method, **{name: changed}))
        return (values[0] - values[1]) / (2 * h)

    for b, t in batch["mask"].nonzero().tolist():
        assert of_hidden[b, t, 1].item() == pytest.approx(moved("hidden", b, t, 1), rel=1e-6, abs=1e-9)
    for v in range(6):
        assert of_weight[v, 2].item() == pytest.approx(moved("weight", v, 2), rel=1e-6, abs=1e-9)


def test_masks_processes_and_nothing_to_learn():
    loss, mask = torch.rand(4, 3), torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    loss[~mask] = math.nan
    expected = srpo_objective(loss, mask, 0.5 + 0.25, 9)
    assert expected.item() == pytest.approx((loss[mask].sum().item() + 0.75) / 9)
    parts = (slice(0, 1), 0.5), (slice(1, 4), 0.25)
    each = [srpo_objective(loss[part], mask[part], sdpo, 9, processes=2) for part, sdpo in parts]
    torch.testing.assert_close(sum(each) / 2, expected)  # processes that average gradients still sum
    assert srpo_objective(loss, torch.zeros_like(mask), 0.0, 0) == 0
    with pytest.raises(ValueError, match="same shape"):
        srpo_objective(loss, mask[:2], 0.0, 1)
