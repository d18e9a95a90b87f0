"""What may stand in params/claims.yaml: sentences of a paper as comparisons of checkpoints."""

from itertools import pairwise

from pydantic import Field, model_validator

from s2d_lib.study.strict import Strict


class Comparison(Strict):
    """Checkpoints of which each should be better than the next, on every set named."""

    better_first: list[str] = Field(min_length=2)
    sets: list[str] = Field(min_length=1)  # by what the papers call them
    margin: float = Field(0.0, ge=0)  # points by which the better one may be worse: `at least as good`, not `better`
    unequal_labels: str = ""  # why routes of different label budgets are compared; without it they are refused
    unequal_gradings: str = ""  # the same for how often an answer was graded against a label

    @model_validator(mode="after")
    def _nothing_twice(self):
        for names in (self.better_first, self.sets):
            if len(set(names)) < len(names):
                raise ValueError(f"a name stands twice in {names}")
        return self

    def pairs(self) -> list[tuple[str, str]]:
        """(better, than) of neighbours in the list."""
        return list(pairwise(self.better_first))


class Claim(Strict):
    """One sentence of a paper."""

    sentence: str
    source: str  # where the paper says it
    family: str  # which of the paper's model families it is about
    comparisons: list[Comparison] = Field(min_length=1)


class Claims(Strict):
    """params/claims.yaml."""

    sets: list[str]  # what the papers evaluate on; a profile's `stands_for` says what stands for it there
    gradings_tolerance: float = Field(ge=0, lt=1)  # share of the larger number by which gradings may differ
    # Profile whose table it is -> the paper's family -> the profile that plays it.
    families: dict[str, dict[str, str]]
    claims: dict[str, Claim]
