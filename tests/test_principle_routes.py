"""The routes in miniature, the plot style, and the notebook run end to end."""

import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

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
from s2d_lib.principle.training import Adam, Curve, mean_interval, train, updates_to_reach
from s2d_lib.principle.tree import (
    Tree,
    random_policy,
    sequence_log_probs,
    visitation,
)
from s2d_lib.report import style

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "00_the_principle.ipynb"
EXACT = {"rtol": 1e-12, "atol": 1e-12}


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
    policies = random_policy(tree, np.random.default_rng(3), (2,))
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
    student = random_policy(tree, np.random.default_rng(2), (1,))
    sampled = sampled_gradient(tree, student, tasks, objective, 200_000, np.random.default_rng(0))
    p, q = np.exp(student), np.exp(tasks.log_teacher)
    if objective == "forward_kl":
        exact = visitation(tree, tasks.log_teacher)[..., None] * (p - q)
    elif objective == "grpo":  # minus the gradient of E[r] over its standard deviation
        rate = obj.success(tree, student, tasks.reward)[0]
        leaf = torch.tensor(student[0], requires_grad=True)
        log_py = torch.log_softmax(leaf, -1)[torch.tensor(tree.paths), torch.tensor(tree.tokens)].sum(-1)
        (log_py.exp() * torch.tensor(tasks.reward[0])).sum().backward()
        exact = -leaf.grad.numpy()[None] / (np.sqrt(rate * (1 - rate)) + 1e-4)
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
    assert sorted(path.suffix for path in (tmp_path / "one").iterdir()) == [".png", ".svg"]
    assert not any(word in data for data in first for word in (b"CreationDate", b"dc:date", b"Matplotlib v"))


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
