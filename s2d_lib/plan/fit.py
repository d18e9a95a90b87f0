"""Does a run fit into the memory that is there, and what to do where it does not?"""

import psutil

from s2d_lib.errors import StudyError
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.memory import RESERVE, Memory, memory_of
from s2d_lib.study import Resolved, load_profile
from s2d_lib.study.settings import Hardware, Lengths


def visible_gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of every GPU that torch sees."""
    import torch

    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(found.name, found.total_memory) for found in properties]


def memory_here(hardware: Hardware) -> tuple[float, str] | None:
    """Bytes that each process has, and whose they are; None where the GPU that is asked for is not there."""
    if hardware.device == "cpu":
        return psutil.virtual_memory().total, "the machine"
    found = visible_gpus()
    return (min(memory for _, memory in found), "a GPU") if found else None


def shortage(memory: Memory, hardware: Hardware, room: float, whose: str, reserve: float = RESERVE) -> str | None:
    """What a process lacks of `room` bytes and what to do about it, or None where it fits with that share in reserve."""
    free = memory.room(room) + (RESERVE - reserve) * room
    # Only training is spread over processes; base models and rollouts are sampled by one.
    processes = hardware.processes if memory.gradients else 1
    sharded = hardware.accelerate is not None
    needs = f"{needed(memory, hardware, room, whose)}, {reserve:.0%} in reserve"
    if memory.engine_least > memory.engine_share * room:
        says = f"vLLM needs {memory.engine_least / 1e9:.1f} GB of {whose}'s {room / 1e9:.1f}"
        remedy = "raise vllm.gpu_memory_utilization or vllm.tensor_parallel"
        return f"{says} and is given {memory.engine_share:.0%}: {remedy}."
    if memory.on(processes, sharded) <= free:
        return None
    state, cache = memory.state / (processes if sharded else 1), memory.kv_cache / processes
    if state > free:
        enough = memory.gpus(room) if memory.gradients else None
        more = f", or let {enough} processes share it (hardware.processes and accelerate)" if enough else ""
        less = ", train adapters of it (lora)" if memory.gradients else ""
        return f"{needs}: weights, gradients and optimiser alone take {state / 1e9:.1f} GB: take a smaller model{less}{more}."
    if cache >= memory.activations:
        return f"{needs}: its KV cache takes {cache / 1e9:.1f} GB: lower sampling.batch, the stage's `batch` or max_new_tokens."
    remedy = f"its activations take {memory.activations / 1e9:.1f} GB: lower `micro_batch` or set "
    return f"{needs}: {remedy}hardware.gradient_checkpointing."


def needed(memory: Memory, hardware: Hardware, room: float, whose: str) -> str:
    """How much of the memory a process takes, in words."""
    held = memory.on(hardware.processes if memory.gradients else 1, hardware.accelerate is not None)
    beside = f" beside vLLM's {memory.engine_share:.0%}" if memory.engine_share else ""
    return f"needs {held / 1e9:.1f} GB of {whose}'s {room / 1e9:.1f}{beside}"


def refuse_what_does_not_fit(run: Resolved, teacher: str | None) -> None:
    """Refuse a run that would end for want of memory, before anything is loaded.

    What is certain is refused: without a reserve, and with prompts as long as the profile assumes, or none. Models whose
    shape is not known, and GPUs that are not there, are for others to refuse.

    Args:
        run: The run.
        teacher: The model of its dense targets, where it has one.

    Raises:
        StudyError: It would not fit.
    """
    found = memory_here(run.hardware)
    if found is None:
        return
    try:
        model, taught_by = architecture_of(run.model.model), architecture_of(teacher) if teacher else None
    except StudyError:
        return
    lengths = load_profile(run.profile, run.overrides).lengths or Lengths(prompt=1, completion=1)
    lacks = shortage(memory_of(run, model, taught_by, lengths), run.hardware, *found, reserve=0.0)
    if lacks:
        raise StudyError(f"{run.checkpoint!r} {lacks}")
