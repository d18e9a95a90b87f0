"""Which problems a profile has: sources, label pools, evaluation sets, and what a run is given of them."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from s2d_lib.study.strict import Strict

WHOLE = "full"
"""The label pool that holds all labeled problems."""
HALVES = ("1H", "2H")
"""Label pools that every profile has: the random halves of its pool `full`."""
AT = "@"
"""Between a pool's or a checkpoint's name and a label budget: `student.grpo@64` learns from the pool `full@64`."""


class ChainWorldSpec(Strict):
    """The facts behind function-chain problems (see s2d_lib.problems.function_chains.ChainWorld)."""

    functions: PositiveInt
    values: PositiveInt
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)


class SortingWorldSpec(Strict):
    """The order behind sorting problems (see s2d_lib.problems.sorting.SortingWorld)."""

    symbols: int = Field(ge=2, le=80)  # as many syllables as there are to name them
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)


WorldSpec = ChainWorldSpec | SortingWorldSpec


class ProblemSource(Strict):
    """What every problem source has."""

    pools: dict[str, Strict]
    split_seed: int = Field(
        0, ge=0
    )  # of the random halves of the pool `full`, 1H and 2H, and of its cuts to label budgets

    @model_validator(mode="after")
    def _halves_are_made_not_declared(self):
        for name in HALVES:
            if name in self.pools:
                raise ValueError(f"the pool name {name} is kept for a half of `full`, which needs no entry: rename it")
        return self


class MicroSet(Strict):
    """A set of micro problems."""

    count: PositiveInt
    lengths: list[PositiveInt] = Field(min_length=1)  # functions in a chain, symbols in a list
    rare: bool = False  # draw all functions or symbols equally often instead of by their frequency in the corpus
    seed: int = Field(ge=0)


class MicroProblems(ProblemSource):
    """What the problem sources of micro families have; s2d_lib.problems.micro knows the world behind each."""

    world: WorldSpec
    pools: dict[str, MicroSet]
    evaluations: dict[str, MicroSet]
    validation: MicroSet | None = None


class FunctionChains(MicroProblems):
    """Chains of memorised functions."""

    source: Literal["function_chains"]
    world: ChainWorldSpec


class Sorting(MicroProblems):
    """Lists to be sorted by a memorised order."""

    source: Literal["sorting"]
    world: SortingWorldSpec


class CompetitionSet(Strict):
    """Competition-math problems by dataset name."""

    dataset: str  # a key of s2d_lib.problems.competition
    path: str | None = None  # local parquet, json or jsonl file, relative to the project; none: the dataset's Hub id
    limit: PositiveInt | None = None  # a seeded subset of this size
    seed: int = Field(0, ge=0)


class CompetitionMath(ProblemSource):
    """Problem source of the real profiles."""

    source: Literal["competition_math"]
    pools: dict[str, CompetitionSet]
    evaluations: dict[str, CompetitionSet]
    validation: CompetitionSet | None = None
    instruction: str = ""  # appended to every prompt
    overlap: Literal["refuse", "remove"] = "refuse"  # pool problems that (nearly) stand in an evaluation set


Problems = Annotated[FunctionChains | Sorting | CompetitionMath, Field(discriminator="source")]


class Half(Strict):
    """A random half of the pool `full`, cut once everything else has settled which problems that pool holds."""

    half: Literal["1H", "2H"]
    of: MicroSet | CompetitionSet
    seed: int  # the profile's `split_seed`; no run on a whole pool has it, so changing it makes none of those stale


class LabelBudget(Strict):
    """Some problems of the pool `full`, drawn at random; a smaller budget's problems are among a larger one's."""

    labels: PositiveInt  # problems
    of: MicroSet | CompetitionSet
    seed: int  # likewise


class ProblemSets(Strict):
    """The problems a run touches."""

    source: str
    world: WorldSpec | None = None
    instruction: str = ""
    overlap: str = "refuse"
    pool: MicroSet | CompetitionSet | Half | LabelBudget | None = None  # the label pool; none for a base checkpoint
    evaluations: dict[str, MicroSet | CompetitionSet]
    validation: MicroSet | CompetitionSet | None = None  # only of runs that train
