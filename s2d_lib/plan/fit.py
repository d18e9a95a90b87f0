"""Does a run fit into the memory that is there, and what to do where it does not?"""

from s2d_lib.errors import StudyError
from s2d_lib.plan import host
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.memory import RESERVE
from s2d_lib.plan.phases import Phase, phases_of
from s2d_lib.study import Resolved, load_profile
from s2d_lib.study.settings import Hardware, Lengths


def visible_gpus() -> list[tuple[str, int]]:
    """Of every GPU that torch sees its name and the bytes of its memory that are free, or this process's own."""
    import torch

    cuda = torch.cuda
    free = [cuda.mem_get_info(i)[0] + cuda.memory_reserved(i) for i in range(cuda.device_count())]
    return [(cuda.get_device_name(i), memory) for i, memory in enumerate(free)]


def memory_here(hardware: Hardware) -> tuple[float, str] | None:
    """Bytes that each process has, on a CPU all of them together, and whose they are; None where the GPU that is asked for is
    not there."""
    if hardware.device == "cpu":
        return host.machine_memory(), "the machine"
    found = visible_gpus()
    return (min(memory for _, memory in found), "a GPU") if found else None


def shortage(phase: Phase, room: float, whose: str, reserve: float = RESERVE, together: bool = False) -> str | None:
    """What a phase of a run lacks of `room` bytes on each of its GPUs and what to do about it, or None where it fits with that
    share in reserve. `together`: its processes divide the room among them, as they do a machine's memory on a CPU."""
    memory = phase.memory
    free = (memory.room(room) + (RESERVE - reserve) * room) / (phase.gpus if together else 1)
    if memory.engine_least > memory.engine_share * room:
        says = f"vLLM needs {memory.engine_least / 1e9:.1f} GB of {whose}'s {room / 1e9:.1f}"
        remedy = "raise vllm.gpu_memory_utilization or vllm.tensor_parallel"
        return f"{says} and is given {memory.engine_share:.0%}: {remedy}."
    if phase.each <= free:
        return None
    remedy = _remedy(phase, free, None if together else memory.gpus(room))
    if together:
        fewer = ", lower hardware.processes" if phase.gpus > 1 else ""
        remedy = f"{remedy}{fewer}, or take a machine with more memory"
    return f"{needed(phase, room, whose, together)}, {reserve:.0%} in reserve: {remedy}."


def _remedy(phase: Phase, free: float, enough: int | None) -> str:
    """What to do about the largest part, where a process has `free` bytes; `enough` GPUs would hold it together."""
    memory, spread = phase.memory, phase.shared and phase.gpus > 1
    state = memory.shared(phase.gpus) if spread else memory.state + memory.copies
    cache = max(memory.kv_cache / phase.gpus, memory.validation)
    if phase.name != "training":
        more = f", or let {enough} GPUs hold the model together (hardware.sampling_gpus)" if enough else ""
        if state > free:
            return f"the weights alone take {state / 1e9:.1f} GB: take a smaller model{more}"
        return f"its KV cache takes {cache / 1e9:.1f} GB: lower sampling.batch or max_new_tokens{more}"
    if state > free:
        more = f", or let {enough} processes share it (hardware.processes and accelerate)" if enough else ""
        takes = f"weights, gradients and optimiser alone take {state / 1e9:.1f} GB"
        return f"{takes}: take a smaller model, train adapters of it (lora){more}"
    if cache >= memory.activations:
        return f"its KV cache takes {cache / 1e9:.1f} GB: lower sampling.batch, the stage's `batch` or max_new_tokens"
    takes = f"its activations take {memory.activations / 1e9:.1f} GB"
    return f"{takes}: lower `micro_batch` or set hardware.gradient_checkpointing"


def needed(phase: Phase, room: float, whose: str, together: bool = False) -> str:
    """How much of the memory of each of its GPUs a phase takes, or of the room that its processes have `together`, in words."""
    if together:
        each = f" ({phase.each / 1e9:.1f} in each of {phase.gpus} processes)" if phase.gpus > 1 else ""
        return f"needs {phase.gpus * phase.each / 1e9:.1f} GB of {whose}'s {room / 1e9:.1f}{each}"
    share = phase.memory.engine_share
    beside = f" beside vLLM's {share:.0%}" if share else ""
    each = f" on each of {phase.gpus}" if phase.gpus > 1 else ""
    return f"needs {phase.each / 1e9:.1f} GB of {whose}'s {room / 1e9:.1f}{each}{beside}"


def refuse_what_does_not_fit(run: Resolved, teacher: str | None) -> None:
    """Refuse a run that would end for want of memory, before anything is loaded.

    What is certain is refused: without a reserve, and with prompts as long as the profile assumes, or none. Models whose
    shape is not known, and GPUs that are not there, are for others to refuse.

    Args:
        run: The run.
        teacher: The model of its dense targets, where it has one.

    Raises:
        StudyError: It would not fit, or its evaluation after training would not.
    """
    found, on_cpu = memory_here(run.hardware), run.hardware.device == "cpu"
    if found is None:
        return
    try:
        model, taught_by = architecture_of(run.model.model), architecture_of(teacher) if teacher else None
    except StudyError:
        return
    lengths = load_profile(run.profile, run.overrides).lengths or Lengths(prompt=1, completion=1)
    for phase in phases_of(run, model, taught_by, lengths):
        lacks = shortage(phase, *found, reserve=0.0, together=on_cpu)
        if lacks:
            raise StudyError(f"{of_phase(repr(run.checkpoint), phase)} {lacks}")
    if not on_cpu and (lacks := host.machine_shortage(run, model, taught_by, lengths, certain=True)):
        raise StudyError(f"{run.checkpoint!r} {lacks}")


def of_phase(what: str, phase: Phase) -> str:
    """A run, or the part of it that comes after training in several processes."""
    return f"{what} (its evaluation, by one process)" if phase.name == "evaluation" else what
