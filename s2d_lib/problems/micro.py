"""The micro problem types by their source's name: the one place that knows which there are."""

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.arithmetic import ArithmeticWorld
from s2d_lib.problems.conversion import ConversionWorld
from s2d_lib.problems.function_chains import ChainWorld
from s2d_lib.problems.selection import SelectionWorld
from s2d_lib.problems.sorting import SortingWorld
from s2d_lib.problems.table_lookup import TableLookupWorld
from s2d_lib.problems.tool_calls import ToolCallWorld
from s2d_lib.problems.world import World
from s2d_lib.study.pretraining import MicroModel, Pretraining
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


def refuse_what_teaches_nothing(problems: MicroProblems, pretraining: Pretraining) -> None:
    """Refuse a corpus that can't be written, and base models for whom it would hold nothing worked.

    Raises:
        StudyError: The world has no problems so long as the corpus asks for; a model from which so much is hidden that nothing
            of the corpus, or nothing like a label pool's problems, is left; an opening where solutions begin as guesses do.
    """
    world, text = world_of(problems), pretraining.corpus
    world.check_lengths("the corpus", text.lengths)
    worked = world.document(np.random.default_rng(0), min(text.lengths), "right", 0.0).solution
    for name, model in pretraining.models.items():
        if isinstance(model, MicroModel) and model.hidden:
            for lengths in (text.lengths, *(pool.lengths for pool in problems.pools.values())):
                try:
                    world.rarest(model.hidden, min(lengths))
                except StudyError as error:
                    raise StudyError(f"base model {name!r}: {error}") from None
        if model.opening and worked.startswith("#"):
            raise StudyError(
                f"base model {name!r}: solutions of {problems.source} begin as guesses do, so that there is nothing to open: "
                "leave out `opening`."
            )
