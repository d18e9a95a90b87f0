"""Which rollout goes where: every case of SRPO's routing, and its variants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_srpo import plain_siblings

from s2d_lib.losses import route


@st.composite
def batches(draw):
    size = draw(st.integers(2, 5))
    n = size * draw(st.integers(1, 5))
    coins = st.lists(st.booleans(), min_size=n, max_size=n)
    return size, draw(coins), draw(st.none() | coins)


def test_siblings_go_round_and_are_not_always_the_first():
    rewards = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]).flatten()
    routes = route(rewards, 4)
    assert routes.sibling.tolist() == [2, 2, 0, 0] + [-1] * 4 + [9, -1, 9, 9] + [13, 14, 15, 12]
    assert routes.available.tolist() == [True] * 4 + [False] * 4 + [True, False, True, True] + [True] * 4
    assert routes.sdpo.tolist() == [False, True, False, True] + [False] * 4 + [True, False, True, True] + [False] * 4
    assert torch.equal(routes.grpo, ~routes.sdpo)


@given(batches())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_routes_follow_the_formulas(batch):
    size, coins, feedback = batch
    rewards = torch.tensor(coins, dtype=torch.float32)
    said = None if feedback is None else torch.tensor(feedback)
    siblings = plain_siblings(coins, size)
    m = [j >= 0 or bool(feedback and feedback[i]) for i, j in enumerate(siblings)]
    expected = {
        ("grpo", "all"): [False] * len(coins),
        ("sdpo", "all"): m,
        ("sdpo", "failed"): [mi and not c for mi, c in zip(m, coins, strict=True)],
        ("sdpo", "correct"): [mi and c for mi, c in zip(m, coins, strict=True)],
        ("srpo", "all"): [(1 - c) * mi == 1 for mi, c in zip(m, coins, strict=True)],
        ("advantage_mix", "all"): [False] * len(coins),
    }
    for (method, sdpo_on), z in expected.items():
        routes = route(rewards, size, feedback=said, method=method, sdpo_on=sdpo_on)
        assert routes.correct.tolist() == coins
        assert routes.sibling.tolist() == siblings
        assert routes.available.tolist() == m
        assert routes.sdpo.tolist() == z
        assert routes.grpo.tolist() == [method != "sdpo" and not zi for zi in z]
        assert routes.scored.tolist() == (m if method == "advantage_mix" else z)
        for i, j in enumerate(routes.sibling.tolist()):  # said once more, without the rule
            assert j == -1 or (j != i and j // size == i // size and coins[j])


@given(batches())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_srpo_never_distils_a_correct_rollout_nor_an_all_wrong_group(batch):
    size, coins, feedback = batch
    rewards = torch.tensor(coins, dtype=torch.float32)
    with_feedback = route(rewards, size, feedback=None if feedback is None else torch.tensor(feedback))
    assert not (with_feedback.sdpo & with_feedback.correct).any()
    silent = route(rewards, size)
    all_wrong = ~silent.correct.view(-1, size).any(1).repeat_interleave(size)
    assert not (silent.sdpo & all_wrong).any()
    assert torch.equal(silent.sdpo, ~silent.correct & ~all_wrong)


def test_thresholds_ids_and_dtypes():
    scores = torch.tensor([0.2, 0.9, 0.5, 0.4])
    assert route(scores, 2, threshold=0.5).correct.tolist() == [False, True, True, False]
    expected = route(torch.tensor([0.0, 1, 1, 0]), 2)
    for rewards in (torch.tensor([0, 1, 1, 0]), torch.tensor([False, True, True, False])):
        for grouping in ({"group_size": 2}, {"group_ids": torch.tensor([7, 7, 3, 3])}):
            for value, wanted in zip(route(rewards, **grouping), expected, strict=True):
                assert torch.equal(value, wanted)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rewards": torch.tensor([0, 0.5, 1, 1])}, "pass a threshold"),
        ({"rewards": torch.tensor([0, -1.0, 1, 1])}, "pass a threshold"),
        ({"rewards": torch.tensor([0, torch.nan, 1, 1]), "threshold": 0.5}, "rewards must be finite"),
        ({"rewards": torch.zeros(2, 2)}, r"rewards must have shape \(N,\)"),
        ({"rewards": torch.zeros(0)}, r"rewards must have shape \(N,\)"),
        ({"group_size": 1}, "2 rollouts or more"),
        ({"group_size": 3}, "4 rollouts are not whole groups of 3"),
        ({"group_size": None}, "pass group_size or group_ids"),
        ({"group_ids": torch.tensor([1, 2, 1, 2])}, "a group is split"),
        ({"group_ids": torch.tensor([1, 1, 1, 2])}, "groups must have one size, got from 1 to 3"),
        ({"group_ids": torch.tensor([1, 1, 1, 1])}, "make groups of 4, but group_size is 2"),
        ({"group_ids": torch.tensor([1, 2, 3, 4]), "group_size": None}, "2 rollouts or more"),
        ({"group_ids": torch.tensor([1, 1])}, "group_ids must have"),
        ({"feedback": torch.ones(3)}, "feedback must have"),
        ({"method": "ppo"}, "method must be one of"),
        ({"method": "sdpo", "sdpo_on": "some"}, "sdpo_on must be one of"),
        ({"method": "srpo", "sdpo_on": "correct"}, "is a control of SDPO"),
    ],
)
def test_bad_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        route(**{"rewards": torch.tensor([0.0, 1, 1, 0]), "group_size": 2, **change})
