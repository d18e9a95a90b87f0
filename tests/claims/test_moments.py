"""Paper B's claims about the course of training: budgets, cross-fitted bests and verdicts on made-up runs."""

import dataclasses
from itertools import product

import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims.claims import Course, Progress, evaluate_curves
from s2d_lib.claims.schema import CurveClaim, Moment
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle, spent

STEPS = 10


def grades(rng, accuracies, problems=40, samples=4) -> list[str]:
    """One `correct` a measurement, of this expected accuracy."""
    drawn = (rng.random((len(accuracies), problems, samples)) < np.asarray(accuracies)[:, None, None]).astype(int)
    return ["/".join("".join("01"[bit] for bit in problem) for problem in row) for row in drawn]


def made_up(courses: dict, seeds=(0, 1, 2), tokens=100, rng=None, **columns) -> Bundle:
    """A bundle of runs of 10 steps, validated at 0, 5 and 10, from checkpoint -> expected accuracies there; `tokens` are sampled
    and trained on each step (of all, or by checkpoint), `columns` more metrics of every step: name -> checkpoint -> values."""
    rng = rng or np.random.default_rng(0)
    curves, validations, records, steps = [], [], {}, np.arange(1, STEPS + 1)
    for (checkpoint, accuracies), seed in product(courses.items(), seeds):
        run = {"checkpoint": checkpoint, "seed": seed}
        each = tokens[checkpoint] if isinstance(tokens, dict) else tokens
        more = {name.replace("__", "/"): values.get(checkpoint, np.nan) for name, values in columns.items()}
        curves.append(pd.DataFrame(run | {"step": steps, "num_tokens": each * steps} | more))
        validations.append(pd.DataFrame(run | {"step": [0, 5, 10], "correct": grades(rng, accuracies)}))
        records[checkpoint, seed] = {"resolved": {"parents": {}, "params": {}}}
    return Bundle(pd.DataFrame(), pd.concat(curves), records, pd.concat(validations))


def claim(*pairs, **more) -> CurveClaim:
    return CurveClaim(sentence="s", source="", comparisons=[{"better_first": pair, **more} for pair in pairs])


def test_compute_counts_sampling_training_and_the_self_teacher_and_the_cheapest_run_sets_the_budget():
    bundle = made_up({"a": [0, 0, 0]}, (0,), self_teacher__tokens={"a": 7.0}, self_teacher__prompt_tokens={"a": 3.0})
    table, steps = spent(bundle, "a", 0), np.arange(11)
    np.testing.assert_array_equal(table[["step", "compute", "scored"]], np.outer(steps, [1, 410, 10]))
    course = Course({"one": made_up({"a": [0, 0, 0], "b": [0, 0, 0]}, tokens={"a": 100, "b": 50})}, ["a", "b"])
    assert course.budgets == {"one": 4 * 50 * STEPS}
    assert course.runs["one", "a", 0].shares.tolist() == [0, 1, 2]  # in the middle it has spent what b spends in all
    assert course.runs["one", "b", 0].shares.tolist() == [0, 0.5, 1]


def test_a_moment_lies_on_a_measurement_or_between_two():
    run = Progress(np.array([0, 0.5, 1.0]), np.array([[[0, 0]], [[1, 1]], [[0, 1]]]), pd.DataFrame())
    expected = {(0.4, False): 0.8, (0.5, False): 1, (0.75, False): 0.75, (1.0, False): 0.5}
    expected |= {(1.0, True): 1, (0.75, True): 1, (0.4, True): 0.8}
    assert {at: run.accuracy(*at).item() for at in expected} == pytest.approx(expected)


def test_the_cross_fitted_best_of_noise_is_not_above_its_mean():
    rng = np.random.default_rng(0)
    flat = rng.random((400, 12, 20, 4)) < 0.5  # 400 runs of 12 measurements that are all the same
    best = [Progress(np.arange(12) / 11, run, pd.DataFrame()).accuracy(1.0, best=True).mean() for run in flat]
    assert flat.mean(axis=(2, 3)).max(axis=1).mean() > 0.56  # as the maximum has it
    assert np.mean(best) == pytest.approx(0.5, abs=3 * np.std(best) / 20)


def test_an_entropy_is_the_mean_of_a_windows_tokens_and_outlives_the_last_scored_one():
    rising = made_up(
        {"a": [0, 0, 0]}, self_teacher__entropy={"a": np.arange(1.0, 11.0)}, self_teacher__tokens={"a": 7.0}
    )
    course = Course({"one": rising, "two": rising}, ["a"])
    # The mean over the benchmarks is one number a seed: other benchmarks are not what its interval is about.
    assert course.values(Moment(checkpoint="a", within=0.2), "entropy").tolist() == [[1.5]] * 3
    assert course.values(Moment(checkpoint="a"), "entropy").tolist() == [[9.5]] * 3
    entropy = {"a": np.array([*[np.nan] * 2, 4.0, 6.0, *[np.nan] * 6])}
    tokens = {"a": np.array([0.0, 0.0, 30.0, 10.0, *[0.0] * 6])}
    ended = Course({"one": made_up({"a": [0] * 3}, self_teacher__entropy=entropy, self_teacher__tokens=tokens)}, ["a"])
    for within in (0.5, 1):
        assert ended.values(Moment(checkpoint="a", within=within), "entropy").tolist() == [[4.5]] * 3
    with pytest.raises(StudyError, match="no length was measured within 100% of the budget"):
        ended.values(Moment(checkpoint="a"), "length")


def test_what_does_not_belong_together_is_refused():
    whole = made_up({"a": [0, 0, 0]})
    unmeasured = dataclasses.replace(whole, validation=whole.validation.iloc[:0])
    for benchmarks, methods, sentence in (
        ({"one": whole}, ["a", "b"], r"'a' was run with seeds \[0, 1, 2\] and 'b' with \[\]"),
        ({"one": whole, "two": made_up({"a": [0, 0, 0]}, (0, 1))}, ["a"], "averaged seed by seed; theirs differ"),
        ({"one": unmeasured}, ["a"], "has no grades from while it trained"),
    ):
        with pytest.raises(StudyError, match=sentence):
            Course(benchmarks, methods)
    with pytest.raises(StudyError, match="claim 'B' is about 'aa', which is none of the methods; did you mean 'a'"):
        evaluate_curves({"B": claim(["a", "aa"])}, Course({"one": whole}, ["a"]))
    with pytest.raises(ValueError, match="`best` is a maximum of accuracies"):
        claim(["a", {"checkpoint": "a", "best": True}], measure="length")
