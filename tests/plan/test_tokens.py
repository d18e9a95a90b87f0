"""What a run samples and trains on, against cases counted by hand and against the records of runs that were made."""

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.plan.calibration import calibrate
from s2d_lib.plan.tokens import assumed_lengths, counts, size
from s2d_lib.results.bundle import read_bundle
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.problem_sets import BenchmarkSet, CompetitionSet, Half, LabelBudget, MicroSet

SMALL = {
    "evaluation": {"samples": 4},
    "validation": {"every": 50, "samples": 2},
    "stages": {"opd": {"steps": 120, "batch": 8, "micro_batch": 8}},
}
EVALUATIONS = (4 + 4 + 1) * 4 * 200  # at two temperatures and greedily, on four sets
UNTRAINED = EVALUATIONS + (4 + 4) * 4 * 200  # at two temperatures more


def test_a_stage_on_the_students_own_rollouts_samples_what_it_trains_on():
    found = counts(resolve("micro", "student.bridge.rl_teacher", 0, SMALL))
    validations = 4 * 2 * 200  # before steps 0, 50 and 100, and after the last
    assert (found.sequences, found.trained, found.at_once) == (960, 960, 8)
    assert (found.tested, found.validated) == (EVALUATIONS, validations)


def test_a_stage_on_stored_rollouts_samples_nothing_and_rollouts_train_nothing():
    overrides = {"stages": {"teacher_rollouts": {"samples_per_problem": 3}}}
    rollouts = counts(resolve("micro", "teacher.rl.rollouts.full", 0, overrides))
    assert (rollouts.sequences, rollouts.trained, rollouts.tested) == (3 * 512, 0, 0)
    warm = counts(resolve("micro", "student.warm.rl_teacher", 0))
    assert warm.sequences == 0
    assert warm.trained == 100 * 256


def test_a_base_model_is_only_evaluated():
    found = counts(resolve("micro", "student", 0, SMALL))
    assert (found.sequences, found.trained, found.tested) == (0, 0, UNTRAINED)


def test_sizes_of_sets():
    micro = MicroSet(count=9, lengths=[2], seed=0)
    assert [size(micro), size(Half(half="1H", of=micro, seed=0)), size(LabelBudget(labels=5, of=micro, seed=0))] == [
        9,
        4,
        5,
    ]
    assert size(CompetitionSet(dataset="math-500")) == 500
    assert size(CompetitionSet(dataset="aime-2024", limit=99)) == 30
    assert size(BenchmarkSet(dataset="toolalpaca", limit=7)) == 7
    with pytest.raises(StudyError, match="how many problems dataset 'toolalpaca' has: give its set a `limit`"):
        size(BenchmarkSet(dataset="toolalpaca"))


def test_lengths_stay_within_the_limit_and_are_the_limit_where_none_are_assumed():
    lengths = {"lengths": {"prompt": 6, "completion": 12}}
    assert assumed_lengths(load_profile("micro", lengths | {"sampling": {"max_new_tokens": 8}})).completion == 8
    assert assumed_lengths(load_profile("micro", lengths)).completion == 12
    bare = assumed_lengths(load_profile("micro", {"lengths": None}))
    assert bare.prompt == bare.completion == 20


def test_the_recorded_runs_sampled_as_many_sequences_as_planned_and_about_as_many_tokens(root):
    records = read_bundle(root / "figures" / "micro-full" / "results").records
    found = calibrate(records, "micro-full")
    assert len(found.runs) > 100
    assert (found.runs["sequences"] == found.runs["sequences recorded"]).all()
    ratios = found.ratios()
    # Raw teachers, which guess, are shorter; everything that has learned to work a problem out is as long as that takes.
    assert ratios["ratio"].between(0.65, 1.05).all()
    assert ratios["ratio"].median() == pytest.approx(1, abs=0.02)
    assert {"sparse_rl", "opd", "forward_kl", "teacher_rollouts"} <= set(found.by_stage()["stage"])
    memory = found.memory().set_index("stage")
    # What is recorded holds Python and its libraries too, which for micro models are most of it.
    assert (memory["planned"] > 0).all()
    assert (memory["recorded"] > memory["planned"]).all()


def test_without_runs_there_is_nothing_to_compare():
    with pytest.raises(StudyError, match="hold no run that trains or samples"):
        calibrate({}, "micro")
