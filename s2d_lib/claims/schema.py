"""What may stand in params/claims.yaml: sentences of a paper as comparisons of checkpoints, or of moments of their training."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from s2d_lib.errors import StudyError
from s2d_lib.study.load import project_root
from s2d_lib.study.strict import Strict, did_you_mean, read_yaml, validated

Measure = Literal["accuracy", "length", "entropy"]


class Sentence(Strict):
    """What a paper says, or we."""

    sentence: str
    source: str  # where it is said


class Condition(Strict):
    """A bound on what is measured of a checkpoint: its accuracy, a base model's at the decoding where it is best, or a column of
    validation.csv before its first step."""

    measure: str = "accuracy"
    set: str | None = None  # a set, by what the papers call it; none: that of the comparison
    minus: str | None = None  # a checkpoint whose accuracy is taken off; `base`: the model it was trained from
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self):
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a condition has one bound, `at_least` or `at_most`")
        return self


class Premise(Sentence):
    """What a claim presupposes; where it is measurably missing, the claim is not tested."""

    of: list[str] = Field(min_length=1)  # checkpoints; asked of those that the compared routes were made from
    conditions: list[Condition] = Field(min_length=1)


class Comparison(Strict):
    """Checkpoints of which each should be better than the next, on every set named."""

    better_first: list[str] = Field(min_length=2)
    sets: list[str] = Field(min_length=1)  # by what the papers call them
    margin: float = Field(0.0, ge=0)  # points by which the better one may be worse: `at least as good`, not `better`
    unequal_labels: str = ""  # why routes of different label budgets are compared; without it they are refused
    unequal_gradings: str = ""  # the same for how often an answer was graded against a label
    premises: list[str] | None = None  # what it presupposes, where that is not what its claim does

    @model_validator(mode="after")
    def _nothing_twice(self):
        for names in (self.better_first, self.sets):
            if len(set(names)) < len(names):
                raise ValueError(f"a name stands twice in {names}")
        return self

    def pairs(self) -> list[tuple[str, str]]:
        """(better, than) of neighbours in the list."""
        return list(pairwise(self.better_first))


class Claim(Sentence):
    """One sentence of a paper."""

    family: str  # which of the paper's model families it is about
    premises: list[str] = Field(default_factory=list)  # what its comparisons presuppose
    comparisons: list[Comparison] = Field(min_length=1)


class Moment(Strict):
    """A method at a time of its training; a bare checkpoint is the method at the end of the budget."""

    checkpoint: str
    within: float = Field(1.0, gt=0, le=1)  # share of the compute budget that all methods have
    best: bool = False  # the best until then instead of the last
    minus: str | None = None  # a checkpoint whose value at the same time is taken off

    @model_validator(mode="before")
    @classmethod
    def _bare_checkpoint(cls, value: Any) -> Any:
        return {"checkpoint": value} if isinstance(value, str) else value


class CurveComparison(Strict):
    """Moments of training of which each should be above the next."""

    better_first: list[Moment] = Field(min_length=2)
    measure: Measure = "accuracy"
    margin: float = Field(0.0, ge=0)  # points (of an accuracy), tokens or nats by which the better one may be below
    each: bool = False  # on every benchmark by itself too
    pairs = Comparison.pairs

    @model_validator(mode="after")
    def _only_an_accuracy_has_a_best(self):
        if self.measure != "accuracy" and any(moment.best for moment in self.better_first):
            raise ValueError(f"`best` is a maximum of accuracies, but the measure is {self.measure}")
        return self


class CurveClaim(Sentence):
    """One sentence of paper B, about the course of training."""

    comparisons: list[CurveComparison] = Field(min_length=1)


class Courses(Strict):
    """Paper B's claims: over which benchmarks its methods are compared, and when."""

    profiles: list[str] = Field(min_length=1)  # the benchmarks
    table: str  # of study.yaml, whose trained rows are the methods
    model: str | None = None  # of the paper, whose printed figures stand beside the measured ones
    stands_for: dict[str, str] = Field(default_factory=dict)  # profile -> the paper's benchmark
    budgets: list[float]  # shares of the whole budget that are reported
    claims: dict[str, CurveClaim]


class Prediction(Sentence):
    """What is expected of a part of the map before its runs."""

    part: Literal["A", "B", "C", "D", "E", "F", "G"]
    compares: list[str] = Field(min_length=1)  # checkpoints
    of: str  # what is compared of them
    where: dict[str, str] = Field(min_length=1)  # dial -> at which of its values
    contradicted_by: str  # what would speak against it


class Claims(Strict):
    """params/claims.yaml."""

    sets: list[str]  # what the papers evaluate on; a profile's `stands_for` says what stands for it there
    gradings_tolerance: float = Field(ge=0, lt=1)  # share of the larger number by which gradings may differ
    families: dict[str, dict[str, str]]  # profile whose table it is -> the paper's family -> the profile that plays it
    premises: dict[str, Premise] = Field(default_factory=dict)
    claims: dict[str, Claim]
    map: dict[str, Prediction] = Field(default_factory=dict)
    courses: dict[str, Courses] = Field(default_factory=dict)  # by the name of the folder in figures/

    @model_validator(mode="after")
    def _names_are_declared(self):
        families = {family for played in self.families.values() for family in played}
        for name, claim in self.claims.items():
            who, parts = f"claim {name!r} is about", (claim, *claim.comparisons)
            known(f"{who} family", claim.family, families, "not in `families` of claims.yaml")
            for premise in (premise for part in parts for premise in part.premises or ()):
                known(f"{who} premise", premise, self.premises, "not in `premises` of claims.yaml")
            for meant in (meant for comparison in claim.comparisons for meant in comparison.sets):
                known(f"{who} set", meant, self.sets, "not in `sets` of claims.yaml")
        for name, premise in self.premises.items():
            for meant in (condition.set for condition in premise.conditions if condition.set):
                known(f"premise {name!r} is about set", meant, self.sets, "not in `sets` of claims.yaml")
        return self


def known(who: str, name: str, declared: Iterable[str], otherwise: str) -> None:
    """Raises StudyError where a name is not declared, with what it is otherwise and what may have been meant."""
    if name not in declared:
        raise StudyError(f"{who} {name!r}, {otherwise}; {did_you_mean(name, declared)}")


def load_claims(root: Path | None = None) -> Claims:
    """The validated params/claims.yaml, or a StudyError. Its checkpoints are checked against the study when it is evaluated."""
    path = (root or project_root()) / "params" / "claims.yaml"
    return validated(Claims, read_yaml(path), path.name)
