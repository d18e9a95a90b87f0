"""Paper B's claims about the course of training: budgets, cross-fitted bests and verdicts on made-up runs."""

import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims.moments import Course, Progress, budget_of, evaluate_curves
from s2d_lib.claims.schema import CurveClaim, Moment
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle
from s2d_lib.results.spent import spent

STEPS = 10


def grades(rng, accuracies, problems=40, samples=4) -> list[str]:
    """One `correct` a measurement, of this expected accuracy."""
    drawn = (rng.random((len(accuracies), problems, samples)) < np.asarray(accuracies)[:, None, None]).astype(int)
    return ["/".join("".join("01"[bit] for bit in problem) for problem in row) for row in drawn]


def made_up(courses: dict, seeds=(0, 1, 2), tokens=100, rng=None, **columns) -> Bundle:
    """A bundle of runs of 10 steps, validated at 0, 5 and 10.

    Args:
        courses: Checkpoint -> expected accuracies at the measurements.
        seeds: Of the runs.
        tokens: Sampled and trained on, a step; or checkpoint -> so many.
        rng: Of the grades.
        columns: More metrics of every step: name -> checkpoint -> values.
    """
    rng = rng or np.random.default_rng(0)
    curves, validations, records = [], [], {}
    for checkpoint, accuracies in courses.items():
        for seed in seeds:
            each = tokens[checkpoint] if isinstance(tokens, dict) else tokens
            rows = pd.DataFrame({"step": range(1, STEPS + 1), "seconds/step": 0.5})
            rows["num_tokens"] = each * rows["step"]
            for name, values in columns.items():
                rows[name.replace("__", "/")] = values.get(checkpoint, np.nan)
            curves.append(rows.assign(checkpoint=checkpoint, seed=seed))
            at = [0, 5, 10]
            table = pd.DataFrame({"step": at, "correct": grades(rng, accuracies)})
            validations.append(table.assign(checkpoint=checkpoint, seed=seed))
            records[checkpoint, seed] = {"resolved": {"parents": {}, "params": {}}}
    return Bundle(pd.DataFrame(), pd.concat(curves), records, pd.concat(validations))


def test_compute_counts_sampling_training_and_the_self_teacher():
    bundle = made_up({"a": [0, 0, 0]}, (0,), self_teacher__tokens={"a": 7.0}, self_teacher__prompt_tokens={"a": 3.0})
    table = spent(bundle, "a", 0)
    assert table["step"].tolist() == list(range(11))
    assert table["compute"].tolist() == [(4 * 100 + 10) * step for step in range(11)]
    assert table["seconds"].tolist() == [0.5 * step for step in range(11)]


def test_the_budget_is_what_the_cheapest_run_spends():
    bundle = made_up({"a": [0, 0, 0], "b": [0, 0, 0]}, tokens={"a": 100, "b": 50})
    assert budget_of(bundle, ["a", "b"]) == 4 * 50 * STEPS
    course = Course({"one": bundle}, ["a", "b"])
    assert course.runs["one", "a", 0].shares.tolist() == [0, 1, 2]  # in the middle it has spent what b spends in all
    assert course.runs["one", "b", 0].shares.tolist() == [0, 0.5, 1]


def test_a_moment_lies_on_a_measurement_or_between_two():
    correct = np.array([[[0, 0]], [[1, 1]], [[0, 1]]])
    run = Progress(np.array([0, 0.5, 1.0]), correct, pd.DataFrame())
    assert run.accuracy(0.4, best=False).tolist() == pytest.approx([0.8])
    assert run.accuracy(0.5, best=False).tolist() == [1]
    assert run.accuracy(0.75, best=False).tolist() == [0.75]
    assert run.accuracy(1.0, best=False).tolist() == [0.5]
    assert run.accuracy(1.0, best=True).tolist() == run.accuracy(0.75, best=True).tolist() == [1]
    assert run.accuracy(0.4, best=True).tolist() == pytest.approx([0.8])


def test_methods_of_dearer_steps_that_learn_alike_are_alike_early():
    # b spends a tenth more a step, so that it has not come to step 5 when a has; no step 0 is compared with a step 5
    bundle = made_up({"a": [0.0, 1.0, 1.0], "b": [0.0, 1.0, 1.0]}, tokens={"a": 100, "b": 110})
    course = Course({"one": bundle}, ["a", "b"])
    a, b = (course.values(Moment(checkpoint=name, within=0.5), "accuracy").mean() for name in "ab")
    assert (a, b) == (1.0, pytest.approx(1 / 1.1))


def test_the_cross_fitted_best_of_noise_is_not_above_its_mean():
    rng = np.random.default_rng(0)
    flat = rng.random((400, 12, 20, 4)) < 0.5  # 400 runs of 12 measurements that are all the same
    best = [Progress(np.arange(12) / 11, run, pd.DataFrame()).accuracy(1.0, best=True).mean() for run in flat]
    naive = flat.mean(axis=(2, 3)).max(axis=1)
    assert naive.mean() > 0.56
    assert np.mean(best) == pytest.approx(0.5, abs=3 * np.std(best) / 20)


def test_lengths_and_entropies_are_means_of_a_window():
    entropy = {"a": np.arange(1.0, 11.0)}
    bundle = made_up({"a": [0, 0, 0]}, self_teacher__entropy=entropy, self_teacher__tokens={"a": 7.0})
    course = Course({"one": bundle, "two": bundle}, ["a"])
    # The mean over the benchmarks is one number a seed: other benchmarks are not what its interval is about.
    assert course.values(Moment(checkpoint="a", within=0.2), "entropy").tolist() == [[1.5]] * 3
    assert course.values(Moment(checkpoint="a"), "entropy").tolist() == [[9.5]] * 3


def test_an_entropy_is_that_of_the_tokens_and_outlives_the_last_scored_one():
    entropy = np.array([*[np.nan] * 2, 4.0, 6.0, *[np.nan] * 6])
    tokens = np.array([0.0, 0.0, 30.0, 10.0, *[0.0] * 6])
    bundle = made_up({"a": [0, 0, 0]}, self_teacher__entropy={"a": entropy}, self_teacher__tokens={"a": tokens})
    course = Course({"one": bundle}, ["a"])
    assert course.values(Moment(checkpoint="a", within=0.5), "entropy").tolist() == [[4.5]] * 3
    assert course.values(Moment(checkpoint="a"), "entropy").tolist() == [[4.5]] * 3
    with pytest.raises(StudyError, match="no length was measured within 100% of the budget"):
        course.values(Moment(checkpoint="a"), "length")


def test_verdicts_on_courses_with_known_truth():
    # a rises and stays, b rises and falls back, c is slow
    courses = {"a": [0.1, 0.6, 0.6], "b": [0.1, 0.6, 0.2], "c": [0.1, 0.2, 0.4]}
    benchmarks = {name: made_up(courses, rng=np.random.default_rng(n)) for n, name in enumerate(["one", "two"])}
    half = {"within": 0.5}
    comparisons = {
        "first": [["a", "c"], ["c", "b"]],
        "early": [[{"checkpoint": "b", **half}, {"checkpoint": "c", **half}]],
        "best": [[{"checkpoint": "b", "best": True}, {"checkpoint": "c", "best": True}]],
        "falls": [[{"checkpoint": "b", "best": True, **half}, "b"]],
        "wrong": [["b", "a"]],
        # c's arrears to a are smaller late than early
        "late": [[{"checkpoint": "c", "minus": "a"}, {"checkpoint": "c", "minus": "a", **half}]],
    }
    claims = {
        name: CurveClaim(sentence=name, source="", comparisons=[{"better_first": pair} for pair in pairs])
        for name, pairs in comparisons.items()
    }
    found = evaluate_curves(claims, Course(benchmarks, list(courses)))
    assert [(o.claim, o.result.verdict) for o in found] == [
        *[("first", "holds")] * 2,
        ("early", "holds"),
        ("best", "holds"),
        ("falls", "holds"),
        ("wrong", "contradicted"),
        ("late", "holds"),
    ]
    assert found[-1].result.difference.mean == pytest.approx(0.2, abs=0.1)
    assert found[0].result.problems == 80
    each = CurveClaim(sentence="", source="", comparisons=[{"better_first": ["a", "c"], "each": True}])
    apart = evaluate_curves({"B": each}, Course(benchmarks, list(courses)))
    assert [(o.benchmark, o.result.problems) for o in apart] == [(None, 80), ("one", 40), ("two", 40)]


def test_what_does_not_belong_together_is_refused():
    whole = made_up({"a": [0, 0, 0]})
    with pytest.raises(StudyError, match=r"'b' was run with seeds \[\] and 'a' with \[0, 1, 2\]"):
        Course({"one": whole}, ["a", "b"])
    with pytest.raises(StudyError, match="averaged seed by seed, but theirs differ"):
        Course({"one": whole, "two": made_up({"a": [0, 0, 0]}, (0, 1))}, ["a"])
    unmeasured = Bundle(whole.evaluation, whole.curves, whole.records, whole.validation.iloc[:0])
    with pytest.raises(StudyError, match="has no grades from while it trained"):
        Course({"one": unmeasured}, ["a"])
    unknown = CurveClaim(sentence="", source="", comparisons=[{"better_first": ["a", "aa"]}])
    with pytest.raises(StudyError, match="claim 'B' is about 'aa', which is none of the methods; did you mean 'a'"):
        evaluate_curves({"B": unknown}, Course({"one": whole}, ["a"]))
    with pytest.raises(ValueError, match="`best` is a maximum of accuracies"):
        CurveClaim(
            sentence="",
            source="",
            comparisons=[{"better_first": ["a", {"checkpoint": "a", "best": True}], "measure": "length"}],
        )
