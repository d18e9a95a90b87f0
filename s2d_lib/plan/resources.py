"""What a run needs of a cluster: GPUs, the machine's memory and cores, and hours after which it may be killed."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.gpus import gpu_named
from s2d_lib.plan.host import host_bytes
from s2d_lib.plan.hours import AROUND, work_of
from s2d_lib.plan.phases import gpus_of, hours_of, processes_of, reserved_hours
from s2d_lib.plan.plan import GPU, UTILISATION, hours_range, teacher_of
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.study import Resolved, load_profile
from s2d_lib.study.settings import Cluster, Lengths

SLACK = 1.5  # on the hours with every completion at its limit: the utilisation is a guess, and a killed run has to queue again


@dataclass(frozen=True)
class Resources:
    """What one run asks for and is expected to use.

    Attributes:
        gpus: GPUs of one machine, reserved as long as the run takes: a training's processes, the GPUs that one process samples
            on, a vLLM engine's.
        cores: Of its processors.
        memory: GB (10^9 bytes) of its memory.
        hours: Until it is killed; None where nothing says how fast its hardware is.
        partition: Slurm's, or None.
        gpu_hours: That it computes: expected (all its GPUs together), at least, at most; zeros without GPUs.
        reserved_hours: GPU hours that the scheduler counts, expected: its GPUs for all the time that passes.
        flops: Floating-point operations.
    """

    gpus: int
    cores: int
    memory: int
    hours: float | None
    partition: str | None
    gpu_hours: tuple[float, float, float]
    reserved_hours: float
    flops: float

    def of_snakemake(self, run: Resolved) -> dict[str, int | str]:
        """As Snakemake's executors for Slurm and Kubernetes name them; cores are a rule's `threads`.

        Raises:
            StudyError: No hours are known.
        """
        if self.hours is None:
            raise StudyError(
                f"{run.checkpoint!r} runs on a CPU, whose speed the planner does not know: give profile {run.profile!r} the "
                "hours after which a job is killed (`cluster: {hours: ...}`)."
            )
        asked: dict[str, int | str] = {"mem_mb": self.memory * 1000, "runtime": ceil(self.hours * 60)}
        if self.gpus:
            asked |= {"gpu": self.gpus, "gpu_manufacturer": "nvidia"}
        if self.partition:
            asked["slurm_partition"] = self.partition
        return asked


def resources(profile: str, runs: dict[str, Resolved], root: Path | None = None) -> dict[str, Resources]:
    """What every run of a profile needs, by its key.

    Args:
        profile: Name.
        runs: Any runs of it; a run's teacher need not be among them.
        root: The project's folder.

    Raises:
        StudyError: An unknown GPU, a model of unknown shape, a set of unknown size.
    """
    settings = load_profile(profile, root=root)
    lengths = assumed_lengths(settings)
    by_name = {run.checkpoint: run for run in runs.values()}
    memo: dict[tuple, Resources] = {}  # seeds differ in nothing that counts here
    found = {}
    for key, run in runs.items():
        same = (run.checkpoint, str(run.overrides))
        if same not in memo:
            memo[same] = _of_run(run, teacher_of(run, by_name), settings.block("cluster", run.stage, run.role), lengths)
        found[key] = memo[same]
    return found


def _of_run(run: Resolved, teacher: str | None, cluster: Cluster, lengths: Lengths) -> Resources:
    model, taught_by = architecture_of(run.model.model), architecture_of(teacher) if teacher else None
    gpu, processes, gpus = gpu_named(cluster.gpu or GPU), processes_of(run), gpus_of(run)
    work, hours, gpu_hours, reserved = work_of(run, model, taught_by, lengths), cluster.hours, (0.0, 0.0, 0.0), 0.0
    if gpus:
        gpu_hours = (work.hours(gpu, UTILISATION), *hours_range(run, model, taught_by, lengths, gpu, UTILISATION))
        reserved = reserved_hours(run, work, gpu, UTILISATION)
        longest = work_of(run, model, taught_by, lengths.model_copy(update={"completion": run.sampling.max_new_tokens}))
        hours = hours or SLACK * hours_of(run, longest, gpu, UTILISATION) + AROUND
    return Resources(
        gpus=gpus,
        cores=run.hardware.threads * processes,
        memory=ceil(cluster.memory or host_bytes(run, model, taught_by, lengths) / 1e9),
        hours=hours,
        partition=cluster.partition,
        gpu_hours=gpu_hours,
        reserved_hours=reserved,
        flops=work.flops,
    )
