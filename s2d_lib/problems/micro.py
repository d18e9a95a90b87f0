"""The micro problem types by their source's name: the one place that knows which there are."""

from s2d_lib.problems.arithmetic import ArithmeticWorld
from s2d_lib.problems.conversion import ConversionWorld
from s2d_lib.problems.function_chains import ChainWorld
from s2d_lib.problems.selection import SelectionWorld
from s2d_lib.problems.sorting import SortingWorld
from s2d_lib.problems.table_lookup import TableLookupWorld
from s2d_lib.problems.tool_calls import ToolCallWorld
from s2d_lib.problems.world import World
from s2d_lib.study.problem_sets import MicroProblems, ProblemSets

WORLDS: dict[str, type[World]] = {
    "function_chains": ChainWorld,
    "sorting": SortingWorld,
    "arithmetic": ArithmeticWorld,
    "selection": SelectionWorld,
    "conversion": ConversionWorld,
    "table_lookup": TableLookupWorld,
    "tool_calls": ToolCallWorld,
}


def world_of(problems: MicroProblems | ProblemSets) -> World:
    """The world behind a profile's or a run's micro problems."""
    return WORLDS[problems.source](**problems.world.model_dump())
