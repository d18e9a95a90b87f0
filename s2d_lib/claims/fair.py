"""Is it fair to compare two checkpoints? Same seeds, problems and settings, and equal label budgets, or a refusal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle
from s2d_lib.results.cost import ancestry, route_cost

# What may differ between seeds of one checkpoint: the seed, the hashes that contain it, and mere labels.
VARYING = ("seed", "parent_hashes", "profile", "overrides")


@dataclass(frozen=True)
class Budget:
    """What a route spent of the labels over its whole ancestry, means over seeds."""

    labels: float  # distinct labeled problems
    gradings: float


def seeds_of(bundle: Bundle, checkpoint: str) -> list[int]:
    """Seeds with which the checkpoint was run."""
    return sorted(seed for name, seed in bundle.records if name == checkpoint)


def accuracies(bundle: Bundle, checkpoint: str, name: str) -> pd.DataFrame:
    """Mean correctness on a set, a row a seed and a column a problem, whole.

    Raises:
        StudyError: When a seed that the checkpoint was run with, or a problem with one of them, is missing.
    """
    found = bundle.accuracy(checkpoint, name)
    if list(found.index) != seeds_of(bundle, checkpoint) or found.isna().any(axis=None):
        raise StudyError(
            f"{checkpoint!r} was not evaluated on the same problems of {name!r} with every seed that it was run with: make "
            "its runs again."
        )
    return found


def paired_accuracies(bundle: Bundle, better: str, than: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean correctness of both on the same seeds and problems of a set, each of shape (seeds, problems).

    Raises:
        StudyError: When one of them lacks seeds or problems of the other.
    """
    check_seeds(bundle, better, than)
    high, low = accuracies(bundle, better, name), accuracies(bundle, than, name)
    if set(high.columns) != set(low.columns):
        raise StudyError(
            f"{better!r} and {than!r} were not evaluated on the same problems of {name!r}: make their runs again."
        )
    return high.to_numpy(), low.reindex(index=high.index, columns=high.columns).to_numpy()


def check_together(bundle: Bundle, checkpoints: Sequence[str]) -> None:
    """Whatever stands in one table belongs together: the same seeds, each checkpoint with one setting and the ancestors
    that it was made from, all evaluated in the same way.

    Raises:
        StudyError: Naming what does not, and both sides.
    """
    for name in checkpoints:
        check_seeds(bundle, checkpoints[0], name)
        check_evaluation(bundle, checkpoints[0], name)
        check_settings(bundle, name)
        check_lineage(bundle, name)


def check_seeds(bundle: Bundle, better: str, than: str) -> None:
    """Both sides must have been run with the same seeds.

    Raises:
        StudyError: When one of them lacks a seed of the other.
    """
    if seeds_of(bundle, better) != seeds_of(bundle, than):
        raise StudyError(
            f"{better!r} was run with seeds {seeds_of(bundle, better)} and {than!r} with {seeds_of(bundle, than)}: make "
            "the missing runs, a comparison pairs them by seed."
        )


def check_lineage(bundle: Bundle, checkpoint: str) -> None:
    """The results must hold the very ancestors that a checkpoint was made from: its costs are theirs.

    Raises:
        StudyError: Naming an ancestor that was made again with other parameters, and both hashes.
    """
    for seed in seeds_of(bundle, checkpoint):
        for name in ancestry(bundle, checkpoint, seed):
            for parent, used in bundle.records[name, seed]["resolved"].get("parent_hashes", {}).items():
                found = bundle.records[parent, seed].get("hash", used)
                if found != used:
                    raise StudyError(
                        f"{name!r}, seed {seed}, was made from a run {parent!r} with hash {used[:12]}, but the results hold "
                        f"one with {found[:12]}: collect them again with `make study`."
                    )


def check_settings(bundle: Bundle, checkpoint: str) -> None:
    """Seeds of one checkpoint, and of all it was made from, must differ in nothing but the seed.

    Raises:
        StudyError: Naming the first parameter that differs.
    """
    first, *others = seeds_of(bundle, checkpoint)
    expected = _settings(bundle, checkpoint, first)
    for seed in others:
        given = _settings(bundle, checkpoint, seed)
        for key in sorted(expected.keys() | given.keys()):
            if expected.get(key) != given.get(key):
                raise StudyError(
                    f"runs of {key[0]!r} have different parameters under one name ({key[1]} is {expected.get(key)!r} with "
                    f"seed {first} and {given.get(key)!r} with seed {seed}): make them again with one setting."
                )


def _settings(bundle: Bundle, checkpoint: str, seed: int) -> dict[tuple[str, str], object]:
    """Resolved parameters of the checkpoint and its ancestors by run and dotted name."""
    settings = {}
    for name in ancestry(bundle, checkpoint, seed):
        resolved = bundle.records[name, seed]["resolved"]
        kept = {key: value for key, value in resolved.items() if key not in VARYING}
        settings |= {(name, key): value for key, value in _flat(kept).items()}
    return settings


def _flat(nested: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def check_evaluation(bundle: Bundle, better: str, than: str) -> None:
    """Both sides must have been sampled for evaluation in the same way.

    Raises:
        StudyError: When they were not.
    """
    first, second = (_sampled(bundle.records[name, seeds_of(bundle, name)[0]]["resolved"]) for name in (better, than))
    if first != second:
        raise StudyError(f"{better!r} and {than!r} were evaluated with different sampling: make their runs again.")


def _sampled(resolved: dict) -> tuple[dict, dict]:
    """How a run was sampled for evaluation, without the temperatures that only base models have beside it."""
    return {key: value for key, value in resolved["evaluation"].items() if key != "untrained"}, resolved["sampling"]


def budget(bundle: Bundle, checkpoint: str) -> Budget:
    """Label budget of a checkpoint over its whole ancestry."""
    costs = [route_cost(bundle, checkpoint, seed) for seed in seeds_of(bundle, checkpoint)]
    return Budget(*(float(np.mean([cost[name] for cost in costs])) for name in ("labels", "gradings")))


def unequal_budgets(better: Budget, than: Budget, tolerance: float, reasons: dict[str, str]) -> str:
    """Why routes of different budgets may be compared; empty where the budgets are equal.

    Args:
        better: Budget of one side.
        than: Of the other.
        tolerance: Share of the larger number by which gradings may differ; distinct problems must be equal.
        reasons: `labels` and `gradings`, as the comparison in claims.yaml gives them; may be empty.

    Raises:
        StudyError: When a budget differs and no reason is given.
    """
    unequal = {
        "labels": better.labels != than.labels,
        "gradings": abs(better.gradings - than.gradings) > tolerance * max(better.gradings, than.gradings),
    }
    for kind in (kind for kind, differs in unequal.items() if differs and not reasons[kind]):
        words = {"labels": "distinct labeled problems", "gradings": "gradings"}[kind]
        raise StudyError(
            f"the routes use {getattr(better, kind):,.0f} and {getattr(than, kind):,.0f} {words}, which is no fair "
            f"comparison: compare routes of equal budgets, or say why not in `unequal_{kind}`."
        )
    return "; ".join(dict.fromkeys(reasons[kind] for kind, differs in unequal.items() if differs))
