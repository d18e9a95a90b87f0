"""The whole objective: against loops and finite differences, and however the batch is cut."""

import copy
import itertools

import pytest
import torch
from exact import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from srpo_step import SIZE, make_batch, plain_step, step

from s2d_lib.losses import routed_masks, srpo_objective

METHODS = ("grpo", "sdpo", "srpo", "advantage_mix")
MIXED = [1, 0, 0, 1] + [0, 0, 0, 0] + [0, 1, 0, 0] + [1, 1, 1, 1]  # noqa: RUF005 (groups)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("beta", "scale", "top_k"), [(1.0, "group", 3), (0.0, "none", None), (2.5, "batch", 1)])
def test_objective_is_the_formula(method, beta, scale, top_k):
    batch = make_batch(MIXED)
    settings = {"method": method, "beta": beta, "scale": scale, "top_k": top_k}
    losses, _ = step(batch, **settings)
    assert losses.item() == pytest.approx(plain_step(batch, **settings), rel=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_finite_differences(method):
    batch = make_batch([0, 1, 0, 0], longest=3)
    batch["sampled"] += 0.01  # no ratio near a limit by accident: a corner has no derivative
    _, (of_hidden, of_weight) = step(batch, method)
    h = 1e-6

    def moved(name, *where):
        values = []
        for sign in (1, -1):
            changed = copy.deepcopy(batch[name].tolist())
            inner = changed
            for place in where[:-1]:
                inner = inner[place]
            inner[where[-1]] += sign * h
            values.append(plain_step(batch, method, **{name: changed}))
        return (values[0] - values[1]) / (2 * h)

    for b, t in batch["mask"].nonzero().tolist():
        assert of_hidden[b, t, 1].item() == pytest.approx(moved("hidden", b, t, 1), rel=1e-6, abs=1e-9)
    for v in range(6):
        assert of_weight[v, 2].item() == pytest.approx(moved("weight", v, 2), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_add_up_with_one_denominator(method):
    batch = make_batch(MIXED, longest=12, width=8, vocab=40, dtype=torch.float32)
    whole, gradients = step(batch, method)
    for cuts in ([0, 3, 16], [0, 1, 2, 5, 6, 9, 12, 13, 16]):  # groups are cut, too: routing came before
        tokens = {int(batch["mask"][a:b].sum()) for a, b in itertools.pairwise(cuts)}
        assert len(tokens) > 1
        parts, of_parts = step(batch, method, cuts)
        assert parts.sum().item() == pytest.approx(whole.item(), rel=1e-6)
        for gradient, expected in zip(of_parts, gradients, strict=True):
            assert relative_error(gradient, expected) < 1e-6
        # The known mistake, a mean per micro-batch, follows another gradient
        _, of_wrong = step(batch, method, cuts, own_denominator=True)
        for gradient, expected in zip(of_wrong, gradients, strict=True):
            assert relative_error(gradient, expected) > 0.1


def test_a_mean_per_micro_batch_is_wrong_by_as_much_as_lengths_differ():
    loss, mask = torch.tensor([[1.0, 1, 0, 0, 0, 0, 0, 0], [0.25] * 8]), torch.tensor([[1, 1] + [0] * 6, [1] * 8])
    right = sum(srpo_objective(loss[i : i + 1], mask[i : i + 1], 0.0, mask.sum()) for i in range(2))
    wrong = sum(srpo_objective(loss[i : i + 1], mask[i : i + 1], 0.0, mask[i].sum()) for i in range(2)) / 2
    assert right.item() == pytest.approx(0.4)
    assert wrong.item() == pytest.approx(0.625)  # 56% too much: the short one's tokens count four times


def test_processes_that_average_gradients_still_sum():
    loss, mask = torch.rand(4, 3), torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    expected = srpo_objective(loss, mask, 0.5 + 0.25, mask.sum())
    each = [
        srpo_objective(loss[part], mask[part], sdpo, mask.sum(), processes=2)
        for part, sdpo in ((slice(0, 1), 0.5), (slice(1, 4), 0.25))
    ]
    torch.testing.assert_close(sum(each) / 2, expected)


@pytest.mark.parametrize("cuts", [None, [0, 3, 16]])
def test_all_correct_is_grpo_to_the_byte(cuts):
    # Rewards beyond the threshold of 1: everyone is correct, and yet some are better than others
    batch = make_batch([1, 1.5, 2, 1, 1, 1, 3, 1] * 2, dtype=torch.float32)
    srpo, of_srpo = step(batch, "srpo", cuts)
    grpo, of_grpo = step(batch, "grpo", cuts)
    assert srpo.all()
    assert srpo.numpy().tobytes() == grpo.numpy().tobytes()
    for mine, expected in zip(of_srpo, of_grpo, strict=True):
        assert expected.any()
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("method", METHODS)
def test_all_wrong_without_feedback_teaches_nothing(method):
    losses, gradients = step(make_batch([0] * 8), method)
    assert losses.item() == 0
    assert not any(gradient.any() for gradient in gradients)


@given(st.lists(st.sampled_from([0, 1]), min_size=8, max_size=8), st.integers(0, 99))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_only_the_routed_rollouts_get_gradients(rewards, seed):
    batch = make_batch(rewards, seed=seed)
    _, (srpo, _) = step(batch, "srpo")
    _, (grpo, _) = step(batch, "grpo")
    _, (sdpo, _) = step(batch, "sdpo")
    for i, reward in enumerate(rewards):
        group = rewards[i - i % SIZE : i - i % SIZE + SIZE]
        if reward == 1 or sum(group) == 0:  # GRPO's, to the byte: the denominators are the same
            assert torch.equal(srpo[i], grpo[i])
        if sum(group) - reward == 0:
            assert not sdpo[i].any()
    assert not srpo[~batch["mask"]].any()


def test_masks():
    grpo, sdpo = torch.tensor([1, 0, 0]), torch.tensor([False, True, False])
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
    grpo_mask, sdpo_mask = routed_masks(grpo, sdpo, mask)
    assert grpo_mask.tolist() == [[True, True], [False, False], [False, False]]
    assert sdpo_mask.tolist() == [[False, False], [True, False], [False, False]]
    loss = torch.full((3, 2), float("nan"))
    loss[0] = 1.0
    assert srpo_objective(loss, grpo_mask, 3.0, 5) == 1
    assert srpo_objective(loss, torch.zeros(3, 2), 0.0, torch.tensor(0)) == 0
    with pytest.raises(ValueError, match="can only carry one loss"):
        routed_masks(grpo, grpo, mask)
    with pytest.raises(ValueError, match="completion_mask must be"):
        routed_masks(grpo, sdpo, mask[0])
    with pytest.raises(ValueError, match="same shape"):
        srpo_objective(loss, mask[:2], 0.0, 1)
    with pytest.raises(ValueError, match="denominator must be"):
        srpo_objective(loss, mask, 0.0, -1)
    with pytest.raises(ValueError, match="denominator must be"):
        srpo_objective(loss, mask, 0.0, torch.ones(2))
