"""The fused loss in a trainer's hands: masks, weights, frozen and shared heads, dtypes, autocast."""

import math

import pytest
import torch
from exact import exact_loss, make_case, relative_error, with_grad
from torch.utils.flop_counter import FlopCounterMode

from s2d_lib.losses import divergence, linear_divergence

BETAS = (0.0, 0.5, 1.0)


@pytest.mark.parametrize("beta", BETAS)
def test_masked_tokens_are_never_looked_at(beta):
    case = make_case((3, 4), 20, 5, 6)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]])
    kept = {k: v[mask.bool()] if k.endswith("hidden") else v for k, v in case.items()}
    expected_case = with_grad(kept)
    linear_divergence(**expected_case, beta=beta).loss.backward()
    for who in ("student", "teacher"):
        case[f"{who}_hidden"][~mask.bool()] = math.nan
    case = with_grad(case)
    out = linear_divergence(**case, beta=beta, mask=mask)
    out.loss.backward()
    grad = case["student_hidden"].grad
    assert torch.equal(grad[~mask.bool()], torch.zeros(6, 5))
    torch.testing.assert_close(grad[mask.bool()], expected_case["student_hidden"].grad)
    torch.testing.assert_close(case["student_weight"].grad, expected_case["student_weight"].grad)
    assert torch.equal(out.per_token[~mask.bool()], torch.zeros(6))


@pytest.mark.parametrize(
    ("hidden", "head", "kept", "matmuls"),
    [(True, True, 40, 4), (True, True, 4, 4), (True, False, 40, 3), (False, True, 40, 3), (False, False, 40, 2)],
)
def test_no_matmul_more_than_needed(hidden, head, kept, matmuls):
    # All with the same width, so that the count of operations is a count of head-sized matmuls over the kept tokens
    case = make_case((40,), 30, 16, 16)
    case["student_hidden"].requires_grad_(hidden)
    case["student_weight"].requires_grad_(head)
    with FlopCounterMode(display=False) as counter:
        out = linear_divergence(**case, mask=torch.arange(40) < kept, chunk_size=10)
        if hidden or head:
            out.loss.backward()
    assert counter.get_total_flops() == matmuls * 2 * kept * 30 * 16


def test_frozen_head_and_no_grad():
    case = make_case((9,), 20, 5, 6)
    _, _, _, exact = exact_loss(case, 1.0, {})
    case["student_hidden"].requires_grad_()
    out = linear_divergence(**case)
    out.loss.backward()
    assert case["student_weight"].grad is None
    assert relative_error(case["student_hidden"].grad, exact["student_hidden"]) < 1e-5
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        silent = linear_divergence(**case)
    assert counter.get_total_flops() == 2 * 9 * 20 * (5 + 6)
    assert not silent.loss.requires_grad
    assert silent.loss.item() == out.loss.item()


def test_nothing_flows_to_teacher_or_weights():
    case = {k: v.requires_grad_() for k, v in make_case((9,), 20, 5, 6, bias=True).items()}
    weights = torch.rand(9, requires_grad=True)
    linear_divergence(**case, weights=weights).loss.backward()
    for name, tensor in {**case, "weights": weights}.items():
        assert (tensor.grad is not None) == name.startswith("student"), name


def test_tied_heads_add_their_gradients_up():
    # The student's embedding is its head, and the teacher's too (self-distillation)
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(12, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher_hidden = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    tokens = torch.tensor([0, 3, 3, 7, 11])
    hidden = torch.tanh(embedding[tokens])
    (fused,) = torch.autograd.grad(linear_divergence(hidden, embedding, teacher_hidden, embedding).loss, embedding)
    hidden = torch.tanh(embedding[tokens])
    teacher_logits = teacher_hidden @ embedding.detach().T
    (plain,) = torch.autograd.grad(divergence(hidden @ embedding.T, teacher_logits).mean(), embedding)
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("beta", BETAS)
def test_all_masked_is_exactly_zero(beta):
    case = with_grad(make_case((2, 3), 9, 4, 4, bias=True))
    out = linear_divergence(**case, beta=beta, mask=torch.zeros(2, 3), weights=torch.ones(2, 3))
    out.loss.backward()
    assert out.loss.item() == 0
    assert out.n_tokens.item() == 0
    assert torch.equal(out.per_token, torch.zeros(2, 3))
    assert all(torch.equal(t.grad, torch.zeros_like(t)) for k, t in case.items() if k.startswith("student"))


def test_no_tokens_at_all():
    case = with_grad(make_case((0,), 9, 4, 4))
    out = linear_divergence(**case)
    out.loss.backward()
    assert out.loss.item() == 0
    assert torch.equal(case["student_weight"].grad, torch.zeros(9, 4))


def test_padded_vocabularies_need_vocab_size_and_leave_the_padding_alone():
    case = make_case((7,), (13, 16), 4, 5, bias=True)
    case["student_weight"][11:] = 50.0  # would dominate if it took part
    case["student_bias"][11:] = math.nan
    with pytest.raises(ValueError, match="13 and 16 rows: pass vocab_size"):
        linear_divergence(**case)
    small = {k: v[:11] if "hidden" not in k else v for k, v in case.items()}
    loss, _, _, exact = exact_loss(small, 1.0, {})
    case = with_grad(case)
    for chunk_size in (None, 3):
        for tensor in case.values():
            tensor.grad = None
        out = linear_divergence(**case, vocab_size=11, chunk_size=chunk_size)
        out.loss.backward()
        assert relative_error(out.loss.item(), loss) < 1e-5
        for name in ("student_weight", "student_bias"):
            assert relative_error(case[name].grad[:11], exact[name]) < 1e-5
            assert not case[name].grad[11:].any()


def test_upstream_gradient_multiplies():
    case = make_case((7,), 13, 4, 5)
    once, thrice = with_grad(case), with_grad(case)
    linear_divergence(**once).loss.backward()
    (linear_divergence(**thrice).loss * 3).backward()
    torch.testing.assert_close(thrice["student_weight"].grad, 3 * once["student_weight"].grad)
    torch.testing.assert_close(thrice["student_hidden"].grad, 3 * once["student_hidden"].grad)


def test_gradients_accumulate_and_a_retained_graph_can_be_used_again():
    case = with_grad(make_case((7,), 13, 4, 5))
    leaves = case["student_hidden"], case["student_weight"]
    loss = linear_divergence(**case).loss
    first = [g.clone() for g in torch.autograd.grad(loss, leaves, torch.tensor(2.0), retain_graph=True)]
    loss.backward()
    linear_divergence(**case).loss.backward()
    for leaf, grad in zip(leaves, first, strict=True):
        torch.testing.assert_close(leaf.grad, grad)  # twice the loss, two ways
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()


def test_no_second_derivative():
    case = with_grad(make_case((7,), 13, 4, 5))
    (grad,) = torch.autograd.grad(linear_divergence(**case).loss, case["student_weight"], create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


@pytest.mark.parametrize("beta", BETAS)
def test_normalizer_makes_micro_batches_add_up(beta):
    case = make_case((4, 6), 13, 4, 5)
    mask = torch.ones(4, 6)
    mask[0, 1:] = 0
    weights = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    whole = linear_divergence(**case, beta=beta, mask=mask, weights=weights).loss
    for normalizer in (int(mask.sum()), mask.sum()):
        parts = 0
        for i in range(4):
            part = {k: v[i] if k.endswith("hidden") else v for k, v in case.items()}
            options = {"mask": mask[i], "weights": weights[i], "normalizer": normalizer}
            parts += linear_divergence(**part, beta=beta, **options).loss
        torch.testing.assert_close(parts, whole)
    doubled = linear_divergence(**case, beta=beta, mask=mask, weights=2 * weights).loss
    torch.testing.assert_close(doubled, 2 * whole)


@pytest.mark.parametrize("beta", BETAS)
def test_autocast_computes_from_bf16_inputs_with_fp32_logits(beta):
    case = make_case((30,), 400, 32, 48, bias=True)
    rounded = {k: v.bfloat16() if "bias" not in k else v for k, v in case.items()}
    loss, _, _, exact = exact_loss(rounded, beta, {})
    case = with_grad(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = linear_divergence(**case, beta=beta, chunk_size=16)
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert abs(out.loss.item() - loss) < 1e-5 * loss  # bf16 logits would be far off this
    for name, grad in exact.items():
        assert case[name].grad.dtype == torch.float32
        assert relative_error(case[name].grad, grad) < 5e-3


@pytest.mark.parametrize(
    ("student", "head", "teacher", "tolerance"),
    [
        (torch.bfloat16, torch.float32, torch.bfloat16, 5e-3),  # FSDP mixed precision: a master copy of the head
        (torch.float32, torch.float32, torch.bfloat16, 1e-5),
        (torch.bfloat16, torch.bfloat16, torch.float32, 5e-3),
        (torch.float16, torch.float16, torch.float16, 1e-3),
        (torch.float32, torch.float32, torch.float64, 1e-5),
    ],
)
def test_dtypes_may_differ(student, head, teacher, tolerance):
    case = make_case((10,), 60, 16, 16)
    case = {k: v.to(teacher if k.startswith("teacher") else student) for k, v in case.items()}
    case["student_weight"] = case["student_weight"].to(head)
    loss, _, _, exact = exact_loss(case, 1.0, {})
    case = with_grad(case)
    out = linear_divergence(**case)
    out.loss.backward()
    assert relative_error(out.loss.item(), loss) < 1e-5
    for name, grad in exact.items():
        assert case[name].grad.dtype == case[name].dtype
        assert relative_error(case[name].grad, grad) < tolerance


def test_autocast_to_fp16_stays_in_fp32():
    case = make_case((12,), 60, 16, 16)
    mask = torch.arange(12) % 3 != 0
    loss, _, _, exact = exact_loss(case, 1.0, {"mask": mask})
    case = with_grad(case)
    with torch.autocast("cpu", dtype=torch.float16):
        out = linear_divergence(**case, mask=mask)
    out.loss.backward()
    assert relative_error(out.loss.item(), loss) < 1e-5
    for name, grad in exact.items():
        assert relative_error(case[name].grad, grad) < 1e-5


def test_fp16_gradients_do_not_vanish_before_a_loss_scaler_lifts_them():
    case = make_case((10,), 60, 16, 16, dtype=torch.float16)
    _, _, _, exact = exact_loss(case, 1.0, {})
    case = with_grad(case)
    scale = 1e9  # fp16 ends at 6e-8
    (linear_divergence(**case, normalizer=10 * scale).loss * scale).backward()
    for name, grad in exact.items():
        assert relative_error(case[name].grad, grad) < 1e-3
