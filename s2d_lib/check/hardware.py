"""Is there the GPU that the profile asks for, and do its runs fit on it and on the disk?"""

import shutil
from collections.abc import Iterator

import psutil

from s2d_lib.check.line import Line
from s2d_lib.check.params import resolved_runs
from s2d_lib.errors import StudyError
from s2d_lib.plan import plan
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.memory import RESERVE, Memory, memory_of
from s2d_lib.plan.plan import teacher_of
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.runs import runs_root
from s2d_lib.study import load_profile
from s2d_lib.study.settings import Hardware


def check_gpus(profile: str) -> Iterator[Line]:
    """The GPUs that torch sees, where the profile asks for one, and how its processes are to share them."""
    hardware = load_profile(profile).hardware
    if hardware.device == "cpu":
        yield Line("GPUs", "the profile asks for none")
        return
    found = visible_gpus()
    if found and len(found) < hardware.processes:
        says = f"{len(found)}, but hardware.processes is {hardware.processes}: lower it, or run it where there are as many."
        yield Line("number of GPUs", says, ok=False)
    if hardware.accelerate:
        from s2d_lib.policies.sharing import check_sharing

        try:
            check_sharing(hardware)
        except StudyError as error:
            yield Line("accelerate", str(error), ok=False)
        else:
            yield Line("accelerate", f"{hardware.accelerate} says how processes share a model")
    if not found:
        yield Line(
            "GPUs",
            "the profile asks for one (hardware.device: cuda) but torch sees none: run it on a machine with one, with a "
            f"torch that is built for it; `s2d plan --profile {profile}` says what its runs need.",
            ok=False,
        )
    for number, (name, memory) in enumerate(found):
        yield Line(f"GPU {number}", f"{name}, {memory / 1e9:.0f} GB")


def visible_gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of every GPU that torch sees."""
    import torch

    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(found.name, found.total_memory) for found in properties]


def check_memory(profile: str) -> Iterator[Line]:
    """The most that a process of each kind of run holds, as planned, against a GPU's memory or, on the CPU, the machine's."""
    settings, runs = load_profile(profile), resolved_runs(profile)
    if settings.hardware.device == "cpu":
        room, whose = psutil.virtual_memory().total, "the machine"
    elif found := visible_gpus():
        room, whose = min(memory for _, memory in found), "a GPU"
    else:
        return  # said by check_gpus
    lengths, kinds = assumed_lengths(settings), {}
    for run in runs.values():
        teacher = teacher_of(run, runs)
        taught_by = architecture_of(teacher) if teacher else None
        memory = memory_of(run, architecture_of(run.model.model), taught_by, lengths)
        kind = f"{run.stage} of {run.model.model}" + (f" by {teacher}" if teacher else "")
        kinds[kind] = max(kinds.get(kind, memory), memory, key=lambda one: one.on(1))
    for kind, memory in kinds.items():
        yield fit(kind, memory, settings.hardware, room, whose)


def fit(kind: str, memory: Memory, hardware: Hardware, room: float, whose: str) -> Line:
    """Whether a process of one kind of run fits into `room` bytes, and what to do where it does not."""
    # Only training is spread over processes; base models and rollouts are sampled by one.
    processes = hardware.processes if memory.gradients else 1
    sharded = hardware.accelerate is not None
    held = memory.on(processes, sharded)
    beside = f" beside vLLM's {memory.engine_share:.0%}" if memory.engine_share else ""
    needs = f"needs {held / 1e9:.1f} GB of {whose}'s {room / 1e9:.1f}{beside}"
    if memory.engine_least > memory.engine_share * room:
        says = f"vLLM needs {memory.engine_least / 1e9:.1f} GB of {whose}'s {room / 1e9:.1f}"
        remedy = "raise vllm.gpu_memory_utilization or vllm.tensor_parallel"
        return Line(f"memory, {kind}", f"{says} and is given {memory.engine_share:.0%}: {remedy}.", ok=False)
    if held <= memory.room(room):
        return Line(f"memory, {kind}", needs)
    state, cache = memory.state / (processes if sharded else 1), memory.kv_cache / processes
    if state > memory.room(room):
        enough = memory.gpus(room) if memory.gradients else None
        more = f", or let {enough} processes share it (hardware.processes and accelerate)" if enough else ""
        remedy = f"weights, gradients and optimiser alone take {state / 1e9:.1f} GB: take a smaller model{more}"
    elif cache >= memory.activations:
        remedy = f"its KV cache takes {cache / 1e9:.1f} GB: lower sampling.batch, the stage's `batch` or max_new_tokens"
    else:
        remedy = f"its activations take {memory.activations / 1e9:.1f} GB: lower `micro_batch` or set "
        remedy += "hardware.gradient_checkpointing"
    return Line(f"memory, {kind}", f"{needs}, {RESERVE:.0%} in reserve: {remedy}.", ok=False)


def check_disk(profile: str) -> Iterator[Line]:
    """Free space where runs are kept, against what the plan says they need; published models are not counted."""
    found, folder = plan(profile), runs_root()
    needed = found.disk - found.published
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    says = f"runs need {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free"
    if needed <= free:
        yield Line("disk", says)
    else:
        yield Line("disk", f"{says}: free some, or let S2D_RUNS name a folder on a larger disk.", ok=False)
