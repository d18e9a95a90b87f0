"""The fused loss is exact: against fp64 definitions, finite differences and TRL."""

import pytest
import torch
from exact import exact_loss, make_case, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.losses import divergence, linear_divergence

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def run(case, beta, options, upstream=1.0):
    """The loss and its gradients by the names of the case's student tensors."""
    case = {k: v.detach().clone() for k, v in case.items()}
    leaves = {k: case[k].requires_grad_() for k in case if k.startswith("student")}
    out = linear_divergence(beta=beta, **case, **options)
    (out.loss * upstream).backward()
    return out, {k: v.grad for k, v in leaves.items()}


def assert_exact(case, beta, options, tolerance, absolute=0.0):
    out, grads = run(case, beta, options)
    loss, per_token, entropy, exact_grads = exact_loss(
        case, beta, {k: v for k, v in options.items() if k != "chunk_size"}
    )
    assert abs(out.loss.item() - loss) <= tolerance * abs(loss) + absolute
    assert (out.per_token - per_token).norm() <= tolerance * per_token.norm() + absolute
    assert (out.entropy - entropy).norm() <= tolerance * entropy.norm() + absolute
    for name, exact in exact_grads.items():
        assert grads[name].dtype == case[name].dtype
        assert (grads[name] - exact).norm() <= tolerance * exact.norm() + absolute, name
    return out, grads


@st.composite
def problems(draw):
    shape = draw(st.sampled_from([(1,), (7,), (2, 5), (3, 1, 4)]))
    vocab = draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    case = make_case(
        shape,
        vocab,
        draw(st.integers(1, 9)),
        draw(st.integers(1, 9)),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 999)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    options = {"vocab_size": draw(st.integers(2, min(vocab))), "temperature": draw(st.sampled_from([0.5, 1.0, 1.7]))}
    options["chunk_size"] = draw(st.sampled_from([None, 1, 3]))
    if draw(st.booleans()):
        options["mask"] = torch.rand(shape, generator=generator) < 0.6
    if draw(st.booleans()):
        options["weights"] = 2 * torch.rand(shape, generator=generator)
    if draw(st.booleans()):
        options |= {"student_softcap": 3.0, "student_logit_scale": 0.7}
    if draw(st.booleans()):
        options |= {"teacher_softcap": 5.0, "teacher_logit_scale": 1.3}
    if draw(st.booleans()):
        options["normalizer"] = 11
    return case, options


@given(problems(), st.sampled_from(BETAS))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_equals_its_definition_in_fp64(problem, beta):
    assert_exact(*(problem[0], beta, problem[1]), tolerance=1e-5, absolute=1e-6)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("chunk_size", [None, 17])
def test_fp32_is_within_1e_5_at_a_real_width(beta, chunk_size):
    # 3 chunks of which the last is shorter, and a vocabulary of more than one piece and block
    case = make_case((50,), 3000, 64, 96, bias=True)
    assert_exact(case, beta, {"chunk_size": chunk_size}, tolerance=1e-5)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("chunk_size", [None, 17])
def test_bf16_inputs_are_within_5e_3(beta, chunk_size):
    case = make_case((50,), 3000, 64, 96, bias=True, dtype=torch.bfloat16)
    out, _ = assert_exact(case, beta, {"chunk_size": chunk_size}, tolerance=5e-3)
    assert out.loss.dtype == torch.float32


@pytest.mark.parametrize("beta", BETAS)
def test_bf16_gradient_survives_when_the_models_are_close(beta):
    # Logits rounded to bf16 would be off by tens of percent here
    case = make_case((40,), 500, 64, 64, dtype=torch.bfloat16)
    case["teacher_hidden"] = (case["student_hidden"].float() + 0.02 * torch.randn(40, 64)).bfloat16()
    case["teacher_weight"] = case["student_weight"]
    assert_exact(case, beta, {}, tolerance=5e-3)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("softcap", "padding"), [(None, 0), (2.5, 2)])
def test_gradcheck(beta, softcap, padding):
    case = make_case((6,), 7 + padding, 3, 4, bias=True, dtype=torch.float64)
    leaves = [case[k].requires_grad_() for k in ("student_hidden", "student_weight", "student_bias")]
    options = {"mask": torch.tensor([1, 1, 0, 1, 1, 1]), "weights": torch.rand(6), "vocab_size": 7, "chunk_size": 2}
    options |= {"temperature": 1.3, "student_softcap": softcap, "teacher_bias": case["teacher_bias"]}

    def loss(hidden, weight, bias):
        teacher = case["teacher_hidden"], case["teacher_weight"]
        return linear_divergence(hidden, weight, *teacher, beta, student_bias=bias, **options).loss

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("capped", [False, True])
def test_agrees_with_trl(beta, capped):
    trl = pytest.importorskip("trl.kernels.chunked_divergence")
    case = make_case((30,), 200, 16, 24, bias=True)
    options = {"temperature": 0.8, "student_logit_scale": 0.5, "teacher_logit_scale": 2.0}
    if capped:
        options |= {"student_softcap": 4.0, "teacher_softcap": 6.0}
    out, grads = run(case, beta, options)

    case = {k: v.requires_grad_() if k.startswith("student") else v for k, v in case.items()}
    sides = [case[f"{who}_{what}"] for who in ("student", "teacher") for what in ("hidden", "weight", "bias")]
    per_token, entropy = trl.ChunkedDivergenceFunction.apply(
        *sides, beta, 0.8, 0.5, options.get("student_softcap"), 2.0, options.get("teacher_softcap")
    )
    per_token.mean().backward()
    assert relative_error(out.per_token, per_token.detach()) < 1e-5
    assert relative_error(out.entropy, entropy) < 1e-5
    for name, grad in grads.items():
        assert relative_error(grad, case[name].grad) < 1e-5


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_does_not_depend_on_the_chunk_size(beta, dtype, tolerance):
    case = make_case((37,), 300, 16, 24, dtype=dtype)
    mask = torch.arange(37) % 5 != 0
    out, grads = run(case, beta, {"chunk_size": 37, "mask": mask})
    for chunk_size in (1, 4, 36, 1000):
        other, other_grads = run(case, beta, {"chunk_size": chunk_size, "mask": mask})
        assert relative_error(other.loss.detach(), out.loss.detach()) < tolerance
        for name in grads:
            assert relative_error(other_grads[name], grads[name]) < tolerance


def test_metrics_are_those_of_the_logits():
    case = make_case((4, 9), 30, 8, 12)
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.7
    out = linear_divergence(**case, mask=mask)
    student = (case["student_hidden"] @ case["student_weight"].T).log_softmax(-1)
    teacher = case["teacher_hidden"] @ case["teacher_weight"].T
    torch.testing.assert_close(out.entropy, -(student.exp() * student).sum(-1) * mask, rtol=1e-5, atol=1e-6)
    assert torch.equal(out.agreement, (student.argmax(-1) == teacher.argmax(-1)) & mask)
    assert out.n_tokens.item() == mask.sum()
    assert out.agreement_sum.item() == out.agreement.sum()
    torch.testing.assert_close(out.entropy_sum, out.entropy.sum())
    assert out[0] is out.loss
    assert out.loss.shape == ()
    assert not any(t.requires_grad for t in out[1:])


def test_equal_models_have_zero_loss_and_gradient():
    case = make_case((8,), 50, 6, 6)
    case |= {"teacher_hidden": case["student_hidden"], "teacher_weight": case["student_weight"]}
    for beta in BETAS:
        out, grads = run(case, beta, {})
        assert out.agreement.all()
        assert abs(out.loss.item()) < 1e-6
        assert max(g.abs().max() for g in grads.values()) < 1e-6


@given(st.sampled_from(BETAS), st.integers(0, 99))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_readable_divergence_equals_the_fused_one(beta, seed):
    case = make_case((5,), 12, 4, 4, dtype=torch.float64, seed=seed)
    logits = [case[f"{who}_hidden"] @ case[f"{who}_weight"].T for who in ("student", "teacher")]
    torch.testing.assert_close(divergence(*logits, beta), linear_divergence(**case, beta=beta).per_token)
    torch.testing.assert_close(divergence(*logits, beta), exact_loss(case, beta, {})[1])
