"""The principle, exactly: both ends of the objective, their gradients, the noise of their estimates, the routes."""

import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.principle import objectives as obj
from s2d_lib.principle.routes import (
    OBJECTIVES,
    draw_tasks,
    mismatched_student,
    on_path,
    repeat,
    sample,
    sampled_gradient,
)
from s2d_lib.principle.training import Adam, Curve, descend, mean_interval, train, updates_to_reach
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
from s2d_lib.report import style

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


# --- (d) routes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["first", "every"])
def test_mismatched_student_has_the_mass_and_changes_only_what_it_says(where):
    tree = Tree(3, 4)
    tasks = repeat(draw_tasks(tree, 3, 0.1, seed=5), 2)
    mass = np.repeat([1e-2, 1e-6], 3)
    student = mismatched_student(tree, tasks, mass, where)
    np.testing.assert_allclose(obj.success(tree, student, tasks.reward), mass, rtol=1e-6)
    changed = ~np.isclose(student, tasks.log_ref).all(-1)
    allowed = on_path(tree, tasks.reward).any(-1)
    assert (changed <= allowed).all()
    assert not changed[:, 1:].any() if where == "first" else changed[:, tree.level(3)].any()


def test_impossible_or_unknown_mismatch_is_refused():
    tree = Tree(3, 3)
    tasks = draw_tasks(tree, 2, 0.1, seed=0, n_success=1)
    with pytest.raises(StudyError, match="out of reach"):
        mismatched_student(tree, tasks, 0.9, "first")
    with pytest.raises(StudyError, match="unknown place"):
        mismatched_student(tree, tasks, 0.1, "middle")


def test_samples_follow_the_policy():
    tree = Tree(3, 2)
    policies, _ = draw(tree, 3, count=2)
    states, tokens = sample(tree, policies, 40_000, np.random.default_rng(0))
    number = tokens @ np.array([3, 1])
    assert (states[..., 1] == 1 + tokens[..., 0]).all()
    for row, log_p in zip(number, policies, strict=True):
        expected = np.exp(sequence_log_probs(tree, log_p))
        np.testing.assert_allclose(np.bincount(row, minlength=9) / 40_000, expected, atol=0.01)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_sampled_gradients_are_unbiased(objective):
    tree = Tree(3, 3)
    tasks = draw_tasks(tree, 1, 0.3, seed=1)
    student, _ = draw(tree, 2, count=1)
    sampled = sampled_gradient(tree, student, tasks, objective, 200_000, np.random.default_rng(0))
    p, q = np.exp(student), np.exp(tasks.log_teacher)
    if objective == "forward_kl":
        exact = visitation(tree, tasks.log_teacher)[..., None] * (p - q)
    elif objective == "grpo":  # minus the gradient of E[r] over its standard deviation
        rate = obj.success(tree, student, tasks.reward)[0]
        target = torch.tensor(tasks.reward[0])
        slope = autograd(student[0], lambda log_p: (torch_sequences(tree, log_p).exp() * target).sum())
        exact = -slope[None] / (np.sqrt(rate * (1 - rate)) + 1e-4)
    else:
        exact = obj.opd_gradient(tree, student, tasks.log_teacher)
    assert abs(exact).max() > 0.05
    np.testing.assert_allclose(sampled, exact, atol=0.02)


def test_grpo_has_no_gradient_where_a_group_agrees():
    tree = Tree(3, 4)
    tasks = draw_tasks(tree, 2, 0.1, seed=0)
    for mass in (1e-12, 1 - 1e-9):  # all wrong, all right
        student = mismatched_student(tree, tasks, mass, "every")
        assert not sampled_gradient(tree, student, tasks, "grpo", 16, np.random.default_rng(0)).any()
    with pytest.raises(StudyError, match="unknown objective"):
        sampled_gradient(tree, student, tasks, "sft", 16, np.random.default_rng(0))


def test_training_is_reproducible_and_measures_exactly():
    tree = Tree(3, 3)
    tasks = draw_tasks(tree, 4, 0.2, seed=0)
    how = {"rollouts": 8, "learning_rate": 1.0}
    route = [("forward_kl", 20), ("opd", 20)]
    first = train(tree, tasks.log_ref, tasks, route, seed=0, **how)
    again = train(tree, tasks.log_ref, tasks, route, seed=0, **how)
    other = train(tree, tasks.log_ref, tasks, route, seed=1, **how)
    np.testing.assert_array_equal(first.log_p, again.log_p)
    assert (first.log_p[-1] != other.log_p[-1]).any()
    assert first.updates.tolist() == [0, 10, 20, 30, 40]
    np.testing.assert_allclose(first.kl[-1], obj.sequence_kl(tree, first.log_p[-1], tasks.log_teacher), atol=1e-12)
    assert (first.success[-1] > first.success[0]).all()


def test_a_rate_per_run_is_that_rate():
    tree = Tree(2, 2)
    tasks = draw_tasks(tree, 2, 0.2, seed=0)
    start = {"rollouts": 4, "seed": 3, "evaluate_every": 1}
    both = train(tree, tasks.log_ref, tasks, [("opd", 1)], learning_rate=np.array([0.0, 1.0]), **start)
    one = train(tree, tasks.log_ref, tasks, [("opd", 1)], learning_rate=1.0, **start)
    np.testing.assert_allclose(both.log_p[-1, 0], tasks.log_ref[0], **EXACT)
    np.testing.assert_array_equal(both.log_p[-1, 1], one.log_p[-1, 1])


def test_diverging_runs_stop():
    tree = Tree(2, 2)
    tasks = draw_tasks(tree, 1, 0.2, seed=0)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError):
        train(tree, tasks.log_ref, tasks, [("opd", 20)], rollouts=4, learning_rate=np.inf, seed=0)


def test_adam_is_torch_adam():
    parameter = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    optimiser, ours, position = torch.optim.Adam([parameter], lr=0.1), Adam(0.1), np.zeros((1, 2, 3))
    for gradient in np.random.default_rng(0).normal(size=(5, 1, 2, 3)):
        parameter.grad = torch.tensor(gradient)
        optimiser.step()
        position = position + ours.step(gradient)
    np.testing.assert_allclose(position, parameter.detach().numpy(), rtol=1e-9)


def test_reading_curves():
    success = np.array([[0.0, 0.0], [0.6, 0.1], [0.4, 0.2]])
    curve = Curve(np.array([0, 10, 20]), success, success, np.zeros((3, 2, 1, 2)))
    assert updates_to_reach(curve, 0.5).tolist() == [10, np.inf]
    mean, low, high = mean_interval(np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]))
    assert mean.tolist() == [1, 1]
    assert (low[0], high[0]) == pytest.approx((1, 1))
    assert low[1] < 1 < high[1]


def test_cost_to_go_from_the_root_is_the_kl():
    tree = Tree(3, 3)
    (student, target, _), _ = draw(tree, 4)
    assert expected_return(tree, student, student - target)[0] == pytest.approx(obj.sequence_kl(tree, student, target))
    np.testing.assert_allclose(np.exp(log_softmax(student)).sum(-1), 1, **EXACT)


# --- style and notebook ---------------------------------------------------------------------------------------------


def test_figures_are_the_same_bytes_when_redrawn(tmp_path):
    import matplotlib.pyplot as plt

    def redraw(folder):
        style.use_style()
        figure, axes = plt.subplots()
        axes.plot([1, 2], [3, 4], label="a")
        axes.set(xlabel="x (tokens)", xscale="log")
        axes.legend()
        paths = style.save_figure(figure, folder, "line")
        plt.close(figure)
        return [path.read_bytes() for path in paths]

    with plt.rc_context():
        first, second = redraw(tmp_path / "one"), redraw(tmp_path / "two")
    assert first == second
    assert sorted(path.suffix for path in (tmp_path / "one").iterdir()) == [".pdf", ".png", ".svg"]
    assert not any(word in data for data in first for word in (b"CreationDate", b"dc:date", b"Matplotlib v"))


def test_every_route_has_its_own_look():
    assert set(style.ROUTE_COLORS) == set(style.ROUTE_LABELS) == set(style.ROUTE_MARKERS)
    for look in (style.ROUTE_COLORS, style.ROUTE_LABELS, style.ROUTE_MARKERS):
        assert len(set(look.values())) == len(look)


def test_style_and_principle_need_no_torch():
    code = "import sys, s2d_lib.report.style, s2d_lib.principle.picture; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=NOTEBOOK.parents[1])


def test_committed_notebook_is_clean():
    notebook = nbformat.read(NOTEBOOK, 4)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert "papermill" not in NOTEBOOK.read_text()
    assert not any(path in NOTEBOOK.read_text() for path in (str(NOTEBOOK.parents[1]), "/tmp/", "site-packages"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


@pytest.mark.slow
def test_notebook_runs_end_to_end(tmp_path):
    import papermill

    small = {
        "n_tasks": 3,
        "updates": 40,
        "warmup_updates": 10,
        "depth": 3,
        "seed": 7,
        "figures": str(tmp_path / "figures"),
    }
    papermill.execute_notebook(NOTEBOOK, tmp_path / "out.ipynb", small, progress_bar=False, cwd=tmp_path)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {path.stem for path in (NOTEBOOK.parents[1] / "figures" / "principle").iterdir()}
    assert len(names) == 7
