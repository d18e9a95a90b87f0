"""Top-k with a tail bucket, the sampled token, and what a model says of tokens: against enumeration and loops over floats."""

import functools
import math

import pytest
import torch
from cases import forbid, loss_and_grads, make_case, pair
from exact import exact_divergence, exact_probs
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.losses import Head, estimator, kl_divergence, linear_divergence, own_divergence, token_log_probs
from s2d_lib.losses.head import Kept
from s2d_lib.losses.sampled import ESTIMATORS, sampled_token_reverse_kl, topk_tail_divergence

BETAS = (0.0, 0.3, 1.0)
HEADS = {"temperature": 1.4, "student": {"softcap": 4.0}, "teacher": {"scale": 1.5}}


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("top_k", "top_k_of"), [(9, "student"), (1000, "teacher")])
def test_all_tokens_on_top_is_the_full_divergence(beta, top_k, top_k_of):
    case, mask = make_case((2, 5), 9, 4, 6, bias=True, dtype=torch.float64), torch.tensor([[1, 1, 1, 0, 0], [1] * 5])
    shared = {"mask": mask, "weights": torch.rand(2, 5), "chunk_size": 3, **HEADS}
    topk = {"beta": beta, "top_k": top_k, "top_k_of": top_k_of}
    expected = loss_and_grads(linear_divergence, case, options={"beta": beta}, **shared)
    torch.testing.assert_close(loss_and_grads(topk_tail_divergence, case, options=topk, **shared), expected)


@given(st.sampled_from(BETAS), st.integers(0, 999), st.sampled_from(["student", "teacher"]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_topk_and_its_gradient_are_those_of_the_divergence_of_k_plus_one_outcomes(beta, seed, top_k_of):
    case = make_case((4,), 8, 3, 3, bias=True, dtype=torch.float64, seed=seed)
    leaves = [case[f"student_{part}"].requires_grad_() for part in ("hidden", "weight", "bias")]
    p, q = exact_probs(*leaves), exact_probs(*(case[f"teacher_{part}"] for part in ("hidden", "weight", "bias")))
    order, last = (p if top_k_of == "student" else q).argsort(-1, descending=True), 0.0
    for k in (1, 2, 4, 8):
        ordered = [probs.gather(-1, order) for probs in (p, q)]
        outcomes = [torch.cat([o[:, :k], o[:, k:].sum(-1, keepdim=True)], -1) for o in ordered]
        exact = exact_divergence(*outcomes, beta)
        out = topk_tail_divergence(pair(case, chunk_size=3), beta, top_k=k, top_k_of=top_k_of)
        torch.testing.assert_close(out.per_token, exact.detach())
        found, expected = (torch.autograd.grad(x, leaves, retain_graph=True) for x in (out.loss, exact.mean()))
        torch.testing.assert_close(found, expected)
        assert (out.per_token >= last - 1e-12).all()  # merging fewer tokens can't lower it
        last = out.per_token


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("top_k", [1, 5])
def test_topk_is_never_negative_in_fp32_and_zero_for_equal_models(beta, top_k):
    case = make_case((64,), 50, 6, 6)
    case |= {"teacher_hidden": case["student_hidden"], "teacher_weight": case["student_weight"]}
    out, grads = loss_and_grads(topk_tail_divergence, case, options={"beta": beta, "top_k": top_k})
    assert (out.per_token >= 0).all()
    assert out.loss < 1e-6
    assert max(g.abs().max() for g in grads.values()) < 1e-6


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("top_k", [1, 2, 10])
def test_topk_with_forbidden_tokens_is_finite_and_infinite_where_it_is(beta, top_k):
    case = forbid(make_case((5,), 10, 4, 4, bias=True, dtype=torch.float64), torch.tensor([1, 4]))
    out, grads = loss_and_grads(topk_tail_divergence, case, options={"beta": beta, "top_k": top_k})
    full, full_grads = loss_and_grads(linear_divergence, case, options={"beta": beta})
    torch.testing.assert_close(out.loss, full.loss)  # two tokens: the top one and the tail are all there is
    torch.testing.assert_close(grads, full_grads)
    case = make_case((5,), 10, 4, 4, bias=True)
    case["teacher_bias"][case["student_bias"].argmax()] = -math.inf
    case["student_bias"] *= 100
    assert topk_tail_divergence(pair(case), top_k=2).loss.item() == math.inf


@pytest.mark.parametrize("biased", [False, True])
def test_sampled_token_is_unbiased_over_all_tokens(biased):
    vocab, shape = 7, (2, 3)
    case = make_case(shape, vocab, 3, 4, bias=biased, dtype=torch.float64)
    shared = {"mask": torch.tensor([[1, 1, 0], [1, 1, 1]]), "chunk_size": 2, **HEADS}
    weights = torch.rand(shape)
    full, full_grads = loss_and_grads(linear_divergence, case, weights=weights, **shared)
    student = [case.get(f"student_{part}") for part in ("hidden", "weight", "bias")]
    p = exact_probs(*student, softcap=4.0, temperature=1.4)
    value, per_token, total = 0.0, 0.0, {name: torch.zeros_like(grad) for name, grad in full_grads.items()}
    for token in range(vocab):
        # Weighing each state by the chance of this token makes the sum over tokens the expectation in every state
        options, weighted = {"tokens": torch.full(shape, token)}, weights * p[..., token]
        out, grads = loss_and_grads(sampled_token_reverse_kl, case, weights=weighted, options=options, **shared)
        value, per_token = value + out.loss.detach(), per_token + out.per_token * p[..., token]
        total = {name: total[name] + grad for name, grad in grads.items()}
    torch.testing.assert_close(value, full.loss.detach())
    torch.testing.assert_close(per_token, full.per_token)
    torch.testing.assert_close(total, full_grads)


def test_a_divergence_of_ones_own_is_a_formula():
    case, mask = make_case((2, 5), 9, 4, 6, bias=True, dtype=torch.float64), torch.tensor([[1, 1, 1, 0, 0], [1] * 5])
    shared = {"mask": mask, "weights": torch.rand(2, 5), "chunk_size": 3, **HEADS}
    expected = loss_and_grads(linear_divergence, case, **shared)
    torch.testing.assert_close(
        loss_and_grads(own_divergence, case, options={"formula": kl_divergence}, **shared), expected
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_are_switched_by_name_alone(name):
    case, mask = make_case((3, 5), 12, 4, 6), torch.ones(3, 5)
    mask[1, 2:] = 0
    tokens = torch.where(mask == 1, torch.arange(15).view(3, 5) % 12, -100)
    full = linear_divergence(pair(case, mask=mask))
    ask = functools.partial(estimator(name, beta=1.0, **({"top_k": 4} if name == "topk_tail" else {})), tokens=tokens)
    out, grads = loss_and_grads(ask, case, mask=mask, weights=torch.ones(3, 5), normalizer=7)
    assert all(grad.isfinite().all() for grad in grads.values())
    torch.testing.assert_close(out.entropy, full.entropy)
    assert torch.equal(out.agreement, full.agreement)
    assert out.loss.item() == pytest.approx((out.per_token.sum() / 7).item(), rel=1e-5)
    out, grads = loss_and_grads(ask, case, mask=torch.zeros(3, 5))
    assert out.loss.item() == 0
    assert not any(grad.any() for grad in grads.values())


@pytest.mark.parametrize("chunk", [100, 2])
def test_token_log_probs_and_entropies(chunk, monkeypatch):
    parts = [slice(start, start + chunk) for start in range(0, 5, chunk)]
    monkeypatch.setattr(Kept, "chunks", lambda kept: parts if kept.n else [slice(0, 0)])
    case = make_case((2, 3), 7, 3, 3, bias=True, dtype=torch.float64)
    hidden, weight, tokens = case["student_hidden"], case["student_weight"], torch.tensor([[0, 6, -100], [3, 3, 5]])
    mask = tokens >= 0
    broken = torch.where(mask[..., None], hidden, math.nan)
    out, p = (
        token_log_probs(broken, Head(weight), tokens, 1.7, mask),
        exact_probs(hidden, weight, None, temperature=1.7),
    )
    chosen = p.gather(-1, tokens.clamp(min=0)[..., None]).squeeze(-1)
    torch.testing.assert_close(out.log_probs, torch.where(mask, chosen.log(), 0.0))
    torch.testing.assert_close(out.entropy, torch.where(mask, -torch.xlogy(p, p).sum(-1), 0.0))
    leaves = [case[f"student_{k}"].requires_grad_() for k in ("hidden", "weight", "bias")]

    def log_probs(hidden, weight, bias):
        return token_log_probs(hidden, Head(weight, bias, scale=1.2, softcap=3.0), tokens, 1.7, mask).log_probs

    assert torch.autograd.gradcheck(log_probs, leaves)
    nothing = token_log_probs(hidden, Head(weight), tokens, mask=torch.zeros(2, 3))
    assert not nothing.entropy.requires_grad
    nothing.log_probs.sum().backward()
    assert not hidden.grad.any()


@pytest.mark.parametrize(
    ("name", "options", "tokens", "sentence"),
    [
        ("topk_tail", {"top_k": 0}, torch.arange(3), "top_k must be"),
        ("topk_tail", {"top_k": 2, "top_k_of": "both"}, torch.arange(3), "top_k_of must be"),
        ("topk_tail", {"top_k": 2, "beta": -1}, torch.arange(3), "beta must be"),
        ("sampled_token", {"beta": 0.0}, torch.arange(3), "beta must be 1"),
        ("sampled_token", {}, torch.zeros(3), "tokens must be whole numbers"),
        ("sampled_token", {}, torch.zeros(2, dtype=torch.long), "tokens must have the tokens' shape"),
        ("sampled_token", {}, torch.tensor([0, 1, 12]), "in the vocabulary, 0 to 11"),
    ],
)
def test_bad_arguments_are_refused(name, options, tokens, sentence):
    case = make_case((3,), 12, 4, 6)
    with pytest.raises(ValueError, match=sentence):
        estimator(name, **options)(pair(case), tokens=tokens)
    if name == "sampled_token" and not options:
        with pytest.raises(ValueError, match=sentence):
            token_log_probs(case["student_hidden"], Head(case["student_weight"]), tokens)
