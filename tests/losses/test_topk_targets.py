"""Forward KL from the teacher's kept top tokens: the same numbers as with the teacher at hand."""

import math

import pytest
import torch
from exact import exact_divergence, make_case, with_grad
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from s2d_lib.losses import linear_divergence, topk_tail_divergence, topk_targets, topk_targets_forward_kl

OPTIONS = {"temperature": 1.4, "student_softcap": 4.0, "student_logit_scale": 1.3}


def kept_of(case, top_k, temperature=1.0, **teacher):
    """The case with its teacher replaced by its kept targets."""
    bias = case.get("teacher_bias")
    tokens, log_probs = topk_targets(
        case["teacher_hidden"], case["teacher_weight"], top_k, temperature, bias=bias, **teacher
    )
    student = {k: v for k, v in case.items() if k.startswith("student")}
    return student | {"teacher_tokens": tokens, "teacher_log_probs": log_probs}


def loss_and_grads(function, case, **options):
    case = with_grad(case)
    out = function(**case, **options)
    return out, torch.autograd.grad(out.loss, [v for k, v in case.items() if k.startswith("student")])


def assert_same(found, expected, **tolerance):
    for value, other in zip((*found[0], *found[1]), (*expected[0], *expected[1]), strict=True):
        torch.testing.assert_close(value, other, **tolerance)


def test_a_teacher_of_four_tokens_by_hand():
    q = torch.tensor([[0.5, 0.1, 0.3, 0.1]], dtype=torch.float64)
    tokens, log_probs = topk_targets(torch.ones(1, 1, dtype=torch.float64), q.log().T, 2)
    assert tokens.tolist() == [[0, 2]]
    torch.testing.assert_close(log_probs.exp(), torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64))
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    logits = p.log()[None].requires_grad_()
    out = topk_targets_forward_kl(logits, torch.eye(4, dtype=torch.float64), tokens, log_probs)
    assert out.loss.item() == pytest.approx(0.5 * math.log(5 / 4) + 0.3 * math.log(3 / 2) + 0.2 * math.log(2 / 4))
    (gradient,) = torch.autograd.grad(out.loss, logits)
    # Kept: p - q. The others, 0.3 and 0.1 of the student's tail of 0.4, share the teacher's 0.2 as 0.15 and 0.05.
    torch.testing.assert_close(gradient, torch.tensor([[-0.1, 0.15, -0.1, 0.05]], dtype=torch.float64))
    assert out.agreement.tolist() == [True]


@given(st.integers(0, 999), st.integers(1, 11), st.sampled_from([None, 2]), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_same_as_with_the_teacher_at_hand(seed, top_k, chunk_size, bias):
    case = make_case((2, 4), 9, 3, 4, bias=bias, dtype=torch.float64, seed=seed)
    shared = {"mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]), "weights": torch.rand(2, 4), "normalizer": 7.0}
    shared |= {"chunk_size": chunk_size, **OPTIONS}
    teacher = {"teacher_logit_scale": 1.5, "teacher_softcap": 3.0}
    expected = loss_and_grads(
        topk_tail_divergence, case, beta=0.0, top_k=top_k, top_k_of="teacher", **shared, **teacher
    )
    kept = kept_of(case, top_k, OPTIONS["temperature"], logit_scale=1.5, softcap=3.0, chunk_size=chunk_size)
    assert_same(loss_and_grads(topk_targets_forward_kl, kept, **shared), expected)


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_more_kept_tokens_never_lower_it_up_to_the_full_divergence(seed):
    case = make_case((5,), 8, 3, 3, dtype=torch.float64, seed=seed)
    last = 0.0
    for top_k in range(1, 9):
        out, grads = loss_and_grads(topk_targets_forward_kl, kept_of(case, top_k))
        assert (out.per_token >= last - 1e-12).all()
        last = out.per_token
    assert_same((out, grads), loss_and_grads(linear_divergence, case, beta=0.0))


@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_gradcheck(top_k):
    case = kept_of(make_case((5,), 8, 3, 4, bias=True, dtype=torch.float64), top_k)
    leaves = [case.pop(k).requires_grad_() for k in ("student_hidden", "student_weight", "student_bias")]

    def loss(hidden, weight, bias):
        student = {"student_hidden": hidden, "student_weight": weight, "student_bias": bias}
        return topk_targets_forward_kl(**student, **case, chunk_size=2, **OPTIONS).loss

    assert torch.autograd.gradcheck(loss, leaves)


def test_the_divergence_is_that_of_k_plus_one_outcomes():
    case = make_case((6,), 10, 4, 5, dtype=torch.float64)
    kept = kept_of(case, 3)
    p = (case["student_hidden"] @ case["student_weight"].T).softmax(-1)
    chosen = p.gather(-1, kept["teacher_tokens"])
    outcomes = torch.cat([chosen, 1 - chosen.sum(-1, keepdim=True)], -1)
    out = topk_targets_forward_kl(**kept)
    torch.testing.assert_close(out.per_token, exact_divergence(outcomes, kept["teacher_log_probs"].exp(), 0.0))
    torch.testing.assert_close(out.entropy, -torch.xlogy(p, p).sum(-1))


def test_never_negative_in_fp32_and_zero_for_equal_models():
    case = make_case((64,), 50, 6, 6)
    case |= {"teacher_hidden": case["student_hidden"], "teacher_weight": case["student_weight"]}
    for top_k in (1, 5, 50):
        out, grads = loss_and_grads(topk_targets_forward_kl, kept_of(case, top_k))
        assert (out.per_token >= 0).all()
        assert out.loss < 1e-6
        assert max(g.abs().max() for g in grads) < 1e-6


def test_a_student_far_from_every_tail_token_keeps_a_finite_gradient():
    # All that is not kept has e^-200 under the student: its probability underflows, its logarithm does not.
    logits = torch.tensor([[0.0, -200.0, -201.0]], requires_grad=True)
    log_q = torch.tensor([[0.5, 0.5]]).log()
    out = topk_targets_forward_kl(logits, torch.eye(3), torch.tensor([[0]]), log_q)
    tail = -200 + math.log1p(math.exp(-1))
    assert out.loss.item() == pytest.approx(math.log(0.5) - 0.5 * tail)
    (gradient,) = torch.autograd.grad(out.loss, logits)
    share = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -0.5 * share, -0.5 * (1 - share)]]))


@pytest.mark.parametrize("top_k", [1, 2, 4, 10])
def test_forbidden_tokens_do_not_exist(top_k):
    case = make_case((5,), 10, 4, 4, bias=True, dtype=torch.float64)
    allowed = torch.tensor([1, 4])
    for who in ("student", "teacher"):
        bias = torch.full((10,), -math.inf, dtype=torch.float64)
        bias[allowed] = case[f"{who}_bias"][allowed]
        case[f"{who}_bias"] = bias
    full = loss_and_grads(linear_divergence, case, beta=0.0)
    assert_same(loss_and_grads(topk_targets_forward_kl, kept_of(case, top_k)), full)


def test_masked_tokens_are_never_looked_at():
    kept = kept_of(make_case((3,), 9, 4, 4), 2)
    mask = torch.tensor([1, 0, 1])
    broken = {k: v.clone() for k, v in kept.items()}
    broken["student_hidden"][1], broken["teacher_log_probs"][1], broken["teacher_tokens"][1] = math.nan, math.nan, -100
    expected = loss_and_grads(topk_targets_forward_kl, kept, mask=mask)
    assert_same(loss_and_grads(topk_targets_forward_kl, broken, mask=mask), expected, rtol=0, atol=0)
    out, grads = loss_and_grads(topk_targets_forward_kl, broken, mask=torch.zeros(3))
    assert out.loss.item() == 0
    assert not any(g.any() for g in grads)


def test_bf16_and_autocast_agree_with_fp32_from_the_same_inputs():
    case = kept_of(make_case((20,), 60, 16, 16, dtype=torch.bfloat16), 8)
    wide = {k: v if k == "teacher_tokens" else v.float() for k, v in case.items()}
    expected, expected_grads = loss_and_grads(topk_targets_forward_kl, wide, chunk_size=6)
    narrow = loss_and_grads(topk_targets_forward_kl, case, chunk_size=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss_and_grads(topk_targets_forward_kl, wide, chunk_size=6)
    for out, grads in (narrow, cast):
        torch.testing.assert_close(out.loss, expected.loss, rtol=1e-5, atol=1e-6)
        for grad, other in zip(grads, expected_grads, strict=True):
            assert (grad.float() - other).norm() < 5e-3 * other.norm()


def test_three_matmuls_and_one_without_gradients():
    kept = with_grad(kept_of(make_case((40,), 30, 16, 16), 4))
    with FlopCounterMode(display=False) as counter:
        topk_targets_forward_kl(**kept, mask=torch.arange(40) < 30, chunk_size=10).loss.backward()
    assert counter.get_total_flops() == 3 * 2 * 30 * 30 * 16
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert not topk_targets_forward_kl(**kept).loss.requires_grad
    assert counter.get_total_flops() == 2 * 40 * 30 * 16


def test_padded_rows_of_the_students_head_get_no_gradient():
    kept = kept_of(make_case((4,), (12, 9), 5, 5), 3)
    out, (_, of_weight) = loss_and_grads(topk_targets_forward_kl, kept, vocab_size=9)
    cut = kept | {"student_weight": kept["student_weight"][:9]}
    torch.testing.assert_close(out.loss, topk_targets_forward_kl(**cut).loss)
    assert of_weight[:9].any()
    assert not of_weight[9:].any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"teacher_tokens": torch.zeros(3, 2)}, "teacher_tokens must be whole numbers"),
        ({"teacher_tokens": torch.zeros(3, dtype=torch.long)}, "teacher_tokens must be whole numbers"),
        ({"teacher_tokens": torch.full((3, 2), 12)}, "must lie in the compared vocabulary"),
        ({"teacher_log_probs": torch.zeros(3, 2)}, "teacher_log_probs must have shape"),
        ({"temperature": 0}, "temperature must be"),
        ({"mask": torch.ones(2)}, "mask must have"),
        ({"student_weight": torch.ones(12, 3)}, "student hidden states have width 4"),
    ],
)
def test_bad_arguments_are_refused(change, sentence):
    case = make_case((3,), 12, 4, 6)
    with pytest.raises(ValueError, match=sentence):
        topk_targets_forward_kl(**kept_of(case, 2) | change)
    with pytest.raises(ValueError, match="top_k must be"):
        topk_targets(case["teacher_hidden"], case["teacher_weight"], 0)
