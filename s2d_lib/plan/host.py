"""What a run takes of the machine's own memory, beside the GPUs', and what to do where the machine has less."""

import psutil

from s2d_lib.plan.architecture import Architecture
from s2d_lib.plan.memory import Memory, memory_of
from s2d_lib.plan.phases import processes_of
from s2d_lib.study import Resolved
from s2d_lib.study.settings import Lengths

PROCESS = 6e9  # bytes of a process's libraries and data


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    return psutil.virtual_memory().total


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
