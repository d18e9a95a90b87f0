"""The planner: what a profile's study will sample, compute, hold in memory and leave on the disk, and what each of its runs asks
of a cluster, before any of it is made. Knows no torch."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.plan.cost import assumed_lengths, counts, disk_of, gpu_named, gpus_of, shape_of, teacher_of, work_of
from s2d_lib.plan.memory import GPU, held, host_bytes, shortage
from s2d_lib.study import Resolved, lineage, load_profile, needed, points, resolve
from s2d_lib.study.settings import Lengths, RoleModel

UTILISATION = 0.4
AROUND = 0.5  # hours of a run for what is not counted: loading, grading, saving
SLACK = 1.5  # on the hours with every completion at its limit, since a killed run has to queue again


@dataclass(frozen=True)
class Plan:
    """What a profile's study will take."""

    profile: str
    gpu: str
    utilisation: float  # share of the GPU's peak that is assumed to be reached
    lengths: Lengths  # assumed
    limit: int  # longest completion
    runs: pd.DataFrame  # a row a checkpoint (and point of a map): names, `seeds`, and the numbers of `needs`
    published: float  # bytes of the models as they are downloaded, in bfloat16

    def total(self, column: str) -> float:
        """Sum of a column of `runs` over all runs and seeds."""
        return float((self.runs[column] * self.runs["seeds"]).sum())

    @property
    def disk(self) -> float:
        """Bytes that the whole study needs: all that it keeps, the largest run's scratch, and the published models."""
        return self.total("kept") + float(self.runs["scratch"].max()) + self.published


def study_runs(profile: str, root: Path | None = None) -> Iterator[tuple[str, Resolved, dict[str, Resolved]]]:
    """Every run that a profile's tables and map ask for, for its first seed: a name, the run, and its ancestors by theirs."""
    seed = load_profile(profile, root=root).seeds[0]
    resolved = {name: resolve(profile, name, seed, root=root) for name in needed(profile, root)}
    found = {run.hash: (name, run, resolved) for name, run in resolved.items()}
    for point in points(profile, root):
        line = lineage(profile, point.route, seed, point.overrides, root)
        for name, run in line.items():
            found.setdefault(run.hash, (f"{name}@{run.hash[:8]}", run, line))
    yield from found.values()


def plan(profile: str, gpu: str | None = None, utilisation: float = UTILISATION, root: Path | None = None) -> Plan:
    """The plan of all that `s2d study` would make of a profile, on a GPU of gpus.yaml (the profile's own, if none is named).
    Raises as `needs`, and for a utilisation out of range."""
    if isinstance(utilisation, bool) or not isinstance(utilisation, int | float) or not 0 < utilisation <= 1:
        raise StudyError(f"`utilisation` is a share of the GPU's peak, over 0 and at most 1, given {utilisation!r}.")
    settings, rows = load_profile(profile, root=root), []
    gpu, lengths = gpu or settings.cluster.gpu or GPU, assumed_lengths(settings)
    for name, run, line in study_runs(profile, root):
        teacher = teacher_of(run, line)
        row = {"checkpoint": name, "stage": run.stage, "model": run.model.model}
        row |= {"taught by": teacher.model if teacher else "", "seeds": len(settings.seeds)}
        rows.append(row | needs(run, teacher, lengths, gpu, utilisation))
    published = 2 * sum(shape_of(model).parameters for model in {row["model"] for row in rows})
    return Plan(profile, gpu, utilisation, lengths, settings.sampling.max_new_tokens, pd.DataFrame(rows), published)


def needs(
    run: Resolved, teacher: RoleModel | None, lengths: Lengths, gpu: str, utilisation: float = UTILISATION
) -> dict:
    """The numbers of one run, on a GPU; a StudyError for an unknown GPU, a model of unknown shape, a set of unknown size.

    Sequences and tokens (`sampled` and `trained`; `tested`, in evaluation and validation), `flops`; `hours` of one GPU that
    computes, `hours at most` if all completions meet the limit, `hours reserved` of all `gpus` that it is given (0 on a CPU),
    from its start to its end, and `hours limit`, after which it may be killed; the parts of s2d_lib.plan.memory.Held in the
    phase that takes most, their `total`, and whether all phases `fit`; bytes of the `machine`'s memory; bytes of disk `kept`
    and for a while (`scratch`).
    """
    model, beside = (role and shape_of(role.model, role.layers) for role in (run.model, teacher))
    device, count, gpus, phases = gpu_named(gpu), counts(run), gpus_of(run), held(run, model, beside, lengths)
    longest = lengths.model_copy(update={"completion": run.sampling.max_new_tokens})
    work, most = (list(work_of(run, model, beside, of).values()) for of in (lengths, longest))
    alone, together = (sum(one.hours(device, utilisation) for one in parts) for parts in (work, most))
    until, at_most = (sum(one.hours(device, utilisation) / one.gpus for one in parts) for parts in (work, most))
    fullest = max(phases, key=lambda one: one.total + one.engine * device["memory"])
    kept, scratch = disk_of(run, model, beside, lengths)
    return {
        "sequences": count.sequences,
        "sampled": count.sequences * lengths.completion,
        "trained": count.trained * lengths.completion,
        "tested": (count.tested + count.validated) * lengths.completion,
        "flops": sum(part.flops for part in work),
        "hours": alone,
        "hours at most": together,
        "hours reserved": gpus * (until + AROUND),
        "hours limit": SLACK * at_most + AROUND,
        "gpus": gpus,
        **asdict(fullest),
        "total": fullest.total,
        "fit": all(shortage(one, device["memory"], gpu) is None for one in phases),
        "machine": host_bytes(run, model, beside, phases[0]),
        "kept": kept,
        "scratch": scratch,
    }


def resources(profile: str, runs: dict[str, Resolved], root: Path | None = None) -> dict[str, dict]:
    """What every run of a profile asks a scheduler for, by its key: the numbers of `needs`, and what the profile's `cluster` says
    instead; `cores`, `memory` (of the machine, GB), `partition` (Slurm's, or None), and `hours limit`, which is None on a CPU,
    whose speed is not known. Raises as `needs`."""
    settings, by_name, found = load_profile(profile, root=root), {run.checkpoint: run for run in runs.values()}, {}
    for key, run in runs.items():
        cluster, hardware = settings.block("cluster", run.stage, run.role), run.hardware
        row = needs(run, teacher_of(run, by_name), assumed_lengths(settings), cluster.gpu or GPU)
        found[key] = row | {
            "cores": hardware.threads * (hardware.processes if "steps" in run.params else 1),
            "memory": ceil(cluster.memory or row["machine"] / 1e9),
            "hours limit": cluster.hours or (row["hours limit"] if row["gpus"] else None),
            "partition": cluster.partition,
        }
    return found


def of_snakemake(run: Resolved, asked: dict) -> dict[str, int | str]:
    """A run's `resources` as Snakemake's executors for Slurm and Kubernetes name them; cores are a rule's `threads`. A StudyError
    where no hours are known."""
    if asked["hours limit"] is None:
        raise StudyError(
            f"{run.checkpoint!r} runs on a CPU, whose speed the planner does not know: give profile {run.profile!r} the hours "
            "after which a job is killed (`cluster: {hours: ...}`)."
        )
    gpus = {"gpu": asked["gpus"], "gpu_manufacturer": "nvidia"} if asked["gpus"] else {}
    partition = {"slurm_partition": asked["partition"]} if asked["partition"] else {}
    return {"mem_mb": asked["memory"] * 1000, "runtime": ceil(asked["hours limit"] * 60)} | gpus | partition
