"""Paper B's steps, from routing to objective: against loops over floats and finite differences, and beside TRL."""

import functools
import itertools
import math
import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from cases import make_case
from exact import exact_divergence
from hypothesis import given, settings
from hypothesis import strategies as st
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
from tests.stages.fixed_rollouts import MIXED, outcome, student, trainer


def plain_siblings(correct, size):
    """Index of the next correct rollout of the same group, going round; -1 without one."""
    siblings = []
    for i in range(len(correct)):
        first = i - i % size
        others = [first + (i - first + step) % size for step in range(1, size)]
        siblings.append(next((j for j in others if correct[j]), -1))
    return siblings


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
        raw = [math.exp(-beta * h) for h in entropy.tolist()]
        expected = [w / sum(raw) * len(raw) for w in raw]
        assert weights.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-30)
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
    ratio, a = (log_probs - sampled).exp(), advantages if per_token else advantages[:, None].expand(5, 7)
    out = clipped_policy_loss(log_probs, advantages, sampled)
    torch.testing.assert_close(out, torch.where(a > 0, -a * ratio.clamp(max=1.28), -a * ratio.clamp(min=0.8)))
    for side in (a > 0, a < 0):
        assert all((side & where).any() for where in (ratio < 0.8, (ratio > 0.8) & (ratio < 1.28), ratio > 1.28))
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
    least = math.exp(-20)
    assert out.tolist() == pytest.approx([least, least, math.exp(-1), 1, math.exp(0.5), 2, 2, 2, 2], abs=0)
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


def exact_objective(model, batch, method, top_k):
    """A batch's objective from the formulas, in fp64 with whole logits: no loss of s2d_lib in here."""

    def probs(prompt):
        ids, mask = (torch.cat([batch[f"{prompt}_{kind}"], batch[f"completion_{kind}"]], 1) for kind in ("ids", "mask"))
        logits = model(input_ids=ids, attention_mask=mask).logits
        return logits[:, batch[f"{prompt}_ids"].shape[1] - 1 : -1].softmax(-1)

    p, q = probs("prompt"), probs("teacher_prompt").detach()
    now, taught = (x.gather(-1, batch["completion_ids"][..., None]).squeeze(-1).log() for x in (p, q))
    grpo, sdpo, scored = (batch[f"{name}_mask"] for name in ("grpo", "sdpo", "scored"))
    advantages = batch["advantages"][:, None].expand_as(now)
    if method == "advantage_mix":
        advantages = 0.9 * advantages + 0.1 * torch.where(scored, taught - now.detach(), 0.0)
    policy = -(now - now.detach()).exp() * advantages
    p, q = p[sdpo], q[sdpo]
    weights, order = torch.xlogy(q, q).sum(-1).exp(), p.detach().argsort(-1, descending=True)
    ordered = (x.gather(-1, order) for x in (p, q))
    outcomes = (torch.cat([x[:, :top_k], x[:, top_k:].sum(-1, keepdim=True)], -1) for x in ordered)
    distilled = weights / weights.mean() * exact_divergence(*outcomes, 0.5)
    return (policy[grpo].sum() + distilled.sum()) / (grpo | sdpo).sum()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["srpo", "advantage_mix"])
def test_the_trainers_step_is_the_formula(tmp_path, monkeypatch, method):
    options = {"top_k": 8} if method == "srpo" else {}
    made, batch = trainer(tmp_path, method, MIXED, 16, config={"max_grad_norm": 1e9}, **options), {}
    loss_of = made.loss_of
    monkeypatch.setattr(made, "loss_of", lambda model, inputs: (batch.update(inputs), loss_of(model, inputs))[1])
    found, model = outcome(made), student().model.double()
    expected = exact_objective(model, batch, method, 8)
    expected.backward()
    gradient = torch.cat([weights.grad.flatten() for weights in model.parameters()])
    assert found["losses"][0] == pytest.approx(expected.item(), rel=1e-4)
    assert (found["gradients"][0] - gradient).norm() < 1e-4 * gradient.norm()


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
