"""The fused loss meets forbidden tokens, infinities, NaN and bad arguments."""

import math

import pytest
import torch
from exact import exact_loss, make_case, relative_error, with_grad

from s2d_lib.losses import linear_divergence

BETAS = (0.0, 0.5, 1.0)
INF = math.inf


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("forbidding", [-INF, -1e30])
def test_tokens_that_both_forbid_do_not_exist(beta, forbidding):
    case = make_case((6,), 10, 4, 5, bias=True, dtype=torch.float32)
    allowed = torch.tensor([0, 1, 3, 4, 6, 8])
    small = {k: v[allowed] if "hidden" not in k else v for k, v in case.items()}
    loss, per_token, entropy, exact = exact_loss(small, beta, {})
    for who in ("student", "teacher"):
        bias = torch.full((10,), forbidding)
        bias[allowed] = case[f"{who}_bias"][allowed]
        case[f"{who}_bias"] = bias
    case = with_grad(case)
    out = linear_divergence(**case, beta=beta, chunk_size=4)
    out.loss.backward()
    assert relative_error(out.loss.item(), loss) < 1e-5
    assert relative_error(out.per_token, per_token) < 1e-5
    assert relative_error(out.entropy, entropy) < 1e-5
    for name in ("student_weight", "student_bias"):
        grad = case[name].grad
        assert relative_error(grad[allowed], exact[name]) < 1e-5
        rest = torch.ones(10, dtype=torch.bool).index_fill(0, allowed, False)
        assert torch.equal(grad[rest], torch.zeros_like(grad[rest]))
    assert relative_error(case["student_hidden"].grad, exact["student_hidden"]) < 1e-5


@pytest.mark.parametrize(("who", "beta"), [("student", 1.0), ("teacher", 0.0), ("student", 0.5), ("teacher", 0.5)])
def test_a_token_forbidden_by_the_weighing_model_adds_nothing(who, beta):
    case = make_case((6,), 10, 4, 5, bias=True)
    case[f"{who}_bias"][[2, 5]] = -INF
    forbidden = {k: v.double() for k, v in case.items()}
    forbidden[f"{who}_bias"][[2, 5]] = -90.0  # the same to fp64, and differentiable in the definition
    loss, _, _, exact = exact_loss(forbidden, beta, {})
    case = with_grad(case)
    out = linear_divergence(**case, beta=beta)
    out.loss.backward()
    assert relative_error(out.loss.item(), loss) < 1e-5
    for name, grad in exact.items():
        assert relative_error(case[name].grad, grad) < 1e-5


@pytest.mark.parametrize(("who", "beta"), [("teacher", 1.0), ("student", 0.0)])
def test_mass_where_the_other_has_none_is_honestly_infinite(who, beta):
    case = make_case((3,), 10, 4, 5, bias=True)
    case[f"{who}_bias"][2] = -INF
    out = linear_divergence(**case, beta=beta)
    assert out.loss.item() == INF
    assert torch.equal(out.per_token, torch.full((3,), INF))


@pytest.mark.parametrize("beta", BETAS)
def test_nan_is_not_hidden(beta):
    case = make_case((3,), 10, 4, 5, bias=True)
    case["student_hidden"][1] = math.nan
    out = linear_divergence(**case, beta=beta)
    assert torch.equal(out.per_token.isnan(), torch.tensor([False, True, False]))
    assert out.loss.isnan()


@pytest.mark.parametrize("beta", BETAS)
def test_far_apart_and_very_peaked_models_stay_finite(beta):
    case = with_grad(make_case((8,), 40, 6, 6, spread=300.0))
    out = linear_divergence(**case, beta=beta)
    out.loss.backward()
    assert out.loss.isfinite()
    assert out.loss > 0
    assert case["student_weight"].grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"beta": 1.5}, "beta must be"),
        ({"beta": math.nan}, "beta must be"),
        ({"temperature": 0.0}, "temperature must be"),
        ({"student_softcap": -1.0}, "student_softcap must be"),
        ({"teacher_logit_scale": 0.0}, "teacher_logit_scale must be"),
        ({"normalizer": 0}, "normalizer must be"),
        ({"normalizer": torch.ones(2)}, "normalizer must be one number"),
        ({"chunk_size": 0}, "chunk_size must be"),
        ({"vocab_size": 11}, "vocab_size must be a whole number from 1 to 10"),
        ({"mask": torch.ones(3)}, "mask must have the tokens' shape"),
        ({"weights": torch.ones(4, 1)}, "weights must have the tokens' shape"),
        ({"student_bias": torch.ones(9)}, "student bias must have shape"),
        ({"teacher_hidden": torch.ones(5, 6)}, "must cover the same tokens"),
        ({"teacher_hidden": torch.ones(4, 7)}, "teacher hidden states have width 7"),
        ({"student_weight": torch.ones(10)}, "the head \\(V, H\\)"),
        ({"student_hidden": torch.ones(4, 5, dtype=torch.long)}, "must be floats"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        linear_divergence(**{**make_case((4,), 10, 5, 6), **change})
