"""The micro problem types by their source's name: the one place that knows which there are."""

from s2d_lib.problems.function_chains import ChainWorld
from s2d_lib.problems.sorting import SortingWorld
from s2d_lib.problems.world import World
from s2d_lib.study.problem_sets import MicroProblems, ProblemSets

WORLDS: dict[str, type[World]] = {"function_chains": ChainWorld, "sorting": SortingWorld}


def world_of(problems: MicroProblems | ProblemSets) -> World:
    """The world behind a profile's or a run's micro problems."""
    return WORLDS[problems.source](**problems.world.model_dump())
