"""The planner against runs that have been made: tokens counted in advance and counted on the way, FLOPs and seconds."""

from dataclasses import dataclass

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.hours import work_of
from s2d_lib.plan.memory import memory_of
from s2d_lib.plan.one_base import teacher_of
from s2d_lib.plan.tokens import assumed_lengths, counts
from s2d_lib.study import Resolved, load_profile
from s2d_lib.study.settings import Lengths


@dataclass(frozen=True)
class Calibration:
    """Predicted and recorded, per run.

    Attributes:
        runs: `checkpoint`, `seed`, `stage`; `sequences` and `sequences recorded` (0 where a run samples none), `sampled`
            and `sampled recorded`, `trained` and `trained recorded` (tokens); `training` and `sampling` (FLOPs of what was
            recorded), `training seconds`, `sampling seconds` (wall time, beside whatever else ran on the machine);
            `memory` (GB that the planner says of one process at its worst) and `memory recorded` (GB, the process's highest
            resident size, Python and libraries included).
    """

    runs: pd.DataFrame

    def by_stage(self) -> pd.DataFrame:
        """Sums over all runs of a stage: tokens in thousands, recorded by predicted, and FLOP/s in billions."""
        sums = self.runs.drop(columns=["checkpoint", "seed"]).groupby("stage", sort=False).sum()
        out = pd.DataFrame({"runs": self.runs.groupby("stage", sort=False).size()})
        for kind in ("sampled", "trained"):
            out[f"{kind}, predicted"] = sums[kind] / 1e3
            out[f"{kind}, recorded"] = sums[f"{kind} recorded"] / 1e3
            out[f"{kind}, recorded/predicted"] = sums[f"{kind} recorded"] / sums[kind].where(sums[kind] > 0)
        for kind in ("training", "sampling"):
            seconds = sums[f"{kind} seconds"]
            out[f"{kind}, GFLOP/s"] = sums[kind].where(seconds > 0) / seconds / 1e9
        return out.reset_index()

    def memory(self) -> pd.DataFrame:
        """The highest of a stage's runs in GB: `stage`, `planned`, `recorded`."""
        highest = self.runs.groupby("stage", sort=False)[["memory", "memory recorded"]].max()
        return highest.set_axis(["planned", "recorded"], axis="columns").reset_index()

    def ratios(self) -> pd.DataFrame:
        """Recorded by predicted tokens of every run that has any: `stage`, `kind` (sampled or trained), `ratio`."""
        parts = []
        for kind in ("sampled", "trained"):
            rows = self.runs[self.runs[kind] > 0]
            parts.append(
                pd.DataFrame({"stage": rows["stage"], "kind": kind, "ratio": rows[f"{kind} recorded"] / rows[kind]})
            )
        return pd.concat(parts, ignore_index=True)


def calibrate(records: dict[tuple[str, int], dict], profile: str) -> Calibration:
    """Compare what the planner says of recorded runs with their records.

    Args:
        records: Of a profile's results, by checkpoint and seed (`Bundle.records`); each is planned from the parameters it
            holds itself, not from those that the profile has by now.
        profile: Whose `lengths` are assumed.

    Raises:
        StudyError: When there are no runs that train or sample.
    """
    lengths = assumed_lengths(load_profile(profile))
    of_seed: dict[int, dict[str, Resolved]] = {}
    for (name, seed), record in records.items():
        of_seed.setdefault(seed, {})[name] = Resolved.model_validate(record["resolved"])
    rows = [
        _row(name, seed, record, of_seed[seed], lengths)
        for (name, seed), record in records.items()
        if "sampled" in record
    ]
    if not rows:
        raise StudyError(f"the results of profile {profile!r} hold no run that trains or samples: `make study`.")
    return Calibration(pd.DataFrame(rows))


def _row(name: str, seed: int, record: dict, resolved: dict[str, Resolved], lengths: Lengths) -> dict:
    run = resolved[name]
    count, seconds = counts(run), record["phases"]
    sampled, trained = record["sampled"]["tokens"], record.get("trained_tokens", 0)
    measured = lengths.model_copy(update={"completion": max(sampled, trained) / (count.sequences or count.trained)})
    teacher = teacher_of(run, resolved)
    own, other = architecture_of(run.model.model), architecture_of(teacher) if teacher else None
    work = work_of(run, own, other, measured)
    return {
        "checkpoint": name,
        "seed": seed,
        "stage": run.stage,
        "sequences": count.sequences,
        "sequences recorded": record["sampled"]["sequences"],
        "sampled": count.sequences * lengths.completion,
        "sampled recorded": sampled,
        "trained": count.trained * lengths.completion,
        "trained recorded": trained,
        "training": work.training + (work.teacher if count.trained else 0.0),
        "sampling": work.sampling[0],
        "training seconds": seconds.get("updates", 0.0),
        "sampling seconds": seconds.get("sampling", 0.0),
        "memory": memory_of(run, own, other, lengths).on() / 1e9,
        "memory recorded": record["peak_memory_mb"]["cpu"] * 2**20 / 1e9,
    }
