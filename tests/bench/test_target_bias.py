"""The table of what kept targets cost: exact where it must be, and never above the exact loss."""

import pytest

from s2d_lib.bench.target_bias import COLUMNS, target_bias
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import sample
from s2d_lib.study import resolve

pytestmark = pytest.mark.slow


def test_bias_shrinks_with_more_tokens_and_vanishes_where_nothing_is_left_out():
    student, teacher = (
        load_policy(r.model, r.hardware) for r in (resolve("micro", n, 0) for n in ("student", "teacher"))
    )
    resolved = resolve("micro", "student.grpo", 0)
    problems = load_problems(resolved.problems).pool[:8]
    rollouts = sample(teacher, problems, samples=2, sampling=resolved.sampling, seed=0)
    before = [p.clone() for p in student.model.parameters()]
    vocab = teacher.model.config.vocab_size
    table = target_bias(student, teacher, problems, rollouts, [1, 16, vocab], rounds=1)
    assert list(table.columns) == COLUMNS
    assert table["teacher_targets"].tolist() == ["recompute", "hidden_states", *["top_k"] * 3]
    exact, hidden, *kept = table.to_dict("records")
    for row in (hidden, kept[-1]):
        assert abs(row["bias"]) < 1e-5 * exact["loss"]
        assert max(row["hidden_error"], row["head_error"]) < 1e-4
    biases = [row["bias"] for row in kept]
    assert biases[0] < biases[1] < 0
    assert kept[0]["head_error"] > kept[1]["head_error"] > 0.01
    assert kept[0]["head_cosine"] < kept[1]["head_cosine"] < 1
    tokens = sum(len(r.ids) for r in rollouts)
    for row, width in zip((hidden, *kept), (4 * 64, 12, 132, 8 * vocab + 4), strict=True):
        assert 0 <= row["bytes_per_token"] - width < 512 / tokens  # and a header
    assert (table["logits_bytes_per_token"] == 4 * vocab).all()
    assert (table["seconds_per_pass"] > 0).all()
    assert all((a == b).all() for a, b in zip(before, student.model.parameters(), strict=True))
