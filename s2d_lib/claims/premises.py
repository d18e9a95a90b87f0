"""What claims presuppose, measured: is the teacher good, is there something to learn, is the student far from its teacher?

A premise is missing where the 95% interval of one of its conditions lies wholly beyond the bound, over seeds and problems or, of
what is measured while training, over seeds. With one seed nothing is known of another run, and nothing is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from s2d_lib.claims.bootstrap import Estimate, bootstrap
from s2d_lib.claims.fair import accuracies, seeds_of
from s2d_lib.claims.schema import Condition, Premise
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle
from s2d_lib.results.cost import ancestry, own_line

ONLY = "the only one"  # decoding at which a base model was evaluated
State = Literal["present", "absent", "unclear", "not measured"]


@dataclass(frozen=True)
class Measured:
    """A condition of a premise, measured of one checkpoint.

    Attributes:
        premise: Its name.
        condition: The bound.
        checkpoint: Of which it was asked.
        evaluation: The evaluation set; empty for what is measured while training, or when no set stands for what is asked.
        minus: Whose accuracy was taken off; empty for none.
        estimate: Shares for accuracies; None when there is nothing.
        decodings: Of each base model in it, the decoding at which it is best on that very set, which favours it, or ONLY.
    """

    premise: str
    condition: Condition
    checkpoint: str
    evaluation: str = ""
    minus: str = ""
    estimate: Estimate | None = None
    decodings: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """Whether the bound is kept: `unclear` where the interval holds it, or there is none."""
        if self.estimate is None:
            return "not measured"
        low, high = self.estimate.low, self.estimate.high
        if self.condition.at_most is not None:
            low, high, bound = -high, -low, -self.condition.at_most
        else:
            bound = self.condition.at_least
        return "present" if low >= bound else "absent" if high < bound else "unclear"


class Premises:
    """The premises of a file, measured on the results of one profile; each condition once."""

    def __init__(self, premises: Mapping[str, Premise], bundle: Bundle, stands_for: Mapping[str, str]):
        """`stands_for`: what the papers evaluate on -> the profile's evaluation set."""
        self.premises, self.bundle, self.stands_for = premises, bundle, stands_for
        self._found: dict[tuple, Measured] = {}

    def of(self, names: Sequence[str], routes: Sequence[str], evaluation: str) -> tuple[Measured, ...]:
        """The conditions of some premises, for a comparison of routes that were run, on a set; each is asked of the checkpoints
        that the routes were made from."""
        behind = {n for r in routes for n in ancestry(self.bundle, r, seeds_of(self.bundle, r)[0])[:-1]}
        return tuple(
            self._once(name, condition, checkpoint, evaluation)
            for name in names
            for checkpoint in self.premises[name].of
            if checkpoint in behind
            for condition in self.premises[name].conditions
        )

    def _once(self, name: str, condition: Condition, checkpoint: str, evaluation: str) -> Measured:
        if condition.measure != "accuracy":
            evaluation = ""
        elif condition.set:
            evaluation = self.stands_for.get(condition.set, "")
        key = name, condition, checkpoint, evaluation
        if key not in self._found:
            make = self._accuracy if condition.measure == "accuracy" else self._column
            self._found[key] = make(*key)
        return self._found[key]

    def _column(self, name: str, condition: Condition, checkpoint: str, evaluation: str) -> Measured:
        estimate = while_training(self.bundle, checkpoint, condition.measure, 0)
        return Measured(name, condition, checkpoint, estimate=None if np.isnan(estimate.mean) else estimate)

    def _accuracy(self, name: str, condition: Condition, checkpoint: str, evaluation: str) -> Measured:
        minus = condition.minus or ""
        if minus == "base":
            minus = own_line(self.bundle, checkpoint, seeds_of(self.bundle, checkpoint)[0])[-1]
        asked = Measured(name, condition, checkpoint, evaluation, minus)
        rows = self.bundle.evaluation[self.bundle.evaluation["set"] == evaluation]
        sides = [side for side in (checkpoint, minus) if side]
        if not set(sides) <= set(rows["checkpoint"]):
            return asked
        (own, _), *others = found = [at_best(self.bundle, side, evaluation) for side in sides]
        for other, _ in others:
            if list(other.index) != list(own.index) or set(other) != set(own):
                raise StudyError(
                    f"premise {name!r}: {checkpoint!r} and {minus!r} were not evaluated with the same seeds on the same problems "
                    f"of {evaluation!r}: make their runs again."
                )
        estimate = bootstrap(own.to_numpy(), *(other[own.columns].to_numpy() for other, _ in others))
        if len(own) == 1:
            estimate = Estimate(estimate.mean, np.nan, np.nan)
        decodings = {side: decoding for side, (_, decoding) in zip(sides, found, strict=True) if decoding}
        return replace(asked, estimate=estimate, decodings=decodings)


def at_best(bundle: Bundle, checkpoint: str, name: str) -> tuple[pd.DataFrame, str]:
    """Mean correctness on a set as `accuracies` gives it, of a base model at the decoding where it is best on that very set,
    which favours it; and that decoding or ONLY, empty for a trained model."""
    record = bundle.records[checkpoint, seeds_of(bundle, checkpoint)[0]]
    rows = bundle.decoded[(bundle.decoded["checkpoint"] == checkpoint) & (bundle.decoded["set"] == name)]
    base = record["resolved"]["stage"] == "base"
    if not base or rows["decoding"].nunique() < 2:
        return accuracies(bundle, checkpoint, name), ONLY if base else ""
    tables = {decoding: accuracies(bundle.at(decoding), checkpoint, name) for decoding in rows["decoding"].unique()}
    best = max(tables, key=lambda decoding: tables[decoding].to_numpy().mean())
    return tables[best], best


def while_training(bundle: Bundle, checkpoint: str, column: str, place: int) -> Estimate:
    """Mean over seeds at the first (0) or last (-1) measurement, with its 95% interval; NaN where it was not measured."""
    rows = bundle.validation[bundle.validation["checkpoint"] == checkpoint].sort_values("step")
    values = rows.groupby("seed").nth(place).get(column, pd.Series(dtype=float)).dropna().to_numpy()
    if len(values) > 1:
        return bootstrap(values[:, None], bounds=None)
    return Estimate(float(values[0]) if len(values) else np.nan, np.nan, np.nan)
