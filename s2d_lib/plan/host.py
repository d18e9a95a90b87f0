"""What a run takes of the machine's own memory, beside the GPUs', and what to do where the machine has less."""

import os
from pathlib import Path

import psutil

from s2d_lib.plan.architecture import Architecture
from s2d_lib.plan.memory import Memory, memory_of
from s2d_lib.plan.phases import processes_of
from s2d_lib.study import Resolved
from s2d_lib.study.settings import Lengths

PROCESS = 6e9  # bytes of a process's libraries and data


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less where a container or a Slurm job has a limit."""
    return min(psutil.virtual_memory().total, *cgroup_limits(), *slurm_limits())


def cgroup_limits(proc: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes that each control group around this process allows it (Linux, cgroup v1 and v2); other systems have none."""
    limits = []
    for line in proc.read_text("utf-8").splitlines() if proc.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (mounted / "memory", "memory.limit_in_bytes") if controllers else (mounted, "memory.max")
        own = top / path.lstrip("/")  # where a container does not see the groups outside it, its own is the top
        files = [folder / name for folder in (own, *own.parents) if folder.is_relative_to(top)]
        texts = [file.read_text("utf-8").strip() for file in files if file.is_file()]
        limits += [
            int(text) for text in texts if text.isdigit()
        ]  # v2 says `max` for none, v1 a number beyond all memory
    return limits


def slurm_limits() -> list[int]:
    """Bytes that Slurm has given the job on this node, where this is one; MiB in its variables, and 0 means all."""
    each, cores = os.environ.get("SLURM_MEM_PER_CPU"), os.environ.get("SLURM_CPUS_ON_NODE")
    asked = [os.environ.get("SLURM_MEM_PER_NODE", 0), int(each) * int(cores) if each and cores else 0]
    return [int(mib) * 2**20 for mib in asked if int(mib)]


def host_bytes(run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths) -> float:
    """Bytes of the machine's memory: on a CPU all that a run holds, else the models on their way to GPUs, and what an
    accelerate config keeps there. The arguments are those of `memory_of`.

    The notebook loads them too before it starts processes; with a shared model one process reads for all.
    """
    memory, hardware, processes = memory_of(run, model, teacher, lengths), run.hardware, processes_of(run)
    everyone = PROCESS * (processes + (processes > 1))
    if hardware.device == "cpu":
        return everyone + processes * memory.on(processes, sharded=False)
    readers = _readers(run)
    return everyone + _kept(memory) + (readers + (processes > 1)) * (4 * model.parameters + memory.teacher)


def machine_shortage(
    run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths, certain: bool = False
) -> str | None:
    """What a run on GPUs lacks of this machine's memory and what to do about it; None where it fits.

    Args:
        run: The run; the next three are those of `memory_of`.
        certain: Count only what is held from step to step, not the libraries' share and the models while they are read.
    """
    memory, room = memory_of(run, model, teacher, lengths), machine_memory()
    kept = _kept(memory)
    takes = kept if certain else host_bytes(run, model, teacher, lengths)
    if takes <= room:
        return None
    says = f"needs {takes / 1e9:.1f} GB of the machine's {room / 1e9:.1f}"
    if kept:
        return (
            f"{says}, of which {run.hardware.accelerate} keeps {kept / 1e9:.1f} GB there: take a machine with more memory, name "
            "fsdp2.yaml over more GPUs (hardware.accelerate and processes), or train adapters (lora, without accelerate)."
        )
    takes = "for its processes' libraries and for models on their way to the GPUs"
    shares = ", let processes share the model (hardware.accelerate: fsdp2.yaml)" if _readers(run) > 1 else ""
    less = "lower hardware.processes" if processes_of(run) > 1 else "take a smaller model"
    return f"{says} {takes}: take a machine with more memory{shares}, or {less}."


def _kept(memory: Memory) -> float:
    """Bytes of what all processes together hold there from step to step."""
    return memory.state if memory.on_host else 0.0


def _readers(run: Resolved) -> int:
    """Processes that read a checkpoint each for itself."""
    return 1 if run.hardware.accelerate else processes_of(run)
