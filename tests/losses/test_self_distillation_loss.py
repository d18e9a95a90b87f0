"""SDPO's divergence, its importance ratio, and what models say of tokens, against loops over floats."""

import math

import pytest
import torch
from exact import make_case
from plain_srpo import plain_divergence, plain_entropy, plain_log_probs, plain_ratio

from s2d_lib.losses import (
    clamped_ratio,
    linear_divergence,
    sampled_token_reverse_kl,
    self_distillation,
    token_log_probs,
    topk_tail_divergence,
)

BETAS = (0.0, 0.3, 0.5, 1.0)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("top_k", [1, 3, 7, 100, None])
def test_divergence_is_the_formula(beta, top_k):
    case = make_case((2, 3), 7, 3, 4, dtype=torch.float64)
    weights = torch.rand(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    out = self_distillation(**case, beta=beta, temperature=1.3, weights=weights, top_k=top_k, mask=mask, normalizer=9)
    total = 0.0
    for b, t in mask.nonzero().tolist():
        log_p, log_q = (
            plain_log_probs(case[f"{who}_hidden"][b, t].tolist(), case[f"{who}_weight"].tolist(), 1.3)
            for who in ("student", "teacher")
        )
        value = plain_divergence(log_p, log_q, beta, top_k)
        assert out.per_token[b, t].item() == pytest.approx(value, rel=1e-10)
        total += weights[b, t].item() * value
    assert out.loss.item() == pytest.approx(total / 9, rel=1e-10)
    assert not out.per_token[mask == 0].any()


def test_defaults_are_sdpos():
    case = make_case((5,), 130, 8, 8)
    out = self_distillation(**case)
    assert torch.equal(out.per_token, topk_tail_divergence(**case, beta=0.5, top_k=100, top_k_of="student").per_token)
    whole = self_distillation(**case, top_k=None)
    assert torch.equal(whole.per_token, linear_divergence(**case, beta=0.5).per_token)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("top_k", [2, None])
def test_gradcheck_and_nothing_for_the_self_teacher(beta, top_k):
    case = make_case((4,), 7, 3, 3, dtype=torch.float64)
    weights = torch.rand(4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [case.pop(k).requires_grad_() for k in ("student_hidden", "student_weight")]

    def loss(hidden, weight):
        student = {"student_hidden": hidden, "student_weight": weight}
        return self_distillation(**student, **case, beta=beta, weights=weights, top_k=top_k).loss

    assert torch.autograd.gradcheck(loss, leaves)
    # The self-teacher may be the student, in the same tensors: they are constants on its side
    hidden, weight = leaves
    own = self_distillation(hidden, weight, hidden.flip(0), weight, beta, top_k=top_k).loss
    apart = self_distillation(hidden, weight, hidden.detach().flip(0), weight.detach(), beta, top_k=top_k).loss
    for one, other in zip(torch.autograd.grad(own, leaves), torch.autograd.grad(apart, leaves), strict=True):
        assert torch.equal(one, other)


def test_weights_scale_each_tokens_gradient_and_get_none():
    case = make_case((6,), 9, 4, 4, dtype=torch.float64)
    case["student_hidden"].requires_grad_()
    now = token_log_probs(case["student_hidden"], case["student_weight"], torch.arange(6)).log_probs
    weights = clamped_ratio(now, now.detach() - torch.linspace(-2, 2, 6, dtype=torch.float64))
    assert not weights.requires_grad
    (weighted,) = torch.autograd.grad(self_distillation(**case, weights=weights).loss, case["student_hidden"])
    (plain,) = torch.autograd.grad(self_distillation(**case).loss, case["student_hidden"])
    torch.testing.assert_close(weighted, plain * weights[:, None])


def test_ratio_is_clamped_from_above_only():
    gaps = [-100.0, -20.0, -1.0, 0.0, 0.5, math.log(2), 1.0, 100.0, math.inf]
    now = torch.tensor(gaps, dtype=torch.float64)
    out = clamped_ratio(now, torch.zeros_like(now))
    assert out.tolist() == pytest.approx([plain_ratio(gap, 0.0) for gap in gaps])
    assert out.max() == 2
    assert out[0] == math.exp(-20)
    assert torch.equal(clamped_ratio(now, now - 7, None), torch.ones(9, dtype=torch.float64))
    with pytest.raises(ValueError, match="same shape"):
        clamped_ratio(now, now[:3])
    with pytest.raises(ValueError, match="clamp must be"):
        clamped_ratio(now, now, 0)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_token_log_probs_and_entropies(chunk_size):
    case = make_case((2, 3), 7, 3, 3, bias=True, dtype=torch.float64)
    hidden, weight = case["student_hidden"], case["student_weight"]
    tokens = torch.tensor([[0, 6, -100], [3, 3, 5]])
    mask = tokens >= 0
    broken = hidden.clone()
    broken[~mask] = math.nan
    out = token_log_probs(broken, weight, tokens, 1.7, mask=mask, chunk_size=chunk_size)
    for b, t in mask.nonzero().tolist():
        log_p = plain_log_probs(hidden[b, t].tolist(), weight.tolist(), 1.7)
        assert out.log_probs[b, t].item() == pytest.approx(log_p[tokens[b, t]], rel=1e-12)
        assert out.entropy[b, t].item() == pytest.approx(plain_entropy(log_p), rel=1e-12)
    assert not out.log_probs[~mask].any()
    assert not out.entropy[~mask].any()

    leaves = [case[f"student_{k}"].requires_grad_() for k in ("hidden", "weight", "bias")]
    kept = tokens.clamp(min=0)

    def log_probs(hidden, weight, bias):
        options = {"mask": mask, "bias": bias, "softcap": 3.0, "logit_scale": 1.2, "chunk_size": chunk_size}
        return token_log_probs(hidden, weight, kept, 1.7, **options).log_probs

    assert torch.autograd.gradcheck(log_probs, leaves)
    readings = token_log_probs(hidden, weight, kept)
    assert readings.log_probs.requires_grad
    assert not readings.entropy.requires_grad
    nothing = token_log_probs(hidden, weight, tokens, mask=torch.zeros(2, 3))
    nothing.log_probs.sum().backward()
    assert not hidden.grad.any()


def test_sampled_tokens_in_expectation_are_the_reverse_kl_through_the_log_probs():
    # What Advantage Mix rests on: sum over y of p(y) * (log q(y) - log p(y)) * grad log p(y) is -grad KL(p || q)
    case = make_case((1,), 6, 3, 3, dtype=torch.float64)
    case["student_hidden"].requires_grad_()
    (expected,) = torch.autograd.grad(linear_divergence(**case, beta=1.0).loss, case["student_hidden"])
    models = {k: v.expand(6, -1) if "hidden" in k else v for k, v in case.items()}
    tokens = torch.arange(6)
    p = token_log_probs(models["student_hidden"], models["student_weight"], tokens).log_probs
    q = token_log_probs(models["teacher_hidden"], models["teacher_weight"], tokens).log_probs
    advantage = (q - p).detach()
    (grad,) = torch.autograd.grad(-(p.detach().exp() * advantage * p).sum(), case["student_hidden"])
    torch.testing.assert_close(grad, expected)
    out = sampled_token_reverse_kl(**models, tokens=tokens)
    torch.testing.assert_close(out.per_token, -advantage)


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (torch.zeros(3), "tokens must be whole numbers"),
        (torch.zeros(2, dtype=torch.long), "tokens must be whole numbers"),
        (torch.tensor([0, 1, 9]), "must lie in the compared vocabulary"),
    ],
)
def test_bad_tokens_are_refused(tokens, sentence):
    case = make_case((3,), 9, 4, 4)
    with pytest.raises(ValueError, match=sentence):
        token_log_probs(case["student_hidden"], case["student_weight"], tokens)
