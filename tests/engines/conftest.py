"""A policy and problems that engines are asked about."""

import pytest

from s2d_lib.policies.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.study import resolve
from s2d_lib.study.settings import Hardware, RoleModel


@pytest.fixture
def policy():
    """The released student, to be changed."""
    return load_policy(RoleModel(model="micro/chains-student"), Hardware())


@pytest.fixture(scope="module")
def problems():
    """A few problems."""
    return load_problems(resolve("micro-full", "student", 0).problems).evaluations["micro-math"][:5]
