"""The compact results of a profile's map: what every one of its cells is drawn from. Knows no torch.

`figures/<profile>/results/` holds `points.csv` (which run stands at which place of the map), `runs.csv` (what each run cost, how
it ended on validation problems, how far teacher and student were apart before it) and `cells.csv.gz` (how many samples of
every problem were right, at every decoding).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import GZIP, read_evaluation, read_validation, write_csv
from s2d_lib.runs import FinishedRun
from s2d_lib.study import Point
from s2d_lib.study.profile import settings_text
from s2d_lib.study.settings import MAIN

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # right samples of a problem, one digit: at most 35 samples
BEFORE = (
    "forward_kl/teacher_states",
    "reverse_kl/student_states",
    "top16_overlap/student_states",
    "implicit_reward_variance/student_states",
    "opening/teacher_states",
)
"""What of validation.csv is kept from before the first step: how far apart teacher and student are (conditions C1 and C2)."""


def run_name(run: FinishedRun) -> str:
    """A run's name on the map: its checkpoint and the start of its hash."""
    return f"{run.name}@{run.record['hash'][:8]}"


def collect_map(found: Iterable[tuple[Point, int, FinishedRun]], others: Iterable[FinishedRun], folder: Path) -> None:
    """Write the results of a map.

    Args:
        found: Its points, with a seed and the run that was made for it.
        others: Runs that these were made from: their cost counts too.
        folder: figures/<profile>/results.
    """
    found = list(found)
    points = [
        {
            "part": point.part,
            "cell": settings_text(point.cell),
            "route": point.route,
            "trial": settings_text(point.trial),
            "seed": seed,
            "run": run_name(run),
        }
        for point, seed, run in found
    ]
    runs = {(run_name(run), run.record["resolved"]["seed"]): run for run in [*(r for *_, r in found), *others]}
    evaluations = [_counts(run).assign(run=name, seed=seed) for (name, seed), run in runs.items() if _evaluated(run)]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(pd.DataFrame(points), folder / "points.csv")
    write_csv(
        pd.DataFrame([{"run": name, "seed": seed} | _facts(run) for (name, seed), run in runs.items()]),
        folder / "runs.csv",
    )
    columns = ["run", "seed", "set", "decoding", "samples", "right"]
    pd.concat(evaluations)[columns].to_csv(folder / "cells.csv.gz", index=False, compression=GZIP)


def _evaluated(run: FinishedRun) -> bool:
    return run.path("evaluation.csv").is_file()


def _counts(run: FinishedRun) -> pd.DataFrame:
    table = read_evaluation(run.path("evaluation.csv"), decoding=None)
    if "decoding" not in table:
        table["decoding"] = MAIN
    rows = [
        {
            "set": name,
            "decoding": decoding,
            "samples": len(part["correct"].iloc[0]),
            "right": "".join(DIGITS[bits.count("1")] for bits in part["correct"]),
        }
        for (decoding, name), part in table.groupby(["decoding", "set"], sort=False)
    ]
    return pd.DataFrame(rows)


def _facts(run: FinishedRun) -> dict:
    record = run.record
    facts = {
        "stage": record["resolved"]["stage"],
        "seconds": record["seconds"],
        "steps": record.get("optimizer_steps", 0),
        "labels": len(record.get("label_use", {}).get("problems", {})),
        "gradings": record.get("label_use", {}).get("gradings", 0),
        "sampled_tokens": record.get("sampled", {}).get("tokens", 0),
    }
    if run.path("validation.csv").is_file():
        validation = read_validation(run.path("validation.csv"))
        facts["validation"] = validation["accuracy"].iloc[-1]
        facts |= {name: validation[name].iloc[0] for name in BEFORE if name in validation}
    if facts["stage"] == "sparse_rl":  # of the first ten steps: later groups are those of another model
        metrics = pd.read_csv(run.path("metrics.csv")).head(10)
        facts |= {"first_reward": metrics["reward"].mean(), "mixed_groups": 1 - metrics["frac_reward_zero_std"].mean()}
    return facts


@dataclass(frozen=True)
class MapResults:
    """Results of a map.

    Attributes:
        points: part, cell, route, trial, seed, run.
        runs: A row a run and seed: stage, seconds, steps, labels, gradings, sampled_tokens, validation (accuracy where it
            ended), BEFORE, and of GRPO first_reward and mixed_groups over its first ten steps.
        cells: run, seed, set, decoding, samples, right (a digit a problem).
    """

    points: pd.DataFrame
    runs: pd.DataFrame
    cells: pd.DataFrame

    def best_trial(self, part: str, cell: str, route: str) -> tuple[str, list[str]]:
        """What was tried of a route in a cell and ended best on validation problems, mean over seeds: the trial, and its runs,
        one a seed.

        Raises:
            StudyError: Nothing was.
        """
        try:
            return self._best[part, cell, route]
        except KeyError:
            raise StudyError(f"the map has no {route!r} in the cell {cell!r} of part {part!r}.") from None

    @cached_property
    def _best(self) -> dict[tuple[str, str, str], tuple[str, list[tuple[str, int]]]]:
        rows = self.points.merge(self.runs[["run", "seed", "validation"]], on=["run", "seed"], validate="many_to_one")
        found = {}
        for place, own in rows.groupby(["part", "cell", "route"], sort=False):
            ends = (
                own.groupby("trial", sort=False)["validation"].mean().fillna(-1.0)
            )  # a base model has no end, and one trial
            chosen = own[own["trial"] == ends.idxmax()].sort_values("seed")
            found[place] = ends.idxmax(), list(zip(chosen["run"], chosen["seed"].tolist(), strict=True))
        return found

    def accuracy(self, runs: list[tuple[str, int]], name: str, decoding: str = MAIN) -> np.ndarray:
        """Share of right samples of every problem of a set, shape (runs, problems).

        Raises:
            StudyError: One of the runs was not evaluated so.
        """
        at = self._by_run.get((name, decoding), {})
        if missing := [run for run, seed in runs if (run, seed) not in at]:
            raise StudyError(f"the map has no results of {missing[0]!r} on {name!r} at decoding {decoding!r}.")
        return np.array([[DIGITS.index(digit) / at[key][0] for digit in at[key][1]] for key in runs])

    @cached_property
    def _by_run(self) -> dict:
        found: dict = {}
        for row in self.cells.itertuples():
            found.setdefault((row.set, row.decoding), {})[row.run, row.seed] = (row.samples, row.right)
        return found


def read_map(folder: Path) -> MapResults:
    """Read the results of a map.

    Raises:
        StudyError: There are none, or they are broken.
    """
    texts = dict.fromkeys(("part", "cell", "route", "trial", "run", "set", "decoding", "right"), str)
    try:
        points, runs, cells = (
            pd.read_csv(folder / name, dtype=texts, keep_default_na=name == "runs.csv")
            for name in ("points.csv", "runs.csv", "cells.csv.gz")
        )
    except (OSError, ValueError) as error:
        raise StudyError(f"no readable map in {folder} ({error}): make it with `make study PROFILE=map`.") from None
    return MapResults(points, runs, cells)
