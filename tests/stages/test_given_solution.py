"""What a given solution is worth: the released base models that a self-teacher needs it of, and refusals."""

import pytest

from s2d_lib.claims import load_claims
from s2d_lib.errors import StudyError
from s2d_lib.stages.second_look import given_to_base

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("profile", load_claims().courses["micro-srpo"].profiles)
def test_a_solution_helps_the_base_model_of_every_benchmark(profile):
    table = given_to_base(profile, samples=4)
    assert len(table) >= 50  # of 200 problems are solved now and then
    mean = table.mean(numeric_only=True)
    assert mean["own solution"] > 1.5 * mean["alone"]
    assert mean["own solution"] > mean["another's solution"] + 0.02


def test_a_profile_without_a_self_teacher_is_refused():
    with pytest.raises(StudyError, match=r"needs `stages\.self_distillation`"):
        given_to_base("micro-full")
    with pytest.raises(StudyError, match="has no role 'taecher'"):
        given_to_base("micro-table-lookup", "taecher")
