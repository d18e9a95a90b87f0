"""The fused loss is exact: against fp64 definitions, finite differences; masked, forbidden, infinite, in any dtype."""

import functools
import math

import pytest
import torch
from cases import forbid, loss_and_grads, make_case, pair, relative_error
from exact import exact_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from s2d_lib.losses import divergence, linear_divergence

BETAS = (0.0, 0.5, 1.0)
INF = math.inf


def fused(case, beta, **options):
    return loss_and_grads(functools.partial(linear_divergence, beta=beta), case, **options)


def assert_exact(case, options, beta, tolerance, absolute=1e-14):
    out, grads = fused(case, beta, **options)
    exact = exact_loss(case, beta, {k: v for k, v in options.items() if k != "chunk_size"})
    loss, per_token, entropy, exact_grads = exact
    assert abs(out.loss.item() - loss) <= tolerance * abs(loss) + absolute
    assert (out.per_token - per_token).norm() <= tolerance * per_token.norm() + absolute
    assert (out.entropy - entropy).norm() <= tolerance * entropy.norm() + absolute
    for name, expected in exact_grads.items():
        assert grads[name].dtype == case[name].dtype
        assert (grads[name] - expected).norm() <= tolerance * expected.norm() + absolute, name
    return out


@st.composite
def problems(draw):
    shape, widths = draw(st.sampled_from([(1,), (7,), (2, 5), (3, 1, 4)])), draw(st.tuples(*[st.integers(1, 9)] * 2))
    seed, coin = draw(st.integers(0, 999)), functools.partial(draw, st.booleans())
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    case = make_case(shape, draw(st.integers(2, 40)), *widths, bias=coin(), dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    options = {"temperature": draw(st.sampled_from([0.5, 1.0, 1.7])), "chunk_size": draw(st.sampled_from([None, 1, 3]))}
    if coin():
        options["mask"] = torch.rand(shape, generator=generator) < 0.6
    if coin():
        options["weights"] = 2 * torch.rand(shape, generator=generator)
    if coin():
        options["student"] = {"softcap": 3.0, "scale": 0.7}
    if coin():
        options["teacher"] = {"softcap": 5.0, "scale": 1.3}
    if coin():
        options["normalizer"] = draw(st.sampled_from([11, torch.tensor(5)]))
    return case, options


@given(problems(), st.sampled_from((*BETAS, 0.1, 0.9)))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_equals_its_definition_in_fp64(problem, beta):
    single = problem[0]["student_hidden"].dtype == torch.float32
    assert_exact(*problem, beta, **({"tolerance": 1e-5, "absolute": 1e-6} if single else {"tolerance": 1e-11}))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("chunk_size", [None, 17])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
def test_a_real_width(beta, chunk_size, dtype, tolerance):
    # 3 chunks of which the last is shorter, and a vocabulary of more than one piece and block
    case = make_case((50,), 3000, 64, 96, bias=True, dtype=dtype)
    assert assert_exact(case, {"chunk_size": chunk_size}, beta, tolerance).loss.dtype == torch.float32


@pytest.mark.parametrize("beta", BETAS)
def test_the_readable_divergence_and_the_agreement_are_those_of_the_logits(beta):
    case = make_case((200,), 5, 4, 4, dtype=torch.float64)
    logits = [case[f"{who}_hidden"] @ case[f"{who}_weight"].T for who in ("student", "teacher")]
    torch.testing.assert_close(divergence(*logits, beta), exact_loss(case, beta)[1])
    agreement = linear_divergence(pair(case), beta).agreement
    assert torch.equal(agreement, logits[0].argmax(-1) == logits[1].argmax(-1))
    assert 20 < agreement.sum() < 180


@pytest.mark.parametrize("beta", BETAS)
def test_masked_tokens_are_never_looked_at(beta):
    case, mask = make_case((3, 4), 20, 5, 6), torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]])
    kept, away = {k: v[mask.bool()] if k.endswith("hidden") else v for k, v in case.items()}, ~mask.bool()
    _, expected = fused(kept, beta)
    case["student_hidden"][away], case["teacher_hidden"][away] = math.nan, math.nan
    out, grads = fused(case, beta, mask=mask)
    assert torch.equal(grads["student_hidden"][away], torch.zeros(6, 5))
    torch.testing.assert_close(grads["student_hidden"][~away], expected["student_hidden"])
    torch.testing.assert_close(grads["student_weight"], expected["student_weight"])
    assert not any(values[away].any() for values in out[1:])


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("shape", "mask"), [((2, 3), torch.zeros(2, 3)), ((0,), None)])
def test_no_tokens_are_exactly_zero(beta, shape, mask):
    out, grads = fused(make_case(shape, 9, 4, 4, bias=True), beta, mask=mask, weights=torch.ones(shape))
    assert out.loss.item() == 0
    assert torch.equal(out.per_token, torch.zeros(shape))
    assert not any(grad.any() for grad in grads.values())


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
        out = linear_divergence(pair(case, mask=torch.arange(40) < kept, chunk_size=10))
        if hidden or head:
            out.loss.backward()
    assert counter.get_total_flops() == matmuls * 2 * kept * 30 * 16
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert not linear_divergence(pair(case)).loss.requires_grad
    assert counter.get_total_flops() == 2 * 2 * 40 * 30 * 16


def test_nothing_flows_to_teacher_or_weights():
    case = {k: v.requires_grad_() for k, v in make_case((9,), 20, 5, 6, bias=True).items()}
    weights = torch.rand(9, requires_grad=True)
    linear_divergence(pair(case, weights=weights)).loss.backward()
    assert {name for name, tensor in case.items() if tensor.grad is not None} == {k for k in case if "student" in k}
    assert weights.grad is None


def test_upstream_gradients_multiply_and_a_retained_graph_can_be_used_again():
    case = {k: v.requires_grad_(k.startswith("student")) for k, v in make_case((7,), 13, 4, 5).items()}
    leaves = [case["student_hidden"], case["student_weight"]]
    once = torch.autograd.grad(linear_divergence(pair(case)).loss, leaves)
    loss = linear_divergence(pair(case)).loss
    first = [g.clone() for g in torch.autograd.grad(loss, leaves, torch.tensor(3.0), retain_graph=True)]
    (loss * 3).backward()
    for leaf, grad, of_one in zip(leaves, first, once, strict=True):
        torch.testing.assert_close(leaf.grad, grad)
        torch.testing.assert_close(grad, 3 * of_one)
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()
    (grad,) = torch.autograd.grad(linear_divergence(pair(case)).loss, leaves[1], create_graph=True)
    with pytest.raises(RuntimeError):  # no second derivative
        grad.sum().backward()


@pytest.mark.parametrize(
    ("student", "head", "teacher", "autocast", "tolerance"),
    [
        (torch.bfloat16, torch.float32, torch.bfloat16, None, 5e-3),  # FSDP mixed precision: a master copy of the head
        (torch.float32, torch.float32, torch.bfloat16, None, 1e-5),
        (torch.bfloat16, torch.bfloat16, torch.float32, None, 5e-3),
        (torch.float16, torch.float16, torch.float16, None, 1e-3),
        (torch.float32, torch.float32, torch.float64, None, 1e-5),
        (torch.float32, torch.float32, torch.float32, torch.bfloat16, 5e-3),
        (torch.float32, torch.float32, torch.float32, torch.float16, 1e-5),
    ],
)
def test_dtypes_may_differ_and_logits_are_fp32(student, head, teacher, autocast, tolerance):
    case = make_case((30,), 400, 32, 48)
    case = {k: v.to(teacher if k.startswith("teacher") else student) for k, v in case.items()}
    case["student_weight"] = case["student_weight"].to(head)
    read = case if autocast != torch.bfloat16 else {k: v.bfloat16() for k, v in case.items()}
    loss, _, _, exact = exact_loss(read, 1.0)
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        out, grads = fused(case, 1.0, chunk_size=16)
    assert out.loss.dtype == (torch.float64 if teacher == torch.float64 else torch.float32)
    assert relative_error(out.loss.item(), loss) < 1e-5  # bf16 logits would be far off this
    for name, grad in exact.items():
        assert grads[name].dtype == case[name].dtype
        assert relative_error(grads[name], grad) < tolerance


def test_fp16_gradients_do_not_vanish_before_a_loss_scaler_lifts_them():
    case, scale = make_case((10,), 60, 16, 16, dtype=torch.float16), 1e9  # fp16 ends at 6e-8
    _, grads = fused(case, 1.0, normalizer=10 * scale, upstream=scale)
    assert all(relative_error(grads[name], grad) < 1e-3 for name, grad in exact_loss(case, 1.0)[3].items())


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("forbidding", [-INF, -1e30])
def test_tokens_that_both_forbid_do_not_exist(beta, forbidding):
    case, allowed = make_case((6,), 10, 4, 5, bias=True), torch.tensor([0, 1, 3, 4, 6, 8])
    loss, per_token, entropy, exact = exact_loss({k: v if "hidden" in k else v[allowed] for k, v in case.items()}, beta)
    out, grads = fused(forbid(case, allowed, forbidding), beta, chunk_size=4)
    for name in ("student_weight", "student_bias"):
        padded = torch.zeros_like(case[name], dtype=torch.float64).index_copy(0, allowed, exact[name])
        assert not grads[name][padded == 0].any()
        assert relative_error(grads[name], padded) < 1e-5
    pairs = (out.loss.item(), loss), (out.per_token, per_token), (out.entropy, entropy)
    for found, expected in (*pairs, (grads["student_hidden"], exact["student_hidden"])):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize(("who", "beta"), [("student", 1.0), ("teacher", 0.0), ("student", 0.5), ("teacher", 0.5)])
def test_a_token_forbidden_by_the_weighing_model_adds_nothing(who, beta):
    case = make_case((6,), 10, 4, 5, bias=True)
    forbidden = {k: v.double() for k, v in case.items()}
    forbidden[f"{who}_bias"][[2, 5]] = -90.0  # the same to fp64, and differentiable in the definition
    loss, _, _, exact = exact_loss(forbidden, beta)
    case[f"{who}_bias"][[2, 5]] = -INF
    out, grads = fused(case, beta)
    assert relative_error(out.loss.item(), loss) < 1e-5
    assert all(relative_error(grads[name], grad) < 1e-5 for name, grad in exact.items())


@pytest.mark.parametrize(("who", "beta"), [("teacher", 1.0), ("student", 0.0)])
def test_mass_where_the_other_has_none_is_honestly_infinite(who, beta):
    case = make_case((3,), 10, 4, 5, bias=True)
    case[f"{who}_bias"][2] = -INF
    out = linear_divergence(pair(case), beta)
    assert out.loss.item() == INF
    assert torch.equal(out.per_token, torch.full((3,), INF))


@pytest.mark.parametrize("beta", BETAS)
def test_nan_is_not_hidden_and_far_apart_models_stay_finite(beta):
    case = make_case((3,), 10, 4, 5, bias=True)
    case["student_hidden"][1] = math.nan
    out = linear_divergence(pair(case), beta)
    assert torch.equal(out.per_token.isnan(), torch.tensor([False, True, False]))
    assert out.loss.isnan()
    out, grads = fused(make_case((8,), 40, 6, 6, spread=300.0), beta)
    assert 0 < out.loss < INF
    assert grads["student_weight"].isfinite().all()


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        ({}, {"temperature": 0.0}, "temperature must be"),
        ({}, {"student": {"softcap": -1.0}}, "student softcap must be"),
        ({}, {"teacher": {"scale": 0.0}}, "teacher scale must be"),
        ({}, {"normalizer": 0}, "normalizer must be"),
        ({}, {"mask": torch.ones(3)}, "mask must have the tokens' shape"),
        ({"student_bias": torch.ones(9)}, {}, "student bias must have shape"),
        ({"teacher_hidden": torch.ones(5, 6)}, {}, "must cover the same tokens"),
        ({"teacher_hidden": torch.ones(4, 7)}, {}, r"teacher hidden states must be .* got \(4, 7\) and \(10, 6\)"),
        ({"student_weight": torch.ones(9, 5)}, {}, "the heads have 9 and 10 rows"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(change, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        pair(make_case((4,), 10, 5, 6) | change, **options)


@pytest.mark.parametrize("beta", [1.5, -0.1, math.nan, "1"])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be"):
        linear_divergence(pair(make_case((4,), 10, 5, 6)), beta)
    with pytest.raises(ValueError, match="beta must be"):
        divergence(torch.zeros(2), torch.zeros(2), beta)
