"""May two checkpoints be compared, and is what the comparison presupposes there?

Both sides need the same seeds, problems and settings and equal label budgets, or the comparison is refused. A premise is
missing where the 95% interval of one of its conditions lies wholly beyond the bound, over seeds and problems or, of what is
measured while training, over seeds. With one seed nothing is known of another run, and nothing is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import nan
from typing import Literal

import numpy as np
import pandas as pd

from s2d_lib.claims.bootstrap import SHARE, Bounds, Estimate, bootstrap
from s2d_lib.claims.schema import Comparison, Condition, Premise
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle, ancestry, best_decodings, own_line, route_cost, seeds_of

# What may differ between seeds of one checkpoint: the seed, the hashes that contain it, and mere labels.
VARYING = ("seed", "parent_hashes", "profile", "overrides")
ONLY = "the only one"  # decoding at which a base model was evaluated


def accuracies(bundle: Bundle, checkpoint: str, name: str) -> pd.DataFrame:
    """Mean correctness on a set, a row a seed and a column a problem; a StudyError where one is missing."""
    found = bundle.accuracy(checkpoint, name)
    if list(found.index) != seeds_of(bundle, checkpoint) or found.isna().any(axis=None):
        _refuse(f"{checkpoint!r} was not evaluated on the same problems of {name!r} with every seed of its runs")
    return found


def paired_accuracies(bundle: Bundle, better: str, than: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean correctness of both on the same seeds and problems of a set, each of shape (seeds, problems); a StudyError where one
    lacks what the other has."""
    return _alike(name, {side: accuracies(bundle, side, name) for side in (better, than)})


def _alike(name: str, tables: Mapping[str, pd.DataFrame]) -> tuple[np.ndarray, ...]:
    """Accuracies by checkpoint as arrays of the same seeds and problems."""
    first = next(iter(tables.values()))
    if any(list(table.index) != list(first.index) or set(table) != set(first) for table in tables.values()):
        sides = " and ".join(map(repr, tables))
        _refuse(f"{sides} were not evaluated with the same seeds on the same problems of {name!r}")
    return tuple(table[first.columns].to_numpy() for table in tables.values())


def _refuse(what: str) -> None:
    raise StudyError(f"{what}: make their runs again.")


def check_seeds(bundle: Bundle, one: str, other: str) -> None:
    """Raises StudyError unless both were run, with the same seeds."""
    seeds = seeds_of(bundle, one), seeds_of(bundle, other)
    if seeds[0] != seeds[1] or not seeds[0]:
        sides = f"{one!r} was run with seeds {seeds[0]} and {other!r} with {seeds[1]}"
        raise StudyError(f"{sides}: make the missing runs, a comparison pairs them by seed.")


def check_together(bundle: Bundle, checkpoints: Sequence[str]) -> None:
    """Raises StudyError unless what stands in one table belongs together: the same seeds, each checkpoint with one setting and
    the ancestors that it was made from (its costs are theirs), all evaluated in the same way."""
    first = checkpoints[0]
    for checkpoint in checkpoints:
        check_seeds(bundle, first, checkpoint)
        one, other = (_sampled(bundle, name) for name in (first, checkpoint))
        if one["model"] != other["model"]:  # a limit counts tokens of one vocabulary
            one, other = (
                {key: side[key] for key in side if key not in ("model", "max_new_tokens")} for side in (one, other)
            )
        if one != other:
            _refuse(f"{first!r} and {checkpoint!r} were evaluated with different sampling")
        check_settings(bundle, checkpoint)
        for seed in seeds_of(bundle, checkpoint):
            _check_lineage(bundle, checkpoint, seed)


def _sampled(bundle: Bundle, checkpoint: str) -> dict:
    """How a run was evaluated and sampled, without the temperatures that only base models have beside it, and its model."""
    resolved = bundle.records[checkpoint, seeds_of(bundle, checkpoint)[0]]["resolved"]
    evaluation = {key: value for key, value in resolved["evaluation"].items() if key != "untrained"}
    return {"evaluation": evaluation, **resolved["sampling"], "model": resolved["model"]}


def _check_lineage(bundle: Bundle, checkpoint: str, seed: int) -> None:
    for name in ancestry(bundle, checkpoint, seed):
        for parent, used in bundle.records[name, seed]["resolved"].get("parent_hashes", {}).items():
            found = bundle.records[parent, seed].get("hash", used)
            if found != used:
                made = f"{name!r}, seed {seed}, was made from a run {parent!r} with hash {used[:12]}"
                raise StudyError(
                    f"{made}, the results hold one with {found[:12]}: collect them again with `make study`."
                )


def check_settings(bundle: Bundle, checkpoint: str) -> None:
    """Raises StudyError where seeds of a checkpoint, or of what it was made from, differ in more than the seed."""
    seeds = seeds_of(bundle, checkpoint)
    for name in ancestry(bundle, checkpoint, seeds[0]):
        first, *others = (bundle.records.get((name, seed), {"resolved": {}})["resolved"] for seed in seeds)
        for key in sorted(first.keys() - VARYING):
            if any(other.get(key) != first[key] for other in others):
                _refuse(f"runs of {name!r} have different parameters under one name ({key} differs between seeds)")


def budget(bundle: Bundle, checkpoint: str) -> pd.Series:
    """What a route spent over its whole ancestry, means over seeds: `labels` (distinct labeled problems) and `gradings`."""
    costs = pd.DataFrame([route_cost(bundle, checkpoint, seed) for seed in seeds_of(bundle, checkpoint)])
    return costs[["labels", "gradings"]].mean()


def unequal_budgets(better: pd.Series, than: pd.Series, comparison: Comparison, tolerance: float) -> str:
    """Why a comparison is made at different budgets, as claims.yaml says; empty where they are equal, a StudyError where there is
    no reason. Gradings may differ by the tolerance, a share of the larger number; distinct problems must be equal."""
    found = []
    for kind, words, may in (("labels", "distinct labeled problems", 0.0), ("gradings", "gradings", tolerance)):
        if abs(better[kind] - than[kind]) > may * max(better[kind], than[kind]):
            found.append(getattr(comparison, f"unequal_{kind}"))
            if not found[-1]:
                used = f"the routes use {better[kind]:,.0f} and {than[kind]:,.0f} {words}, which is no fair comparison"
                raise StudyError(f"{used}: compare routes of equal budgets, or say why not in `unequal_{kind}`.")
    return "; ".join(dict.fromkeys(found))


@dataclass(frozen=True)
class Measured:
    """A condition of a premise, measured of one checkpoint."""

    premise: str
    condition: Condition
    checkpoint: str
    evaluation: str = ""  # the set; empty for what is measured while training, or when no set stands for what is asked
    minus: str = ""  # whose accuracy was taken off
    estimate: Estimate | None = None  # shares for accuracies
    # Of each base model in it, the decoding at which it is best on that very set, which favours it, or ONLY.
    decodings: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Literal["present", "absent", "unclear", "not measured"]:
        """Whether the bound is kept: `unclear` where the interval holds it, or there is none."""
        if self.estimate is None:
            return "not measured"
        low, high, bound = self.estimate.low, self.estimate.high, self.condition.at_least
        if bound is None:
            low, high, bound = -high, -low, -self.condition.at_most
        return "present" if low >= bound else "absent" if high < bound else "unclear"


class Premises:
    """The premises of a file, measured on the results of one profile; each condition once."""

    def __init__(self, premises: Mapping[str, Premise], bundle: Bundle, stands_for: Mapping[str, str]):
        """`stands_for`: what the papers evaluate on -> the profile's evaluation set."""
        self.premises, self.bundle, self.stands_for = premises, bundle, stands_for
        self._measured = cache(self._measured)

    def of(self, names: Sequence[str], routes: Sequence[str], evaluation: str) -> tuple[Measured, ...]:
        """The conditions of some premises, for a comparison of routes that were run, on a set; each is asked of the checkpoints
        that the routes were made from."""
        behind = {n for r in routes for n in ancestry(self.bundle, r, seeds_of(self.bundle, r)[0])[:-1]}
        return tuple(
            self._measured(name, condition, checkpoint, evaluation)
            for name in names
            for checkpoint in self.premises[name].of
            if checkpoint in behind
            for condition in self.premises[name].conditions
        )

    def _measured(self, name: str, condition: Condition, checkpoint: str, evaluation: str) -> Measured:
        if condition.measure != "accuracy":
            found = while_training(self.bundle, checkpoint, condition.measure, 0)
            return Measured(name, condition, checkpoint, estimate=None if np.isnan(found.mean) else found)
        evaluation = self.stands_for.get(condition.set, "") if condition.set else evaluation
        minus = condition.minus or ""
        if minus == "base":
            minus = own_line(self.bundle, checkpoint, seeds_of(self.bundle, checkpoint)[0])[-1]
        sides, rows = [side for side in (checkpoint, minus) if side], self.bundle.evaluation
        if not set(sides) <= set(rows.loc[rows["set"] == evaluation, "checkpoint"]):
            return Measured(name, condition, checkpoint, evaluation, minus)
        found = {side: at_best(self.bundle, side, evaluation) for side in sides}
        estimate = _over_seeds(*_alike(evaluation, {side: table for side, (table, _) in found.items()}))
        decodings = {side: decoding for side, (_, decoding) in found.items() if decoding}
        return Measured(name, condition, checkpoint, evaluation, minus, estimate, decodings)


def at_best(bundle: Bundle, checkpoint: str, name: str) -> tuple[pd.DataFrame, str]:
    """Mean correctness on a set as `accuracies` gives it, of a base model at the decoding where it is best on that very set,
    which favours it; and that decoding or ONLY, empty for a trained model."""
    if bundle.records[checkpoint, seeds_of(bundle, checkpoint)[0]]["resolved"]["stage"] != "base":
        return accuracies(bundle, checkpoint, name), ""
    best = best_decodings(bundle, checkpoint)
    if best.empty:
        return accuracies(bundle, checkpoint, name), ONLY
    return accuracies(bundle.at(best[name]), checkpoint, name), best[name]


def while_training(bundle: Bundle, checkpoint: str, column: str, place: int) -> Estimate:
    """Mean over seeds at the first (0) or last (-1) measurement, with its 95% interval; NaN where it was not measured."""
    rows = bundle.validation[bundle.validation["checkpoint"] == checkpoint].sort_values("step")
    values = rows.groupby("seed").nth(place).get(column, pd.Series(dtype=float)).dropna().to_numpy(float)
    return _over_seeds(values[:, None], bounds=None) if len(values) else Estimate(nan, nan, nan)


def _over_seeds(*values: np.ndarray, bounds: Bounds = SHARE) -> Estimate:
    """`bootstrap`, without an interval where there is one seed."""
    if len(values[0]) > 1:
        return bootstrap(*values, bounds=bounds)
    return Estimate(float(values[0].mean() - sum(other.mean() for other in values[1:])), nan, nan)
