"""The pilot: steps at full length on this machine, of stages on stored and on own answers, and nothing of it kept."""

import pytest

from s2d_lib.check import pilot as pilot_module
from s2d_lib.check.pilot import full_length, pilot
from s2d_lib.errors import StudyError
from s2d_lib.plan import plan
from s2d_lib.study import resolve
from tests.conftest import TINY

SRPO = {"steps": 4, "batch": 16, "micro_batch": 8, "group_size": 4, "save_steps": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "checkpoint", "overrides"),
    [
        ("micro-full", "student.warm.rl_teacher", TINY),
        ("micro-full", "teacher.sft_own", TINY),
        ("micro-table-lookup", "student.srpo", {"stages": {"self_distillation": SRPO}}),
    ],
)
def test_a_step_is_measured_at_full_length_and_nothing_is_kept(runs, monkeypatch, profile, checkpoint, overrides):
    seen = []
    monkeypatch.setattr(pilot_module, "full_length", lambda run: seen.append(full_length(run)) or seen[0])
    measured = pilot(plan(profile), checkpoint, overrides)
    (inputs,), limit = seen, resolve(profile, checkpoint, 0, overrides).sampling.max_new_tokens
    assert inputs.rollouts is None or {len(rollout.ids) for rollout in inputs.rollouts} == {limit}
    assert inputs.policy.model.generation_config.min_new_tokens == limit
    assert 0 <= measured["of them sampling"] < measured["seconds a step"]
    assert measured["hours of all steps"] == pytest.approx(4 * measured["seconds a step"] / 3600)
    assert measured["GB held"] > 0.1
    assert measured["GB planned"] > 0
    assert list(runs.iterdir()) == []


def test_what_trains_nothing_has_no_step(runs):
    with pytest.raises(StudyError, match="'student' trains nothing in profile 'micro'"):
        pilot(plan("micro"), "student")
