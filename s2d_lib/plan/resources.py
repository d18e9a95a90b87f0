"""What a run needs of a cluster: GPUs, the machine's memory and cores, and hours after which it may be killed."""

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.plan.architecture import Architecture, architecture_of
from s2d_lib.plan.gpus import Gpu, gpu_named
from s2d_lib.plan.hours import Work, work_of
from s2d_lib.plan.memory import memory_of
from s2d_lib.plan.plan import GPU, UTILISATION, hours_range, teacher_of
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.study import Resolved, load_profile
from s2d_lib.study.settings import Cluster, Lengths

SLACK = 1.5  # on the hours with every completion at its limit: the utilisation is a guess, and a killed run has to queue again
AROUND = 0.5  # hours for what the planner does not count: loading, grading, saving
PROCESS = 6e9  # bytes of a process's libraries and data


@dataclass(frozen=True)
class Resources:
    """What one run asks for and is expected to use.

    Attributes:
        gpus: GPUs of one machine.
        cores: Of its processors.
        memory: GB (10^9 bytes) of its memory.
        hours: Until it is killed; None where nothing says how fast its hardware is.
        partition: Slurm's, or None.
        gpu_hours: Expected (all its GPUs together), at least, at most; zeros without GPUs.
        flops: Floating-point operations.
    """

    gpus: int
    cores: int
    memory: int
    hours: float | None
    partition: str | None
    gpu_hours: tuple[float, float, float]
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
    lengths, gpu = assumed_lengths(settings), gpu_named(settings.cluster.gpu or GPU)
    by_name = {run.checkpoint: run for run in runs.values()}
    memo: dict[tuple, Resources] = {}  # seeds differ in nothing that counts here
    found = {}
    for key, run in runs.items():
        same = (run.checkpoint, str(run.overrides))
        if same not in memo:
            memo[same] = _of_run(run, teacher_of(run, by_name), settings.cluster, lengths, gpu)
        found[key] = memo[same]
    return found


def _of_run(run: Resolved, teacher: str | None, cluster: Cluster, lengths: Lengths, gpu: Gpu) -> Resources:
    model, taught_by = architecture_of(run.model.model), architecture_of(teacher) if teacher else None
    hardware, trains = run.hardware, bool(run.params.get("steps"))
    processes = hardware.processes if trains else 1  # base models and rollouts are sampled by one
    on_gpu = hardware.device == "cuda"
    work, hours, gpu_hours = work_of(run, model, taught_by, lengths), cluster.hours, (0.0, 0.0, 0.0)
    if on_gpu:
        gpu_hours = (work.hours(gpu, UTILISATION), *hours_range(run, model, taught_by, lengths, gpu, UTILISATION))
        longest = work_of(run, model, taught_by, lengths.model_copy(update={"completion": run.sampling.max_new_tokens}))
        hours = hours or SLACK * _elapsed(longest, gpu, processes) + AROUND
    return Resources(
        gpus=processes if on_gpu else 0,
        cores=hardware.threads * processes,
        memory=ceil(cluster.memory or _host_bytes(run, model, taught_by, lengths, processes) / 1e9),
        hours=hours,
        partition=cluster.partition,
        gpu_hours=gpu_hours,
        flops=work.flops,
    )


def _elapsed(work: Work, gpu: Gpu, processes: int) -> float:
    """Hours that pass: processes share the training, one of them evaluates."""
    tested = Work(testing=work.testing)
    alone = tested.hours(gpu, UTILISATION)
    return replace(work, testing=(0.0, 0.0)).hours(gpu, UTILISATION) / processes + alone


def _host_bytes(
    run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths, processes: int
) -> float:
    """Memory of the machine: on a CPU all that a run holds, else the models on their way to GPUs.

    The notebook loads them too before it starts processes; with a shared model one process reads for all.
    """
    memory, hardware = memory_of(run, model, teacher, lengths), run.hardware
    everyone = PROCESS * (processes + (processes > 1))
    if hardware.device == "cpu":
        return everyone + processes * memory.on(1)
    readers = 1 if processes == 1 or hardware.accelerate else processes
    return everyone + (readers + (processes > 1)) * (4 * model.parameters + memory.teacher)
