"""What a run does one after the other on the GPUs that it is given: training, then evaluation by one process."""

from dataclasses import dataclass
from typing import Literal

from s2d_lib.plan.architecture import Architecture
from s2d_lib.plan.gpus import Gpu
from s2d_lib.plan.hours import AROUND, Work
from s2d_lib.plan.memory import Memory, memory_afterwards, memory_of
from s2d_lib.study import Resolved
from s2d_lib.study.settings import Lengths


@dataclass(frozen=True)
class Phase:
    """A part of a run and what it holds.

    Attributes:
        name: Of a run that trains in one process, which goes on to evaluate, there is only `training`.
        memory: Of one process, were it alone.
        gpus: How many GPUs (on a CPU processes) the profile gives it.
        shared: Whether they hold one model together: in shards, or its layers laid out over them.
    """

    name: Literal["training", "sampling", "evaluation"]
    memory: Memory
    gpus: int
    shared: bool

    @property
    def each(self) -> float:
        """Bytes of each of its GPUs."""
        return self.memory.on(self.gpus, self.shared)


def phases_of(run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths) -> list[Phase]:
    """The phases of a run; the arguments are those of `memory_of`."""
    hardware, memory = run.hardware, memory_of(run, model, teacher, lengths)
    if not run.params.get("steps"):
        return [Phase("sampling", memory, hardware.sampling_gpus, shared=True)]
    found = [Phase("training", memory, hardware.processes, shared=hardware.accelerate is not None)]
    if hardware.processes > 1:
        found.append(Phase("evaluation", memory_afterwards(run, model, lengths), hardware.sampling_gpus, shared=True))
    return found


def processes_of(run: Resolved) -> int:
    """Processes that train a run; base models and rollouts are sampled by one."""
    return run.hardware.processes if run.params.get("steps") else 1


def engine_gpus(run: Resolved) -> int:
    """GPUs over which a vLLM engine of its own computes a run's evaluation or rollouts together; 1 without one. In training
    TRL's engines have the GPUs of the processes."""
    use = "rollouts" if run.stage == "teacher_rollouts" else "evaluation"
    options = run.sampling.by_vllm(use)
    return options.tensor_parallel if options and options.mode == "colocate" else 1


def gpus_of(run: Resolved) -> int:
    """GPUs that a run is given: those of its phases, or of a vLLM engine where that takes more; on CPUs none."""
    if run.hardware.device == "cpu":
        return 0
    alone = bool(run.params.get("steps")) and run.hardware.processes == 1  # it trains and evaluates on one
    return max(processes_of(run), 1 if alone else run.hardware.sampling_gpus, engine_gpus(run))


def hours_of(run: Resolved, work: Work, gpu: Gpu, utilisation: float) -> float:
    """Hours that a run's work takes on the GPUs that it is given."""
    engine = engine_gpus(run)
    return work.elapsed(gpu, utilisation, processes_of(run) if run.params.get("steps") else engine, engine)


def reserved_hours(run: Resolved, work: Work, gpu: Gpu, utilisation: float) -> float:
    """GPU hours that a run keeps from others: all GPUs that it is given, loading and evaluation by one of them included."""
    return gpus_of(run) * (hours_of(run, work, gpu, utilisation) + AROUND)
