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
from plain_srpo import SIZE, plain_advantages, plain_clipped, plain_ratio, plain_siblings, plain_step, plain_weights
from trl.experimental.sdpo import loss_utils

from s2d_lib.losses import Head, Pair, token_log_probs
from s2d_lib.losses.srpo import (
    WeightSums,
    clamped_ratio,
    clipped_policy_loss,
    entropy_weights,
    merge_weight_sums,
    mixed_advantages,
    route,
    self_distillation,
    srpo_objective,
    weight_sums,
)


def test_siblings_go_round_and_are_not_always_the_first():
    routes = route(torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]).flatten(), 4)
    assert routes.sibling.tolist() == [2, 2, 0, 0] + [-1] * 4 + [9, -1, 9, 9] + [13, 14, 15, 12]
    assert routes.sdpo.tolist() == [False, True, False, True] + [False] * 4 + [True, False, True, True] + [False] * 4
    assert route(torch.tensor([0.2, 0.9, 0.5, 0.4]), 2, threshold=0.5).correct.tolist() == [False, True, True, False]


@st.composite
def rollouts(draw):
    size = draw(st.integers(2, 5))
    n = size * draw(st.integers(1, 5))
    coins = st.lists(st.booleans(), min_size=n, max_size=n)
    return size, draw(coins), draw(st.none() | coins)


@given(rollouts())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_routes_follow_the_formulas(batch):
    size, coins, feedback = batch
    said = None if feedback is None else torch.tensor(feedback)
    siblings = plain_siblings(coins, size)
    m = [j >= 0 or bool(feedback and feedback[i]) for i, j in enumerate(siblings)]
    failed, correct = ([mi and c == right for mi, c in zip(m, coins, strict=True)] for right in (False, True))
    nobody = [False] * len(coins)
    expected = {("grpo", "all"): nobody, ("srpo", "all"): failed, ("advantage_mix", "all"): nobody}
    expected |= {("sdpo", "all"): m, ("sdpo", "failed"): failed, ("sdpo", "correct"): correct}
    for (method, sdpo_on), z in expected.items():
        routes = route(torch.tensor(coins).float(), size, feedback=said, method=method, sdpo_on=sdpo_on)
        assert (routes.correct.tolist(), routes.sibling.tolist(), routes.sdpo.tolist()) == (coins, siblings, z)
        assert routes.grpo.tolist() == [method != "sdpo" and not zi for zi in z]
        assert routes.scored.tolist() == (m if method == "advantage_mix" else z)


@given(
    st.lists(st.floats(0, 12), max_size=40), st.lists(st.integers(0, 40), max_size=7), st.sampled_from([0, 0.3, 1, 5])
)
@settings(max_examples=100, deadline=None, derandomize=True)
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


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("top_k", [4, None])
def test_self_distillation_and_its_gradient_are_trls(alpha, top_k):
    case, temperature = make_case((4, 5), 30, 30, 30, dtype=torch.float64), 0.7
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


def test_masks_processes_and_nothing_to_learn():
    loss, mask = torch.rand(4, 3), torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    loss[~mask] = math.nan
    expected = srpo_objective(loss, mask, 0.5 + 0.25, 9)
    assert expected.item() == pytest.approx((loss[mask].sum().item() + 0.75) / 9)
    parts = (slice(0, 1), 0.5), (slice(1, 4), 0.25)
    each = [srpo_objective(loss[part], mask[part], sdpo, 9, processes=2) for part, sdpo in parts]
    torch.testing.assert_close(sum(each) / 2, expected)  # processes that average gradients still sum
    assert srpo_objective(loss, torch.zeros_like(mask), 0.0, 0) == 0


def make_batch(rewards, longest=3, width=3, vocab=6):
    """Rollouts of different lengths with both models' hidden states, by name."""
    generator, n = torch.Generator().manual_seed(0), len(rewards)
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    batch = {
        "rewards": torch.tensor(rewards, dtype=torch.float64),
        "advantages": torch.tensor(plain_advantages(rewards, SIZE), dtype=torch.float64),
        "hidden": normal(n, longest, width),
        "teacher_hidden": normal(n, longest, width),
        "tokens": torch.randint(vocab, (n, longest), generator=generator),
        "mask": torch.arange(longest) < torch.randint(1, longest + 1, (n, 1), generator=generator),
        "weight": normal(vocab, width),
        "teacher_weight": normal(vocab, width),
    }
    now = token_log_probs(batch["hidden"], Head(batch["weight"]), batch["tokens"]).log_probs
    # No ratio near a limit by accident: a corner has no derivative
    return batch | {"sampled": now + 0.5 * normal(n, longest) + 0.01}


def step(batch, method, beta, top_k):
    """The sum of the losses of two micro-batches of unequal size, and its gradients by hidden states and head."""
    hidden, weight = batch["hidden"].clone().requires_grad_(), batch["weight"].clone().requires_grad_()
    head, teacher_head = Head(weight), Head(batch["teacher_weight"])
    routes = route(batch["rewards"], SIZE, threshold=1, method=method)
    grpo, sdpo, scored = (z[:, None] & batch["mask"] for z in (routes.grpo, routes.sdpo, routes.scored))
    parts = slice(0, 3), slice(3, len(hidden))  # a group is cut, too: routing came before
    teacher = token_log_probs(batch["teacher_hidden"], teacher_head, batch["tokens"], mask=scored)
    sums = merge_weight_sums([weight_sums(teacher.entropy[part][sdpo[part]], beta) for part in parts])
    denominator, total = int((grpo | sdpo).sum()), 0.0
    for part in parts:
        mask, distilled = batch["mask"][part], sdpo[part]
        student = token_log_probs(hidden[part], head, batch["tokens"][part], mask=mask)
        sampled, advantages = torch.where(mask, batch["sampled"][part], 0.0), batch["advantages"][part]
        if method == "advantage_mix":
            advantages = mixed_advantages(advantages, teacher.log_probs[part], sampled, scored[part])
        policy = clipped_policy_loss(student.log_probs, advantages, sampled)
        weights = entropy_weights(teacher.entropy[part][distilled], sums, beta)
        weights = weights * clamped_ratio(student.log_probs[distilled], sampled[distilled])
        states = hidden[part][distilled], head, batch["teacher_hidden"][part][distilled], teacher_head
        of_sdpo = self_distillation(Pair(*states, weights=weights, normalizer=1), top_k=top_k).loss
        loss = srpo_objective(policy, grpo[part], of_sdpo if distilled.any() else 0.0, denominator)
        loss.backward()  # a micro-batch's graph ends here, as in a trainer
        total += loss.item()
    return total, hidden.grad, weight.grad


@pytest.mark.parametrize(
    ("method", "beta", "top_k"),
    [("grpo", 1.0, 3), ("sdpo", 0.0, None), ("srpo", 1.0, 3), ("srpo", 2.5, 1), ("advantage_mix", 1.0, 3)],
)
def test_the_objective_is_the_formula_and_its_gradients_are_finite_differences(method, beta, top_k):
    batch, h = make_batch([1, 0, 0, 1] + [0, 0, 0, 0] + [0, 1, 0, 0]), 1e-6  # noqa: RUF005 (groups)
    loss, of_hidden, of_weight = step(batch, method, beta, top_k)
    assert loss == pytest.approx(plain_step(batch, method, beta, top_k), rel=1e-10)
    assert not of_hidden[~batch["mask"]].any()

    def slope(name, *where):
        values = []
        for sign in (1, -1):
            inner = changed = copy.deepcopy(batch[name].tolist())
            for place in where[:-1]:
                inner = inner[place]
            inner[where[-1]] += sign * h
            values.append(plain_step(batch, method, beta, top_k, **{name: changed}))
        return (values[0] - values[1]) / (2 * h)

    for b, t in batch["mask"].nonzero().tolist():
        assert of_hidden[b, t, 1].item() == pytest.approx(slope("hidden", b, t, 1), rel=1e-6, abs=1e-9)
    for v in range(6):
        assert of_weight[v, 2].item() == pytest.approx(slope("weight", v, 2), rel=1e-6, abs=1e-9)


TOKENS = torch.zeros(5, 7)


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (lambda: route(torch.tensor([0, 0.5, 1, 1]), 2), "pass a threshold"),
        (lambda: route(torch.tensor([0, math.nan, 1, 1]), 2), "rewards must be finite"),
        (lambda: route(torch.tensor([]), 2), "0 rollouts are not whole groups of 2"),
        (lambda: route(torch.tensor([0, 1, 1, 0]), 3), "4 rollouts are not whole groups of 3"),
        (lambda: route(torch.tensor([0, 1, 1, 0]), 1), "2 rollouts or more"),
        (lambda: entropy_weights(TOKENS, weight_sums(TOKENS[:2])), "sum up the whole optimiser batch first"),
        (lambda: clipped_policy_loss(TOKENS, TOKENS[:2, 0], TOKENS), "advantages"),
        (lambda: clipped_policy_loss(TOKENS, TOKENS, TOKENS[:2]), "advantages"),
        (lambda: srpo_objective(TOKENS, TOKENS[:2], 0.0, 1), "same shape"),
    ],
)
def test_what_does_not_fit_together_is_refused(refused, sentence):
    with pytest.raises(ValueError, match=sentence):
        refused()
