"""Which problems a profile has: sources, label pools, evaluation sets, and what a run is given of them."""

from typing import Annotated, Any, Literal, Union

from pydantic import Field, PositiveInt, create_model, model_validator

from s2d_lib.study.strict import Strict

WHOLE = "full"
"""The label pool that holds all labeled problems."""
HALVES = ("1H", "2H")
"""Label pools that every profile has: the random halves of its pool `full`."""


class ProblemSource(Strict):
    """What every problem source has."""

    pools: dict[str, Strict]
    split_seed: int = Field(
        0, ge=0
    )  # of the random halves of the pool `full`, 1H and 2H, and of its cuts by `labels` and `prompts`
    # How many problems of the pool `full` have labels, and of how many the prompts are at hand: what stages that use labels,
    # and all others, get of it. Drawn in one random order, so that fewer lie inside more. null: all of it.
    labels: PositiveInt | None = Field(None, exclude_if=lambda value: value is None)
    prompts: PositiveInt | None = Field(None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _halves_are_made_not_declared(self):
        for name in HALVES:
            if name in self.pools:
                raise ValueError(f"the pool name {name} is kept for a half of `full`, which needs no entry: rename it")
        return self


class ChainWorldSpec(Strict):
    """The facts behind function-chain problems (see s2d_lib.problems.micro.ChainWorld)."""

    functions: PositiveInt
    values: PositiveInt
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)
    # Share of the facts that no problem uses but those of sets that say `withheld`: what is it that training forgets?
    withheld: float = Field(0.0, ge=0, le=0.5, exclude_if=lambda value: not value)


class SortingWorldSpec(Strict):
    """The order behind sorting and selection problems (see s2d_lib.problems.micro.SortingWorld)."""

    symbols: int = Field(ge=2, le=80)  # as many syllables as there are to name them
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)


class ArithmeticWorldSpec(Strict):
    """The number system behind additions (see s2d_lib.problems.micro.ArithmeticWorld)."""

    base: int = Field(ge=3, le=64)
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)


class ConversionWorldSpec(Strict):
    """The conversion tables behind conversions (see s2d_lib.problems.micro.ConversionWorld)."""

    units: int = Field(ge=2)
    values: int = Field(ge=2)
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)


class TableLookupWorldSpec(Strict):
    """The words that tables are made of (see s2d_lib.problems.micro.TableLookupWorld)."""

    names: int = Field(ge=2)
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)


class ToolCallWorldSpec(Strict):
    """Tools and the verbs that ask for them (see s2d_lib.problems.micro.ToolCallWorld)."""

    verbs: int = Field(ge=2)
    tools: int = Field(ge=2)
    arguments: int = Field(ge=2)
    values: int = Field(ge=2)
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _every_tool_has_a_verb(self):
        if self.verbs < self.tools:
            raise ValueError(f"{self.verbs} verbs can't ask for {self.tools} tools: raise `verbs` or lower `tools`")
        return self


class MicroSet(Strict):
    """A set of micro problems."""

    count: PositiveInt
    lengths: list[PositiveInt] = Field(min_length=1)  # functions in a chain, symbols in a list: the world's `parts`
    rare: bool = False  # draw all functions or symbols equally often instead of by their frequency in the corpus
    seed: int = Field(ge=0)
    # Every problem needs a fact that the world withholds from the other sets.
    withheld: bool = Field(False, exclude_if=lambda value: not value)
    # The prompt goes on with the first word of the worked solution: what does a model know, whatever it is used to say?
    opened: bool = Field(False, exclude_if=lambda value: not value)


class MicroProblems(ProblemSource):
    """What the problem sources of micro families have; s2d_lib.problems.micro knows the world behind each."""

    world: Strict
    pools: dict[str, MicroSet]
    evaluations: dict[str, MicroSet]
    validation: MicroSet | None = None


WORLDS = {
    "function_chains": ChainWorldSpec,  # chains of memorised functions
    "sorting": SortingWorldSpec,  # lists to be sorted by a memorised order
    "arithmetic": ArithmeticWorldSpec,  # running sums with the carries written out
    "selection": SortingWorldSpec,  # the m-th symbol of a list by a memorised order
    "conversion": ConversionWorldSpec,  # conversions along a memorised ladder of units
    "table_lookup": TableLookupWorldSpec,  # two hops through tables that stand in the prompt
    "tool_calls": ToolCallWorldSpec,  # requests to be turned into the right call of a specified tool
}
"""Source of micro problems -> its world."""
MICRO = [
    create_model(source, __base__=MicroProblems, source=(Literal[source], ...), world=(world, ...))
    for source, world in WORLDS.items()
]


class CompetitionSet(Strict):
    """Competition-math problems by dataset name."""

    dataset: str  # a key of s2d_lib.problems.public.SOURCES
    path: str | None = None  # local parquet, json or jsonl file, relative to the project; none: the dataset's Hub id
    limit: PositiveInt | None = None  # a seeded subset of this size
    seed: int = Field(0, ge=0)

    @property
    def file(self) -> str:
        """The name by which its file is known (s2d_lib.problems.sources.LOCAL_FILES)."""
        return self.dataset


class CompetitionMath(ProblemSource):
    """Problem source of the real profiles."""

    source: Literal["competition_math"]
    pools: dict[str, CompetitionSet]
    evaluations: dict[str, CompetitionSet]
    validation: CompetitionSet | None = None
    instruction: str = ""  # appended to every prompt
    overlap: Literal["refuse", "remove"] = "refuse"  # pool problems that (nearly) stand in an evaluation set


class BenchmarkSet(Strict):
    """Problems of a benchmark that comes as one file, by dataset name."""

    dataset: str  # a key of s2d_lib.problems.public.SOURCES, of the same grading
    path: str | None = None  # local parquet, json or jsonl file, relative to the project; none: the dataset's Hub id
    # `test`: a tenth, the same whatever the file's order; `train`: the rest. Of sdpo-*, the splits as they are published.
    part: Literal["all", "train", "test"] = "all"
    limit: PositiveInt | None = None  # a seeded subset of this size
    seed: int = Field(0, ge=0)  # of the cut to train and test and of the subset

    @property
    def in_splits(self) -> bool:
        """Whether it is published in splits, a file each."""
        return self.dataset.startswith("sdpo-")

    @property
    def file(self) -> str:
        """The name by which its file is known."""
        return f"{self.dataset}-{self.part}" if self.in_splits else self.dataset

    @model_validator(mode="after")
    def _a_split_is_named(self):
        if self.in_splits and self.part == "all":
            raise ValueError(f"{self.dataset} is published in splits: name one, `part: train` or `part: test`")
        return self


class Benchmark(ProblemSource):
    """Problem sources that read a benchmark's published file."""

    pools: dict[str, BenchmarkSet]
    evaluations: dict[str, BenchmarkSet]
    validation: BenchmarkSet | None = None
    instruction: str = ""  # appended to every prompt
    overlap: Literal["refuse", "remove"] = "refuse"


class Science(Benchmark):
    """Multiple-choice questions of SciKnowEval's reasoning level."""

    source: Literal["science"]


class ToolUse(Benchmark):
    """Requests to be answered with calls of documented tools, as in ToolAlpaca."""

    source: Literal["tool_use"]


class GymSet(Strict):
    """Problems generated by tasks of the package `reasoning-gym`, in equal shares."""

    tasks: dict[str, dict[str, Any]] = Field(min_length=1)  # task name -> its configuration, {} for the task's defaults
    size: PositiveInt
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _size_and_seed_are_ours(self):
        for task, config in self.tasks.items():
            for key in ("size", "seed"):
                if key in config:
                    raise ValueError(f"`{key}` of task {task!r} belongs to the whole set: move it out of the task")
        return self


class ReasoningGym(ProblemSource):
    """Generated text problems with verifiers of their own; needs no data."""

    source: Literal["reasoning_gym"]
    pools: dict[str, GymSet]
    evaluations: dict[str, GymSet]
    validation: GymSet | None = None
    instruction: str = ""


Problems = Annotated[Union[*MICRO, CompetitionMath, Science, ToolUse, ReasoningGym], Field(discriminator="source")]
AnySet = MicroSet | CompetitionSet | BenchmarkSet | GymSet
"""One set of problems, of whatever source."""


class LabelBudget(Strict):
    """Some problems of the pool `full`, drawn at random; a smaller budget's problems are among a larger one's."""

    labels: PositiveInt  # problems
    of: AnySet
    seed: int  # the profile's `split_seed`; no run on a whole pool has it, so changing it makes none of those stale


class Half(Strict):
    """A random half of the pool `full`, or of the labels of it that there are, cut once everything else has settled which
    problems that pool holds."""

    half: Literal["1H", "2H"]
    of: AnySet | LabelBudget
    seed: int  # likewise


def whole_pool(pool: AnySet | Half | LabelBudget | None) -> AnySet | None:
    """The pool that a part was cut from, or the pool itself."""
    return whole_pool(pool.of) if isinstance(pool, Half | LabelBudget) else pool


def at_most(one: AnySet | Half | LabelBudget) -> int | None:
    """How many problems a set has, or would have if all that it names were fit for it; None where only its file knows."""
    if isinstance(one, Half):
        whole = at_most(one.of)
        return whole and (whole + (one.half == "1H")) // 2
    return next((n for name in ("labels", "count", "size", "limit") if (n := getattr(one, name, None))), None)


class ProblemSets(Strict):
    """The problems a run touches."""

    source: str
    world: Union[*dict.fromkeys(WORLDS.values()), None] = None
    instruction: str = ""
    overlap: str = "refuse"
    pool: AnySet | Half | LabelBudget | None = None  # the label pool; none for a base checkpoint
    evaluations: dict[str, AnySet]
    validation: AnySet | None = None  # of runs that train, or whose pool must stay apart from it
