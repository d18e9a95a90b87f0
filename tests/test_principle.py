"""The principle, exactly: both ends of the objective, their gradients, the noise of their estimates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.principle import objectives as obj
from s2d_lib.principle.routes import (
    draw_tasks,
)
from s2d_lib.principle.training import descend
from s2d_lib.principle.tree import (
    Tree,
    expected_return,
    factorise,
    log_softmax,
    random_policy,
    sequence_log_probs,
    visitation,
)
from s2d_lib.principle.variance import ESTIMATORS, chance_of_signal, gradient_moments

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "00_the_principle.ipynb"
EXACT = {"rtol": 1e-12, "atol": 1e-12}
trees = st.builds(Tree, st.integers(2, 4), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)
temperatures = st.floats(0.05, 5.0)
quick = settings(max_examples=40, deadline=None)


def draw(tree, seed, count=3):
    """`count` random policies and a random real-valued reward."""
    rng = np.random.default_rng(seed)
    return random_policy(tree, rng, (count,), spread=2.0), rng.normal(size=tree.n_sequences)


def torch_sequences(tree, log_p):
    """[N] differentiable sequence log-probabilities."""
    return log_p[torch.tensor(tree.paths), torch.tensor(tree.tokens)].sum(-1)


def autograd(logits, loss):
    """The gradient of `loss(log_p)` with respect to logits, by autograd."""
    leaf = torch.tensor(logits, requires_grad=True)
    loss(torch.log_softmax(leaf, -1)).backward()
    return leaf.grad.numpy()


# --- the tree -------------------------------------------------------------------------------------------------------


@quick
@given(trees, seeds)
def test_every_sequence_once_and_states_match_prefixes(tree, seed):
    assert len({tuple(row) for row in tree.tokens}) == tree.n_sequences
    prefixes = {}
    for states, tokens in zip(tree.paths, tree.tokens, strict=True):
        for t, state in enumerate(states):
            assert prefixes.setdefault(int(state), tuple(tokens[:t])) == tuple(tokens[:t])
    assert sorted(prefixes) == list(range(tree.n_states))
    (log_p, *_), _ = draw(tree, seed)
    assert np.exp(sequence_log_probs(tree, log_p)).sum() == pytest.approx(1, rel=1e-12)
    by_sum = np.zeros(tree.n_states)
    np.add.at(by_sum, tree.paths, np.exp(sequence_log_probs(tree, log_p))[:, None])
    np.testing.assert_allclose(visitation(tree, log_p), by_sum, **EXACT)


@quick
@given(trees, seeds)
def test_factorise_inverts_sequence_log_probs(tree, seed):
    policies, _ = draw(tree, seed)
    np.testing.assert_allclose(factorise(tree, sequence_log_probs(tree, policies) + 7.0), policies, atol=1e-11)


def test_bad_trees_are_refused():
    for arguments in ((1, 3), (3, 0)):
        with pytest.raises(StudyError):
            Tree(*arguments)


# --- (a) the sparse end ---------------------------------------------------------------------------------------------


@quick
@given(trees, seeds, temperatures)
def test_tilted_policy_is_the_definition_and_the_maximum(tree, seed, temperature):
    policies, reward = draw(tree, seed)
    reference, others = policies[0], policies[1:]
    target = obj.tilted_policy(tree, reference, reward, temperature)
    definition = factorise(tree, sequence_log_probs(tree, reference) + reward / temperature)
    np.testing.assert_allclose(target, definition, atol=1e-10)
    best = obj.soft_values(tree, reference, reward, temperature)[0][0]
    at_target = obj.sparse_objective(tree, target, reference, reward, temperature)
    np.testing.assert_allclose(at_target, best, rtol=1e-11, atol=1e-11)
    gap = best - obj.sparse_objective(tree, others, reference, reward, temperature)
    np.testing.assert_allclose(gap, temperature * obj.sequence_kl(tree, others, target), rtol=1e-11, atol=1e-11)
    assert (gap > 0).all()


def test_the_gap_identity_needs_the_right_temperature():
    tree = Tree(3, 3)
    (reference, other, _), reward = draw(tree, 0)
    best = obj.soft_values(tree, reference, reward, 0.5)[0][0]
    gap = best - obj.sparse_objective(tree, other, reference, reward, 0.5)
    wrong = obj.tilted_policy(tree, reference, reward, 0.6)
    assert abs(gap - 0.5 * obj.sequence_kl(tree, other, wrong)) > 1e-3


# --- (b) the dense end ----------------------------------------------------------------------------------------------


@quick
@given(trees, seeds)
def test_dense_objective_is_minus_the_kl(tree, seed):
    (student, teacher, third), _ = draw(tree, seed)
    J = obj.dense_objective(tree, student, teacher)
    np.testing.assert_allclose(J, -obj.visited_kl(tree, student, teacher), **EXACT)
    np.testing.assert_allclose(J, -obj.sequence_kl(tree, student, teacher), **EXACT)
    assert J < 0
    assert obj.dense_objective(tree, teacher, teacher) == pytest.approx(0, abs=1e-12)
    assert abs(J + obj.sequence_kl(tree, student, third)) > 1e-9  # another teacher is another number


@quick
@given(trees, seeds)
def test_gradients_against_autograd(tree, seed):
    (student, target, _), _ = draw(tree, seed)
    q, visits = torch.tensor(target), torch.tensor(visitation(tree, student))

    def sequence_kl(log_p):
        log_py = torch_sequences(tree, log_p)
        return (log_py.exp() * (log_py - torch_sequences(tree, q))).sum()

    def states_fixed(log_p):
        return (visits * (log_p.exp() * (log_p - q)).sum(-1)).sum()

    np.testing.assert_allclose(obj.kl_gradient(tree, student, target), autograd(student, sequence_kl), **EXACT)
    np.testing.assert_allclose(obj.opd_gradient(tree, student, target), autograd(student, states_fixed), **EXACT)
    for gradient in (obj.kl_gradient, obj.opd_gradient):
        assert abs(gradient(tree, target, target)).max() < 1e-12


@quick
@given(trees, seeds, temperatures)
def test_both_ends_have_the_same_slope(tree, seed, temperature):
    (student, reference, _), reward = draw(tree, seed)

    def sparse(log_p):
        log_py = torch_sequences(tree, log_p)
        kl = (log_py.exp() * (log_py - torch_sequences(tree, torch.tensor(reference)))).sum()
        return (log_py.exp() * torch.tensor(reward)).sum() - temperature * kl

    target = obj.tilted_policy(tree, reference, reward, temperature)
    dense = -temperature * obj.kl_gradient(tree, student, target)
    np.testing.assert_allclose(dense, autograd(student, sparse), rtol=1e-9, atol=1e-10)


def test_exact_descent_reaches_the_teacher():
    tree = Tree(2, 3)
    (target, *starts), _ = draw(tree, 1, count=5)
    for gradient in (obj.kl_gradient, obj.opd_gradient):
        end, kl = descend(tree, np.array(starts), target, gradient, rate=2.0, updates=3000)
        assert kl[0].min() > 0.1
        assert kl[-1].max() < 1e-6
        np.testing.assert_allclose(obj.sequence_kl(tree, end, target), kl[-1], atol=1e-12)


# --- (c) noise ------------------------------------------------------------------------------------------------------


@quick
@given(trees, seeds)
def test_moments_of_every_estimator(tree, seed):
    (student, target, _), _ = draw(tree, seed)
    moments = {name: gradient_moments(tree, student, target, name) for name in ESTIMATORS}
    full, fixed = obj.kl_gradient(tree, student, target), obj.opd_gradient(tree, student, target)
    for name, mean in zip(ESTIMATORS, (full, full, fixed, fixed), strict=True):
        np.testing.assert_allclose(moments[name].mean, mean, **EXACT)
        assert moments[name].variance >= -1e-12
    assert moments["vocabulary"].variance <= moments["token"].variance + 1e-12  # the token is averaged out


def test_sequence_estimator_is_reinforce_at_the_reference():
    tree, tau = Tree(3, 3), 0.2
    tasks = draw_tasks(tree, 1, tau, seed=0)
    reference, reward = tasks.log_ref[0], tasks.reward[0]
    p = np.exp(sequence_log_probs(tree, reference))
    gradients = np.zeros((tree.n_sequences, tree.n_states, tree.vocabulary_size))  # of log p(y), sequence by sequence
    for y in range(tree.n_sequences):
        for s, a in zip(tree.paths[y], tree.tokens[y], strict=True):
            gradients[y, s] = np.eye(tree.vocabulary_size)[a] - np.exp(reference[s])
    reinforce = (reward - (p * reward).sum())[:, None, None] * gradients
    moments = gradient_moments(tree, reference, tasks.log_teacher[0], "sequence")
    np.testing.assert_allclose(-tau * moments.mean, (p[:, None, None] * reinforce).sum(0), **EXACT)
    assert tau**2 * moments.second == pytest.approx((p * (reinforce**2).sum((1, 2))).sum(), rel=1e-10)


def test_token_estimator_has_the_kl_as_baseline():
    tree = Tree(3, 2)
    (student, target, _), _ = draw(tree, 0)
    p, second = np.exp(student), 0.0
    for y in range(tree.n_sequences):
        for s, a in zip(tree.paths[y], tree.tokens[y], strict=True):
            credit = student[s, a] - target[s, a] - (p[s] * (student[s] - target[s])).sum()
            row = credit * (np.eye(3)[a] - p[s])
            second += np.exp(sequence_log_probs(tree, student))[y] * (row**2).sum()
    assert gradient_moments(tree, student, target, "token").second == pytest.approx(second, rel=1e-12)


def test_group_signal_by_enumeration():
    outcomes = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T
    mixed = (outcomes.sum(1) > 0) & (outcomes.sum(1) < 4)
    expected = (0.3 ** outcomes.sum(1) * 0.7 ** (4 - outcomes.sum(1)))[mixed].sum()
    assert chance_of_signal(0.3, 4) == pytest.approx(expected)
    with pytest.raises(StudyError, match="unknown estimator"):
        gradient_moments(Tree(2, 2), *draw(Tree(2, 2), 0)[0][:2], "dense")


def test_cost_to_go_from_the_root_is_the_kl():
    tree = Tree(3, 3)
    (student, target, _), _ = draw(tree, 4)
    assert expected_return(tree, student, student - target)[0] == pytest.approx(obj.sequence_kl(tree, student, target))
    np.testing.assert_allclose(np.exp(log_softmax(student)).sum(-1), 1, **EXACT)
