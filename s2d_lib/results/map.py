"""The compact results of a profile's map: what every one of its cells is drawn from.

`figures/<profile>/results/` holds `points.csv` (which run stands at which place of the map), `runs.csv` (what each run cost, how
it ended on validation problems, how far teacher and student were apart before it) and `cells.csv.xz` (how many samples of
every problem were right, at every decoding).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import read_table, seed_of, spent_by, write_csv
from s2d_lib.runs import FinishedRun
from s2d_lib.study import Point
from s2d_lib.study.profile import settings_text
from s2d_lib.study.settings import MAIN

KEYS = (["part", "cell", "route", "trial", "seed"], ["run", "seed"], ["run", "seed"])
FILES = ("points.csv", "runs.csv", "cells.csv.xz")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # right samples of a problem, one digit: at most 35 samples
BEFORE = ["forward_kl/teacher_states", "reverse_kl/student_states", "top16_overlap/student_states"]
BEFORE += ["implicit_reward_variance/student_states", "opening/teacher_states"]
"""What of validation.csv is kept from before the first step: how far apart teacher and student are (conditions C1 and C2)."""


def collect_map(found: Iterable[tuple[Point, int, FinishedRun]], others: Iterable[FinishedRun]) -> "MapResults":
    """The results of a map: its points, each with a seed and the run that was made for it, and other runs that these were made
    from, whose cost counts too."""
    points, runs = [], {}
    for point, seed, run in found:
        settings = {"cell": settings_text(point.cell), "route": point.route, "trial": settings_text(point.trial)}
        points.append({"part": point.part, **settings, "seed": seed, "run": _name(run)})
        runs[_name(run), seed_of(run)] = run
    runs |= {(_name(run), seed_of(run)): run for run in others}
    facts = [{"run": name, "seed": seed} | _facts(run) for (name, seed), run in runs.items()]
    evaluated = {key: run for key, run in runs.items() if run.path("evaluation.csv").is_file()}
    cells = pd.concat(_counts(run).assign(run=name, seed=seed) for (name, seed), run in evaluated.items())
    columns = ["run", "seed", "set", "decoding", "samples", "right"]
    return MapResults(pd.DataFrame(points), pd.DataFrame(facts), cells[columns])


def name_on_map(checkpoint: str, hashed: str) -> str:
    """A run's name on the map: its checkpoint and the start of its hash."""
    return f"{checkpoint}@{hashed[:8]}"


def _name(run: FinishedRun) -> str:
    return name_on_map(run.name, run.record["hash"])


def _counts(run: FinishedRun) -> pd.DataFrame:
    table = read_table(run.path("evaluation.csv"))
    right = table["correct"].map(lambda bits: DIGITS[bits.count("1")])
    table = table.assign(decoding=table.get("decoding", MAIN), samples=table["correct"].str.len(), right=right)
    sets = table.groupby(["decoding", "set"], sort=False)
    return sets.agg({"samples": "first", "right": "".join}).reset_index()


def _facts(run: FinishedRun) -> dict:
    record, spent = run.record, spent_by([run.record])
    facts = {"stage": record["resolved"]["stage"], "seconds": record["seconds"], "steps": spent["all_steps"]}
    facts |= {name: spent[name] for name in ("labels", "gradings", "sampled_tokens")}
    if run.path("validation.csv").is_file():
        validation = read_table(run.path("validation.csv"))
        facts["validation"] = validation["accuracy"].iloc[-1]
        facts |= {name: validation[name].iloc[0] for name in BEFORE if name in validation}
    if facts["stage"] == "sparse_rl":  # of the first ten steps: later groups are those of another model
        metrics = read_table(run.path("metrics.csv")).head(10)
        facts |= {"first_reward": metrics["reward"].mean(), "mixed_groups": 1 - metrics["frac_reward_zero_std"].mean()}
    return facts


@dataclass(frozen=True)
class MapResults:
    """Results of a map, as tables."""

    points: pd.DataFrame  # part, cell, route, trial, seed, run
    # A row a run and seed: stage, seconds, steps, labels, gradings, sampled_tokens, validation (accuracy where it ended), BEFORE,
    # and of GRPO first_reward and mixed_groups over its first ten steps.
    runs: pd.DataFrame
    cells: pd.DataFrame  # run, seed, set, decoding, samples, right (a digit a problem)

    def write(self, folder: Path) -> None:
        """Into figures/<profile>/results."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in zip(FILES, (self.points, self.runs, self.cells), strict=True):
            write_csv(table, folder / name)

    def joined(self, more: "MapResults") -> "MapResults":
        """These results and others, which count where both have a run or a place."""
        own, theirs = ((found.points, found.runs, found.cells) for found in (self, more))
        return MapResults(*(_over(*three) for three in zip(own, theirs, KEYS, strict=True)))

    def best_trial(self, part: str, cell: str, route: str) -> tuple[str, list[tuple[str, int]]]:
        """What was tried of a route in a cell and ended best on validation problems, mean over seeds: the trial, and its runs,
        one a seed; a StudyError where nothing was."""
        if (part, cell, route) not in self._best:
            raise StudyError(f"the map has no {route!r} in the cell {cell!r} of part {part!r}.")
        return self._best[part, cell, route]

    @cached_property
    def _best(self) -> dict[tuple[str, str, str], tuple[str, list[tuple[str, int]]]]:
        rows = self.points.merge(self.runs[["run", "seed", "validation"]], on=["run", "seed"], validate="many_to_one")
        found = {}
        for place, own in rows.groupby(["part", "cell", "route"], sort=False):
            ends = own.groupby("trial", sort=False)["validation"].mean().fillna(-1.0)  # a base model has no end
            chosen = own[own["trial"] == ends.idxmax()].sort_values("seed")
            found[place] = ends.idxmax(), list(zip(chosen["run"], chosen["seed"].tolist(), strict=True))
        return found

    def accuracy(self, runs: list[tuple[str, int]], name: str, decoding: str = MAIN) -> np.ndarray:
        """Share of right samples of every problem of a set, shape (runs, problems); a StudyError where a run was not evaluated
        so."""
        if missing := [run for run, seed in runs if (name, decoding, run, seed) not in self._right]:
            raise StudyError(f"the map has no results of {missing[0]!r} on {name!r} at decoding {decoding!r}.")
        found = (self._right[name, decoding, run, seed] for run, seed in runs)
        return np.array([[DIGITS.index(digit) / samples for digit in right] for samples, right in found])

    @cached_property
    def _right(self) -> dict[tuple[str, str, str, int], tuple[int, str]]:
        return {(row.set, row.decoding, row.run, row.seed): (row.samples, row.right) for row in self.cells.itertuples()}


def _over(below: pd.DataFrame, above: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    there, here = (pd.MultiIndex.from_frame(table[keys]) for table in (above, below))
    return pd.concat([below[~here.isin(there)], above], ignore_index=True)


def read_map(folder: Path) -> MapResults:
    """The results of a map; a StudyError when there are none, or they are broken."""
    try:
        return MapResults(*(read_table(folder / name) for name in FILES))
    except (OSError, ValueError) as error:
        raise StudyError(f"no readable map in {folder} ({error}): make it with `make study PROFILE=map`.") from None
