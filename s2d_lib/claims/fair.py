"""May two checkpoints be compared, and is what the comparison presupposes there?

Both sides need the same seeds, problems and settings and equal label budgets, or the comparison is refused. A premise is
missing where the 95% interval of one of its conditions lies wholly beyond the bound, over seeds and problems or, of what is
measured while training, over seeds. With one seed nothing is known of another run, and nothing is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import nan
from typing import Literal

import numpy as np
import pandas as pd

from s2d_lib.claims.bootstrap import SHARE, Bounds, Estimate, bootstrap
from s2d_lib.claims.schema import Comparison, Condition, Premise
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle, ancestry, own_line, route_cost

# What may differ between seeds of one checkpoint: the seed, the hashes that contain it, and mere labels.
VARYING = ("seed", "parent_hashes", "profile", "overrides")
ONLY = "the only one"  # decoding at which a base model was evaluated


def seeds_of(bundle: Bundle, checkpoint: str) -> list[int]:
    """Seeds with which the checkpoint was run."""
    return sorted(seed for name, seed in bundle.records if name == checkpoint)


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
        (evaluation, sampling, model), (other, others, others_model) = (
            _sampled(bundle, c) for c in (first, checkpoint)
        )
        if model != others_model:  # a limit counts tokens of one vocabulary
            sampling, others = ({k: v for k, v in one.items() if k != "max_new_tokens"} for one in (sampling, others))
        if (evaluation, sampling) != (other, others):
            _refuse(f"{first!r} and {checkpoint!r} were evaluated with different sampling")
        check_settings(bundle, checkpoint)
        for seed in seeds_of(bundle, checkpoint):
            _check_lineage(bundle, checkpoint, seed)


def _check_lineage(bundle: Bundle, checkpoint: str, seed: int) -> None:
    for name in ancestry(bundle, checkpoint, seed):
        for parent, used in bundle.records[name, seed]["resolved"].get("parent_hashes", {}).items():
            found = bundle.records[parent, seed].get("hash", used)
            if found != used:
                made = f"{name!r}, seed {seed}, was made from a run {parent!r} with hash {used[:12]}"
                raise StudyError(
                    f"{made}, the results hold one with {found[:12]}: collect them again with `make study`."
                )


def _sampled(bundle: Bundle, checkpoint: str) -> tuple[dict, dict, dict]:
    """How a run was evaluated, without the temperatures that only base models have beside it, and sampled, and its model."""
    resolved = bundle.records[checkpoint, seeds_of(bundle, checkpoint)[0]]["resolved"]
    evaluation = {key: value for key, value in resolved["evaluation"].items() if key != "untrained"}
    return evaluation, resolved["sampling"], resolved["model"]


def check_settings(bundle: Bundle, checkpoint: str) -> None:
    """Raises StudyError where seeds of a checkpoint, or of what it was made from, differ in more than the seed."""
    seeds = seeds_of(bundle, checkpoint)
    lines = [{n: bundle.records[n, seed]["resolved"] for n in ancestry(bundle, checkpoint, seed)} for seed in seeds]
    for name in lines[0]:
        given = [{key: value for key, value in line.get(name, {}).items() if key not in VARYING} for line in lines]
        table = pd.json_normalize(given if any(one != given[0] for one in given) else []).map(repr)
        for key in table.columns[table.nunique() > 1][:1]:
            values = " and ".join(f"{value} with seed {seed}" for value, seed in zip(table[key], seeds, strict=True))
            _refuse(f"runs of {name!r} have different parameters under one name ({key} is {values})")


def budget(bundle: Bundle, checkpoint: str) -> pd.Series:
    """What a route spent over its whole ancestry, means over seeds: `labels` (distinct labeled problems) and `gradings`."""
    costs = pd.DataFrame([route_cost(bundle, checkpoint, seed) for seed in seeds_of(bundle, checkpoint)])
    return costs[["labels", "gradings"]].mean()


def unequal_budgets(better: pd.Series, than: pd.Series, comparison: Comparison, tolerance: float) -> str:
    """Why a comparison is made at different budgets, as claims.yaml says; empty where they are equal, a StudyError where there is
    no reason. Gradings may differ by the tolerance, a share of the larger number; distinct problems must be equal."""
    reasons = {"labels": comparison.unequal_labels, "gradings": comparison.unequal_gradings}
    allowed = pd.Series({"labels": 0.0, "gradings": tolerance}) * np.maximum(better, than)
    unequal = [kind for kind in reasons if abs(better[kind] - than[kind]) > allowed[kind]]
    for kind in filter(lambda kind: not reasons[kind], unequal):
        words = "distinct labeled problems" if kind == "labels" else kind
        used = f"the routes use {better[kind]:,.0f} and {than[kind]:,.0f} {words}, which is no fair comparison"
        raise StudyError(f"{used}: compare routes of equal budgets, or say why not in `unequal_{kind}`.")
    return "; ".join(dict.fromkeys(reasons[kind] for kind in unequal))


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
        asked, sides = Measured(name, condition, checkpoint, evaluation, minus), [s for s in (checkpoint, minus) if s]
        rows = self.bundle.evaluation
        if not set(sides) <= set(rows.loc[rows["set"] == evaluation, "checkpoint"]):
            return asked
        found = {side: at_best(self.bundle, side, evaluation) for side in sides}
        values = _alike(evaluation, {side: table for side, (table, _) in found.items()})
        decodings = {side: decoding for side, (_, decoding) in found.items() if decoding}
        return replace(asked, estimate=_over_seeds(*values), decodings=decodings)


def at_best(bundle: Bundle, checkpoint: str, name: str) -> tuple[pd.DataFrame, str]:
    """Mean correctness on a set as `accuracies` gives it, of a base model at the decoding where it is best on that very set,
    which favours it; and that decoding or ONLY, empty for a trained model."""
    base = bundle.records[checkpoint, seeds_of(bundle, checkpoint)[0]]["resolved"]["stage"] == "base"
    rows = bundle.decoded[(bundle.decoded["checkpoint"] == checkpoint) & (bundle.decoded["set"] == name)]
    if not base or rows["decoding"].nunique() < 2:
        return accuracies(bundle, checkpoint, name), ONLY if base else ""
    tables = {decoding: accuracies(bundle.at(decoding), checkpoint, name) for decoding in rows["decoding"].unique()}
    best = max(tables, key=lambda decoding: tables[decoding].to_numpy().mean())
    return tables[best], best


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
