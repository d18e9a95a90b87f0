"""The plan of a profile: every run with its tokens, FLOPs, GPU hours, memory and disk, before any of it is made."""

from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.plan.architecture import Architecture, architecture_of
from s2d_lib.plan.disk import PUBLISHED, kept_bytes, scratch_bytes
from s2d_lib.plan.fit import shortage
from s2d_lib.plan.gpus import Gpu, gpu_named
from s2d_lib.plan.hours import work_of
from s2d_lib.plan.memory import Memory
from s2d_lib.plan.one_base import taught_by, teacher_of
from s2d_lib.plan.per_gpu import fullest, held_by_each, moment_of
from s2d_lib.plan.phases import gpus_of, phases_of, reserved_hours
from s2d_lib.plan.tokens import assumed_lengths, counts
from s2d_lib.study import Resolved, lineage, load_profile, needed, points, resolve
from s2d_lib.study.settings import Lengths

GPU, UTILISATION = "h100-80gb", 0.4
PARTS = [field.name for field in fields(Memory) if field.name != "on_host"]


@dataclass(frozen=True)
class Plan:
    """What a profile's study will take.

    Attributes:
        profile: Its name.
        gpu: Name of the GPU.
        utilisation: Share of the GPU's peak that is assumed to be reached.
        lengths: The assumed mean lengths.
        limit: Longest completion.
        runs: One row a checkpoint: `checkpoint`, `stage`, `role`, `model`, `taught by` (a teacher's model, or empty),
            `seeds`; of one seed `sequences`, `sampled`, `trained` and `tested` (tokens), `flops`, `hours`, `hours sampling`
            (of them), `hours low`, `hours high`, `hours reserved` (of all GPUs that it is given, from its start to its end);
            memory of one process by part (bytes; of vLLM's a share too), its `peak`, `gpus` (the fewest; NaN for no number of
            them); `given` (GPUs that the profile gives it, 0 on a CPU) and `fits`; where it takes most of a GPU, its `phase`
            there, `phase gpus` (of that phase), `each` (bytes of each of them, without vLLM's), `each <part>` (these bytes,
            vLLM's and the reserve, by s2d_lib.plan.per_gpu) and `each moment is` (the name of that part); bytes of disk
            `kept` and `scratch`.
        published: Bytes of the models as they are downloaded.
    """

    profile: str
    gpu: str
    utilisation: float
    lengths: Lengths
    limit: int
    runs: pd.DataFrame
    published: float

    def total(self, column: str) -> float:
        """Sum of a column of `runs` over all runs and seeds."""
        return float((self.runs[column] * self.runs["seeds"]).sum())

    @property
    def disk(self) -> float:
        """Bytes that the whole study needs: all that it keeps, the largest run's scratch, and the published models."""
        return self.total("kept") + float(self.runs["scratch"].max()) + self.published


def plan(profile: str, gpu: str | None = None, utilisation: float = UTILISATION, root: Path | None = None) -> Plan:
    """The plan of everything that `s2d study` would make of a profile.

    Args:
        profile: Name.
        gpu: Name of a GPU in gpus.yaml; None: that of the profile's `cluster`, else GPU.
        utilisation: Share of its peak FLOP/s and bandwidth that is reached, over 0 and at most 1.
        root: The project's folder.

    Raises:
        StudyError: Bad parameters, an unknown GPU, a utilisation out of range, a model of unknown shape.
    """
    if isinstance(utilisation, bool) or not isinstance(utilisation, int | float) or not 0 < utilisation <= 1:
        raise StudyError(f"`utilisation` is a share of the GPU's peak, over 0 and at most 1, given {utilisation!r}.")
    settings = load_profile(profile, root=root)
    gpu = gpu or settings.cluster.gpu or GPU
    device = gpu_named(gpu)
    resolved = {name: resolve(profile, name, settings.seeds[0], root=root) for name in needed(profile, root)}
    planned = {run.hash: (name, run, resolved) for name, run in resolved.items()}
    for point in points(profile, root):
        line = lineage(profile, point.route, settings.seeds[0], point.overrides, root)
        for name, run in line.items():
            planned.setdefault(run.hash, (f"{name}@{run.hash[:8]}", run, line))
    lengths = assumed_lengths(settings)
    rows = [
        {"checkpoint": name, "stage": run.stage, "role": run.role, "model": run.model.model}
        | {"seeds": len(settings.seeds), "taught by": taught_by(run, line) or ""}
        | row(run, teacher_of(run, line), lengths, device, utilisation)
        for name, run, line in planned.values()
    ]
    models = {run.model.model for _, run, _ in planned.values()}
    return Plan(
        profile,
        gpu,
        utilisation,
        lengths,
        settings.sampling.max_new_tokens,
        pd.DataFrame(rows),
        PUBLISHED * sum(architecture_of(model).parameters for model in models),
    )


def row(run: Resolved, teacher: str | None, lengths: Lengths, gpu: Gpu, utilisation: float) -> dict:
    """The numbers of one run, by the columns of `Plan.runs`; `teacher` names the model of `teacher_of`."""
    model, beside = architecture_of(run.model.model), architecture_of(teacher) if teacher else None
    count, work, phases = (
        counts(run),
        work_of(run, model, beside, lengths),
        phases_of(run, model, beside, lengths),
    )
    fewest = [phase.memory.gpus(gpu.memory) for phase in phases]
    most = fullest(phases, gpu.memory)
    low, high = hours_range(run, model, beside, lengths, gpu, utilisation)
    return {
        "sequences": count.sequences,
        "sampled": count.sequences * lengths.completion,
        "trained": count.trained * lengths.completion,
        "tested": (count.tested + count.validated) * lengths.completion,
        "flops": work.flops,
        "hours": work.hours(gpu, utilisation),
        "hours sampling": work.sampling_hours(gpu, utilisation),
        "hours low": low,
        "hours high": high,
        "hours reserved": reserved_hours(run, work, gpu, utilisation),
        **{part: getattr(phases[0].memory, part) for part in PARTS},
        "peak": max(phase.memory.on(1) for phase in phases),
        "gpus": float("nan") if None in fewest else max(fewest),
        "given": gpus_of(run),
        "fits": all(shortage(phase, gpu.memory, "a GPU") is None for phase in phases),
        "phase": most.name,
        "phase gpus": most.gpus,
        "each": most.each,
        **{f"each {part}": size for part, size in held_by_each(most, gpu.memory).items()},
        "each moment is": moment_of(most),
        "kept": kept_bytes(run, model, lengths),
        "scratch": scratch_bytes(run, model, beside, lengths),
    }


def hours_range(
    run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths, gpu: Gpu, utilisation: float
) -> tuple[float, float]:
    """GPU hours if completions are half as long as assumed and sampled without padding, and if all meet the limit."""
    short = lengths.model_copy(update={"completion": ceil(lengths.completion / 2)})
    long = lengths.model_copy(update={"completion": run.sampling.max_new_tokens})
    return (
        work_of(run, model, teacher, short, padded=False).hours(gpu, utilisation),
        work_of(run, model, teacher, long).hours(gpu, utilisation),
    )
