"""Micro problem types: every one that a profile can name has a world, and vice versa."""

from typing import get_args

import pytest

from s2d_lib.problems.micro import WORLDS, world_of
from s2d_lib.problems.sources import load_problems
from s2d_lib.study import load_profile, profile_names, resolve
from s2d_lib.study.problem_sets import MicroProblems, Problems

MICRO = [name for name in profile_names() if isinstance(load_profile(name).problems, MicroProblems)]


def test_every_micro_source_has_a_world_and_every_world_a_source():
    sources = [s for s in get_args(get_args(Problems)[0]) if issubclass(s, MicroProblems)]
    assert {get_args(s.model_fields["source"].annotation)[0] for s in sources} == set(WORLDS)


@pytest.mark.parametrize("name", MICRO)
def test_a_profiles_world_is_built_from_its_parameters(name):
    problems = load_profile(name).problems
    world = world_of(problems)
    assert {key: getattr(world, key) for key in type(problems.world).model_fields} == dict(problems.world)
    assert set(world.special) < set(world.words)
    assert "#" in world.words  # what the exact grader looks for


@pytest.mark.parametrize("name", MICRO)
def test_a_profiles_sets_are_disjoint_and_as_large_as_declared(name):
    declared = load_profile(name).problems
    loaded = load_problems(resolve(name, "student.grpo", 0).problems)
    sets = {**loaded.evaluations, "pool": loaded.pool, "validation": loaded.validation}
    assert {key: len(found) for key, found in sets.items()} == {
        **{key: one.count for key, one in declared.evaluations.items()},
        "pool": declared.labels or declared.pools["full"].count,
        "validation": declared.validation.count,
    }
    world = world_of(declared)
    asked = [world.same(problem.prompt) for found in sets.values() for problem in found]
    assert len(set(asked)) == len(asked)
    assert loaded.grading == "exact"
