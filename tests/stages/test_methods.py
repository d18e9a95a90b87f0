"""The methods that come with the package, and what becomes of one whose loss is none."""

import re
from dataclasses import replace
from functools import partial
from importlib import import_module

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib import losses
from s2d_lib.errors import StudyError
from s2d_lib.losses import Head, Pair, linear_divergence, own_divergence
from s2d_lib.stages.dense import distill
from s2d_lib.study import STAGES

paced, tip = (import_module(f"s2d_lib.methods.{name}") for name in ("paced", "tip"))


def test_tokens_tell_most_where_the_student_is_unsure_or_far_from_its_teacher():
    entropy = torch.tensor([[2.0, 0.1, 0.0], [0.0, 1.0, 0.0]])  # the last of the first row is masked: 0 in both
    apart = torch.tensor([[0.0, 4.0, 0.0], [0.1, 1.0, 0.2]])
    assert tip.telling(entropy, apart, 3).tolist() == [[1, 1, 0], [0, 1, 0]]
    assert tip.telling(entropy, apart, 0).sum() == 1


@given(st.integers(1, 40), st.integers(0, 5))
def test_as_many_tokens_are_chosen_as_asked_for(number, seed):
    values = torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(seed))
    chosen = tip.telling(*values, number)
    assert set(chosen.unique().tolist()) <= {0.0, 1.0}
    assert chosen.sum() == number


def test_weights_take_the_place_of_those_there_were():
    torch.manual_seed(0)
    hidden, teacher, weight = (torch.randn(size, 4, dtype=torch.float64) for size in (6, 6, 9))
    only = {"weights": torch.ones(6), "mask": torch.tensor([1, 1, 1, 1, 0, 0])}
    pair = Pair(hidden, Head(weight), teacher, Head(weight), **only)
    half = linear_divergence(pair.weighted(torch.tensor([2.0, 0.0, 2.0, 0.0, 5.0, 5.0])))
    each = linear_divergence(pair).per_token
    assert half.loss.item() == pytest.approx((2 * each[0] + 2 * each[2]).item() / 4)


def test_problems_weigh_most_at_the_edge_of_what_the_student_can_do():
    account = pd.DataFrame({"problem": [*"aaaabbbbcccc"], "correct": [0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 0]})
    assert paced.edge_weights(account) == pytest.approx({"a": 0.0, "b": 12 / 7, "c": 9 / 7})
    with pytest.raises(StudyError, match="solves none of the problems sometimes"):
        paced.edge_weights(account[account["problem"] == "a"])


@pytest.mark.slow
def test_tip_needs_no_labels_and_paced_resumes_and_says_what_it_spent(make, tiny, ends_in_the_same_bytes):
    assert "label_use" not in make("student.tip.rl_teacher").record
    asked = tiny | {"stages": tiny["stages"] | {"paced": {"pass_rate_samples": 16}}}
    resumed, _ = ends_in_the_same_bytes("student.warm.paced", asked)
    spent = resumed.record
    assert spent["label_use"]["gradings"] == spent["sampled"]["sequences"] == 16 * 16  # problems, samples of each
    assert spent["trained_tokens"] > 0


@pytest.mark.slow
def test_the_divergence_of_the_tutorial_trains_and_is_the_skewed_one(make, root, monkeypatch):
    page = (root / "docs" / "how_to_add_a_method.md").read_text()
    (code,) = re.findall(r"`my_methods/skewed\.py`.*?```python\n(.*?)```", page, re.DOTALL)
    exec(code, method := {"__name__": "skewed"})
    monkeypatch.setitem(STAGES, "tip", replace(method["STAGE"], train=method["train"]))
    asked = []
    monkeypatch.setattr(
        losses, "own_divergence", lambda pair, formula: asked.append(formula) or own_divergence(pair, formula)
    )
    assert make("student.tip.rl_teacher").record["resolved"]["params"]["alpha"] == 0.1
    p, q = torch.rand(2, 5, 9, dtype=torch.float64).softmax(-1)
    expected = (p * (p / (0.9 * q + 0.1 * p)).log()).sum(-1)
    torch.testing.assert_close(asked[0](p.log(), q.log()), expected)


@pytest.mark.slow
def test_a_method_with_its_own_divergence_wants_no_estimator(make, tiny, monkeypatch):
    own = partial(distill, divergence=lambda pair, tokens: linear_divergence(pair))
    monkeypatch.setitem(STAGES, "opd", replace(STAGES["opd"], train=own))
    topk = {"stages": tiny["stages"] | {"opd": tiny["stages"]["opd"] | {"estimator": "topk_tail", "top_k": 4}}}
    with pytest.raises(StudyError, match=r"'student\.opd_only\.rl_teacher' brings a divergence of its own: leave"):
        make("student.opd_only.rl_teacher", overrides=tiny | topk)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda loss: loss * torch.nan, "loss is nan at step 1: lower the learning rate; the checkpoints before this"),
        (torch.Tensor.detach, "the loss of stage 'tip' has no gradient"),
    ],
)
def test_a_loss_that_is_none_ends_in_one_sentence(make, monkeypatch, spoil, sentence):
    def divergence(pair, tokens):
        found = linear_divergence(pair)
        return found._replace(loss=spoil(found.loss))

    spoilt = replace(STAGES["tip"], train=lambda run, inputs: distill(run, inputs, divergence=divergence))
    monkeypatch.setitem(STAGES, "tip", spoilt)
    with pytest.raises(StudyError, match=sentence):
        make("student.tip.rl_teacher")
