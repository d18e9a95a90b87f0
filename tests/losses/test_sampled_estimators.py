"""Top-k with a tail bucket and the sampled token: what they estimate, by enumeration."""

import math

import pytest
import torch
from exact import exact_divergence, make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.losses import (
    ESTIMATORS,
    estimator,
    linear_divergence,
    sampled_token_reverse_kl,
    topk_tail_divergence,
)

BETAS = (0.0, 0.3, 1.0)
OPTIONS = {"temperature": 1.4, "student_softcap": 4.0, "teacher_logit_scale": 1.5}


def loss_and_grads(function, case, **options):
    case = {k: v.clone().requires_grad_(k.startswith("student")) for k, v in case.items()}
    out = function(**case, **options)
    leaves = [v for k, v in case.items() if k.startswith("student")]
    return out, torch.autograd.grad(out.loss, leaves)


def probabilities(case):
    return [(case[f"{who}_hidden"] @ case[f"{who}_weight"].T).softmax(-1) for who in ("student", "teacher")]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("top_k_of", ["student", "teacher"])
@pytest.mark.parametrize("top_k", [9, 1000])
def test_all_tokens_on_top_is_the_full_divergence(beta, top_k_of, top_k):
    case = make_case((2, 5), (9, 11), 4, 6, bias=True, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    shared = {"beta": beta, "mask": mask, "weights": torch.rand(2, 5), "vocab_size": 9, "chunk_size": 3, **OPTIONS}
    full, full_grads = loss_and_grads(linear_divergence, case, **shared)
    out, grads = loss_and_grads(topk_tail_divergence, case, top_k=top_k, top_k_of=top_k_of, **shared)
    for value, expected in zip(out, full, strict=True):
        torch.testing.assert_close(value, expected)
    for grad, expected in zip(grads, full_grads, strict=True):
        torch.testing.assert_close(grad, expected)


@given(st.sampled_from(BETAS), st.integers(0, 999), st.sampled_from(["student", "teacher"]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_topk_is_the_divergence_of_k_plus_one_outcomes(beta, seed, top_k_of):
    case = make_case((4,), 8, 3, 3, dtype=torch.float64, seed=seed)
    p, q = probabilities(case)
    order = (p if top_k_of == "student" else q).argsort(-1, descending=True)
    last = 0.0
    for k in range(1, 9):
        outcomes = []
        for probs in (p, q):
            ordered = probs.gather(-1, order)
            outcomes.append(torch.cat([ordered[:, :k], ordered[:, k:].sum(-1, keepdim=True)], -1))
        out = topk_tail_divergence(**case, beta=beta, top_k=k, top_k_of=top_k_of)
        torch.testing.assert_close(out.per_token, exact_divergence(*outcomes, beta))
        assert (out.per_token >= 0).all()
        assert (out.per_token >= last - 1e-12).all()  # merging fewer tokens can't lower it
        last = out.per_token


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("top_k", [1, 3])
def test_topk_gradcheck(beta, top_k):
    case = make_case((5,), 8, 3, 4, bias=True, dtype=torch.float64)
    leaves = [case.pop(k).requires_grad_() for k in ("student_hidden", "student_weight", "student_bias")]

    def loss(hidden, weight, bias):
        student = {"student_hidden": hidden, "student_weight": weight, "student_bias": bias}
        options = {"beta": beta, "top_k": top_k, "top_k_of": "teacher", "chunk_size": 2, **OPTIONS}
        return topk_tail_divergence(**student, **case, **options).loss

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("beta", BETAS)
def test_topk_is_never_negative_in_fp32_and_zero_for_equal_models(beta):
    case = make_case((64,), 50, 6, 6)
    case |= {"teacher_hidden": case["student_hidden"], "teacher_weight": case["student_weight"]}
    for top_k in (1, 5, 50):
        out, grads = loss_and_grads(topk_tail_divergence, case, beta=beta, top_k=top_k)
        assert (out.per_token >= 0).all()
        assert out.loss < 1e-6
        assert max(g.abs().max() for g in grads) < 1e-6


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("top_k", [1, 2, 4, 10])
def test_topk_with_forbidden_tokens_is_finite(beta, top_k):
    case = make_case((5,), 10, 4, 4, bias=True, dtype=torch.float64)
    allowed = torch.tensor([1, 4])
    for who in ("student", "teacher"):
        bias = torch.full((10,), -math.inf, dtype=torch.float64)
        bias[allowed] = case[f"{who}_bias"][allowed]
        case[f"{who}_bias"] = bias
    out, grads = loss_and_grads(topk_tail_divergence, case, beta=beta, top_k=top_k)
    full, full_grads = loss_and_grads(linear_divergence, case, beta=beta)
    torch.testing.assert_close(out.loss, full.loss)  # two tokens: the top one and the tail are all there is
    for grad, expected in zip(grads, full_grads, strict=True):
        torch.testing.assert_close(grad, expected)


def test_topk_is_honestly_infinite():
    case = make_case((5,), 10, 4, 4, bias=True)
    case["teacher_bias"][case["student_bias"].argmax()] = -math.inf
    case["student_bias"] *= 100
    assert topk_tail_divergence(**case, top_k=2).loss.item() == math.inf


@pytest.mark.parametrize("biased", [False, True])
def test_sampled_token_is_unbiased_over_all_tokens(biased):
    vocab, shape = 7, (2, 3)
    case = make_case(shape, vocab, 3, 4, bias=biased, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    shared = {"mask": mask, "weights": torch.rand(shape), "chunk_size": 2, **OPTIONS}
    full, full_grads = loss_and_grads(linear_divergence, case, **shared)

    logits = torch.einsum("...h,vh->...v", case["student_hidden"], case["student_weight"])
    logits = logits + case["student_bias"] if biased else logits
    p = (4.0 * torch.tanh(logits / 4.0) / 1.4).softmax(-1)
    expected_value, expected_per_token = 0.0, 0.0
    expected_grads = [torch.zeros_like(g) for g in full_grads]
    for token in range(vocab):
        # Weighing each state by the chance of this token makes the sum over tokens the expectation in every state
        weighted = {**shared, "weights": shared["weights"] * p[..., token]}
        out, grads = loss_and_grads(sampled_token_reverse_kl, case, tokens=torch.full(shape, token), **weighted)
        expected_value += out.loss.detach()
        expected_per_token += out.per_token * p[..., token]
        for total, grad in zip(expected_grads, grads, strict=True):
            total += grad
    torch.testing.assert_close(expected_value, full.loss.detach())
    torch.testing.assert_close(expected_per_token, full.per_token)
    for total, grad in zip(expected_grads, full_grads, strict=True):
        torch.testing.assert_close(total, grad)
    torch.testing.assert_close(out.entropy, full.entropy)
    assert torch.equal(out.agreement, full.agreement)


def test_sampled_token_per_token_is_the_log_ratio_and_ignores_masked_tokens():
    case = make_case((4,), 9, 3, 3, dtype=torch.float64)
    p, q = probabilities(case)
    tokens = torch.tensor([2, 8, -100, 0])
    out = sampled_token_reverse_kl(**case, tokens=tokens, mask=tokens >= 0)
    ratio = (p / q).log()
    torch.testing.assert_close(out.per_token, torch.stack([ratio[0, 2], ratio[1, 8], ratio[0, 0] * 0, ratio[3, 0]]))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_are_switched_by_name_alone(name):
    case = {k: v.requires_grad_() for k, v in make_case((3, 5), 12, 4, 6).items()}
    tokens = torch.arange(15).view(3, 5) % 12
    mask = torch.ones(3, 5)
    mask[1, 2:] = 0
    full = linear_divergence(**case, mask=mask)
    out = estimator(name)(**case, beta=1.0, tokens=tokens, mask=mask, weights=torch.ones(3, 5), normalizer=12)
    out.loss.backward()
    assert case["student_weight"].grad.isfinite().all()
    assert case["teacher_weight"].grad is None
    assert out.n_tokens.item() == 12
    torch.testing.assert_close(out.entropy, full.entropy)
    assert torch.equal(out.agreement, full.agreement)
    assert out.loss.item() == pytest.approx((out.per_token.sum() / 12).item(), rel=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_masked_is_zero_for_every_estimator(name):
    case = {k: v.requires_grad_() for k, v in make_case((2, 2), 9, 4, 4).items()}
    out = estimator(name)(**case, tokens=torch.full((2, 2), -100), mask=torch.zeros(2, 2))
    out.loss.backward()
    assert out.loss.item() == 0
    assert not case["student_weight"].grad.any()
    assert not case["student_hidden"].grad.any()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_autocast_and_bf16_agree_with_fp32_from_the_same_inputs(name):
    case = make_case((20,), 60, 16, 16, dtype=torch.bfloat16)
    tokens = torch.arange(20)
    wide, wide_grads = loss_and_grads(estimator(name), {k: v.float() for k, v in case.items()}, tokens=tokens)
    out, grads = loss_and_grads(estimator(name), case, tokens=tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, cast_grads = loss_and_grads(estimator(name), {k: v.float() for k, v in case.items()}, tokens=tokens)
    for loss in (out.loss, cast.loss):
        torch.testing.assert_close(loss, wide.loss, rtol=1e-5, atol=1e-6)
    for some in (grads, cast_grads):
        for grad, expected in zip(some, wide_grads, strict=True):
            assert (grad.float() - expected).norm() < 5e-3 * expected.norm()


def test_options_are_set_once_and_checked():
    case = make_case((3,), 12, 4, 6)
    out = estimator("topk_tail", top_k=2, top_k_of="teacher")(**case, tokens=None)
    assert torch.equal(out.per_token, topk_tail_divergence(**case, top_k=2, top_k_of="teacher").per_token)
    with pytest.raises(ValueError, match="choose one of full, topk_tail, sampled_token"):
        estimator("fulll")
    with pytest.raises(ValueError, match="has no option top_k"):
        estimator("full", top_k=3)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("topk_tail", {"top_k": 0}, "top_k must be"),
        ("topk_tail", {"top_k_of": "both"}, "top_k_of must be"),
        ("topk_tail", {"beta": -1}, "beta must be"),
        ("sampled_token", {"beta": 0.0}, "beta must be 1"),
        ("sampled_token", {"tokens": None}, "tokens must be whole numbers"),
        ("sampled_token", {"tokens": torch.zeros(3)}, "tokens must be whole numbers"),
        ("sampled_token", {"tokens": torch.tensor([0, 1, 12])}, "must lie in the compared vocabulary"),
        ("sampled_token", {"mask": torch.ones(2)}, "mask must have"),
    ],
)
def test_bad_arguments_are_refused(name, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        estimator(name)(**{**make_case((3,), 12, 4, 6), "tokens": torch.arange(3), **change})
