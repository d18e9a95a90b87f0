"""What a profile says of the world behind a micro problem type: its sizes, and the seed of its facts."""

from pydantic import Field, PositiveInt, model_validator

from s2d_lib.study.strict import Strict


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


WorldSpec = (
    ChainWorldSpec
    | SortingWorldSpec
    | ArithmeticWorldSpec
    | ConversionWorldSpec
    | TableLookupWorldSpec
    | ToolCallWorldSpec
)
