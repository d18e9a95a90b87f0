"""The principle, exactly: both ends of the objective, their gradients and noise, the routes in miniature, notebook 00."""

import numpy as np
import papermill
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.principle import objectives as obj
from s2d_lib.principle import routes
from s2d_lib.principle.objectives import ESTIMATORS, Tree, gradient_moments, sequence_log_probs, visitation
from s2d_lib.principle.routes import draw_tasks, mismatched_student, on_path, repeat, sampled_gradient, train
from tests.conftest import ROOT

EXACT = {"rtol": 1e-12, "atol": 1e-12}
trees = st.builds(Tree, st.integers(2, 4), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)
temperatures = st.floats(0.05, 5.0)
quick = settings(max_examples=25, deadline=None)


def draw(tree, seed):
    """Three random policies and a random real-valued reward."""
    rng = np.random.default_rng(seed)
    return obj.random_policy(tree, rng, (3,), spread=2.0), rng.normal(size=tree.n_sequences)


def torch_sequences(tree, log_p):
    return log_p[torch.tensor(tree.paths), torch.tensor(tree.tokens)].sum(-1)


def autograd(logits, loss):
    """The gradient of `loss(log_p)` by the logits."""
    leaf = torch.tensor(logits, requires_grad=True)
    loss(torch.log_softmax(leaf, -1)).backward()
    return leaf.grad.numpy()


@quick
@given(trees, seeds)
def test_every_sequence_once_and_states_match_prefixes(tree, seed):
    assert len({tuple(row) for row in tree.tokens}) == tree.n_sequences
    prefixes = {}
    for states, tokens in zip(tree.paths, tree.tokens, strict=True):
        for t, state in enumerate(states):
            assert prefixes.setdefault(int(state), tuple(tokens[:t])) == tuple(tokens[:t])
    assert sorted(prefixes) == list(range(tree.n_states))
    policies, _ = draw(tree, seed)
    log_py = sequence_log_probs(tree, policies)
    assert np.exp(log_py).sum(-1) == pytest.approx(1, rel=1e-12)
    by_sum = np.zeros(tree.n_states)
    np.add.at(by_sum, tree.paths, np.exp(log_py[0])[:, None])
    np.testing.assert_allclose(visitation(tree, policies[0]), by_sum, **EXACT)
    np.testing.assert_allclose(obj.factorise(tree, log_py + 7.0), policies, atol=1e-11)


@quick
@given(trees, seeds, temperatures)
def test_the_sparse_end_has_its_maximum_at_the_tilted_policy_and_the_dense_one_is_minus_the_kl(tree, seed, temperature):
    policies, reward = draw(tree, seed)
    reference, others = policies[0], policies[1:]
    target = obj.tilted_policy(tree, reference, reward, temperature)
    definition = obj.factorise(tree, sequence_log_probs(tree, reference) + reward / temperature)
    np.testing.assert_allclose(target, definition, atol=1e-10)
    best = obj.soft_values(tree, reference, reward, temperature)[0][0]
    at_target = obj.sparse_objective(tree, target, reference, reward, temperature)
    np.testing.assert_allclose(at_target, best, rtol=1e-11, atol=1e-11)
    gap = best - obj.sparse_objective(tree, others, reference, reward, temperature)
    np.testing.assert_allclose(gap, temperature * obj.sequence_kl(tree, others, target), rtol=1e-11, atol=1e-11)
    assert (gap > 0).all()
    dense = obj.dense_objective(tree, reference, others[0])
    np.testing.assert_allclose(dense, -obj.visited_kl(tree, reference, others[0]), **EXACT)
    np.testing.assert_allclose(dense, -obj.sequence_kl(tree, reference, others[0]), **EXACT)


@quick
@given(trees, seeds, temperatures)
def test_gradients_against_autograd_and_both_ends_have_the_same_slope(tree, seed, temperature):
    (student, target, reference), reward = draw(tree, seed)

    def kl(log_p, log_q):
        log_py = torch_sequences(tree, log_p)
        return (log_py.exp() * (log_py - torch_sequences(tree, torch.tensor(log_q)))).sum()

    def states_fixed(log_p):
        kl = (log_p.exp() * (log_p - torch.tensor(target))).sum(-1)
        return (torch.tensor(visitation(tree, student)) * kl).sum()

    def sparse(log_p):
        return (torch_sequences(tree, log_p).exp() * torch.tensor(reward)).sum() - temperature * kl(log_p, reference)

    full = autograd(student, lambda log_p: kl(log_p, target))
    np.testing.assert_allclose(obj.kl_gradient(tree, student, target), full, **EXACT)
    np.testing.assert_allclose(obj.opd_gradient(tree, student, target), autograd(student, states_fixed), **EXACT)
    for gradient in (obj.kl_gradient, obj.opd_gradient):
        assert abs(gradient(tree, target, target)).max() < 1e-12
    optimum = obj.tilted_policy(tree, reference, reward, temperature)
    dense = -temperature * obj.kl_gradient(tree, student, optimum)
    np.testing.assert_allclose(dense, autograd(student, sparse), rtol=1e-9, atol=1e-10)


@quick
@given(trees, seeds)
def test_means_of_every_estimator(tree, seed):
    (student, target, _), _ = draw(tree, seed)
    moments = {name: gradient_moments(tree, student, target, name) for name in ESTIMATORS}
    full, fixed = obj.kl_gradient(tree, student, target), obj.opd_gradient(tree, student, target)
    for name, mean in zip(ESTIMATORS, (full, full, fixed, fixed), strict=True):
        np.testing.assert_allclose(moments[name].mean, mean, **EXACT)
        assert moments[name].variance >= -1e-12
    assert moments["vocabulary"].variance <= moments["token"].variance + 1e-12  # the token is averaged out


def test_variances_by_hand_and_the_sequence_estimator_is_reinforce_at_the_reference():
    tree, tau = Tree(3, 3), 0.2
    tasks = draw_tasks(tree, 1, tau, seed=0)
    reference, reward, target = tasks.log_ref[0], tasks.reward[0], tasks.log_teacher[0]
    p, policy = np.exp(sequence_log_probs(tree, reference)), np.exp(reference)
    score, credited = np.zeros((2, tree.n_sequences, tree.n_states, 3))  # of log p(y), sequence by sequence
    for y in range(tree.n_sequences):
        for s, a in zip(tree.paths[y], tree.tokens[y], strict=True):
            score[y, s] = np.eye(3)[a] - policy[s]
            ratio = reference[s] - target[s]
            credited[y, s] = (ratio[a] - policy[s] @ ratio) * score[y, s]
    reinforce = (reward - (p * reward).sum())[:, None, None] * score
    for name, by_hand, scale in (("sequence", reinforce, -tau), ("token", credited, 1.0)):
        found, mean = gradient_moments(tree, reference, target, name), (p[:, None, None] * by_hand).sum(0)
        np.testing.assert_allclose(scale * found.mean, mean, **EXACT)
        variance = (p * (by_hand**2).sum((1, 2))).sum() - (mean**2).sum()
        assert scale**2 * found.variance == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize("where", ["first", "every"])
def test_mismatched_student_has_the_mass_and_changes_only_what_it_says(where):
    tree = Tree(3, 4)
    tasks = repeat(draw_tasks(tree, 3, 0.1, seed=5), 2)
    mass = np.repeat([1e-2, 1e-6], 3)
    student = mismatched_student(tree, tasks, mass, where)
    np.testing.assert_allclose(obj.success(tree, student, tasks.reward), mass, rtol=1e-6)
    changed = ~np.isclose(student, tasks.log_ref).all(-1)
    assert (changed <= on_path(tree, tasks.reward).any(-1)).all()
    assert not changed[:, 1:].any() if where == "first" else changed[:, tree.level(3)].any()
    with pytest.raises(StudyError, match="out of reach"):
        mismatched_student(tree, draw_tasks(tree, 2, 0.1, seed=0, n_success=1), 0.9, "first")


@pytest.mark.parametrize("objective", routes.OBJECTIVES)
def test_sampled_gradients_are_unbiased(objective):
    tree, tasks = Tree(3, 3), draw_tasks(Tree(3, 3), 1, 0.3, seed=1)
    student = obj.random_policy(tree, np.random.default_rng(2), (1,))
    sampled = sampled_gradient(tree, student, tasks, objective, 200_000, np.random.default_rng(0))
    exact = obj.opd_gradient(tree, student, tasks.log_teacher)
    if objective == "forward_kl":
        exact = visitation(tree, tasks.log_teacher)[..., None] * (np.exp(student) - np.exp(tasks.log_teacher))
    elif objective == "grpo":  # minus the gradient of E[r] over its standard deviation
        reward, rate = torch.tensor(tasks.reward[0]), obj.success(tree, student, tasks.reward)[0]
        slope = autograd(student[0], lambda log_p: (torch_sequences(tree, log_p).exp() * reward).sum())
        exact = -slope[None] / (np.sqrt(rate * (1 - rate)) + 1e-4)
    assert abs(exact).max() > 0.05
    np.testing.assert_allclose(sampled, exact, atol=0.02)


def test_grpo_has_no_gradient_where_a_group_agrees():
    tree, tasks = Tree(3, 4), draw_tasks(Tree(3, 4), 2, 0.1, seed=0)
    for mass in (1e-12, 1 - 1e-9):  # all wrong, all right
        student = mismatched_student(tree, tasks, mass, "every")
        assert not sampled_gradient(tree, student, tasks, "grpo", 16, np.random.default_rng(0)).any()
    right = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).sum(0)
    disagreeing = (0.3**right * 0.7 ** (4 - right))[(right > 0) & (right < 4)].sum()
    assert obj.chance_of_signal(0.3, 4) == pytest.approx(disagreeing)


def test_training_is_reproducible_and_measures_exactly():
    tree = Tree(3, 3)
    tasks = draw_tasks(tree, 4, 0.2, seed=0)
    how = {"rollouts": 8, "learning_rate": np.array([1.0, 1.0, 1.0, 0.0])}  # a rate each
    route = [("forward_kl", 20), ("opd", 20)]
    first, again, other = (train(tree, tasks.log_ref, tasks, route, seed=seed, **how) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.log_p, again.log_p)
    assert (first.log_p[-1] != other.log_p[-1]).any()
    assert first.updates.tolist() == [0, 10, 20, 30, 40]
    np.testing.assert_allclose(first.kl[-1], obj.sequence_kl(tree, first.log_p[-1], tasks.log_teacher), atol=1e-12)
    assert (first.success[-1] > first.success[0])[:3].all()
    np.testing.assert_allclose(first.log_p[-1, 3], tasks.log_ref[3], **EXACT)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError):
        train(tree, tasks.log_ref, tasks, [("opd", 20)], rollouts=4, learning_rate=np.inf, seed=0)


def test_adam_is_torch_adam(monkeypatch):
    tree = Tree(3, 2)
    tasks = draw_tasks(tree, 1, 0.2, seed=0)
    gradients = np.random.default_rng(0).normal(size=(5, *tasks.log_ref.shape))
    parameter = torch.tensor(tasks.log_ref, requires_grad=True)
    optimiser = torch.optim.Adam([parameter], lr=0.1)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimiser.step()
    given_ones = iter(gradients)
    monkeypatch.setattr(routes, "sampled_gradient", lambda *_: next(given_ones))
    how = {"rollouts": 1, "learning_rate": 0.1, "seed": 0, "optimiser": "adam", "evaluate_every": 5}
    curve = train(tree, tasks.log_ref, tasks, [("opd", 5)], **how)
    np.testing.assert_allclose(curve.log_p[-1], parameter.log_softmax(-1).detach().numpy(), rtol=1e-9)


def test_the_interval_of_a_mean():
    mean, low, high = routes.mean_interval(np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]))
    assert mean.tolist() == pytest.approx([1, 1])
    assert (low[0], high[0], low[1] < 1 < high[1]) == (pytest.approx(1), pytest.approx(1), True)


@pytest.mark.slow
def test_notebook_runs_end_to_end(tmp_path):
    small = {"n_tasks": 3, "updates": 40, "warmup_updates": 10, "depth": 3} | {"figures": str(tmp_path / "made")}
    notebook = ROOT / "notebooks" / "00_the_principle.ipynb"
    papermill.execute_notebook(notebook, tmp_path / "out.ipynb", small, progress_bar=False, cwd=tmp_path)
    made, committed = (
        {path.stem for path in place.iterdir()} for place in (tmp_path / "made", ROOT / "figures/principle")
    )
    assert made == committed
