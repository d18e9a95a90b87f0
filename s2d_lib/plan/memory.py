"""What a run holds in memory, by a formula, and whether that fits where it is to run.

Trained weights, their gradients and AdamW's two moments are float32, 16 bytes a parameter (ZeRO, arXiv 1910.02054, table 1, all
of them in float32), under LoRA the adapters' alone; GPUs that share a model hold even parts. The formula is exact to the byte for
these, within about a third for activations, and leaves out what kernels, communication and fragments take, for which RESERVE is
kept. A measured pilot (s2d_lib.check.pilot) has all of it.
"""

import os
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import psutil

from s2d_lib.errors import StudyError
from s2d_lib.plan.cost import (
    BYTES,
    DENSE,
    Shape,
    assumed_lengths,
    counts,
    gpu_named,
    lora_of,
    shape_of,
    size,
    teacher_of,
    trained_parameters,
)
from s2d_lib.study import Resolved, lineage, load_profile
from s2d_lib.study.resolve import state_on_host
from s2d_lib.study.settings import Lengths
from s2d_lib.study.stage_params import SELF_TAUGHT

GPU = "h100-80gb"  # that is assumed where nothing says another
RESERVE = 0.09  # of a GPU's memory
CHUNK = {"cpu": 2**17, "cuda": 2**27}  # logits of a model that a loss holds at a time (s2d_lib.losses)
PROCESS = 6e9  # bytes of the machine's memory that a process's libraries and data take
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Held:
    """What each GPU (on a CPU each process) of a run holds in one of its phases, in bytes by part."""

    phase: str  # `training`, `sampling`, or the `evaluation` by one process that follows a training in several
    on: int  # so many GPUs, or processes
    state: float  # weights, gradients, the optimiser's moments, and frozen models beside them
    activations: float = 0.0  # of a micro-batch, with a chunk of its logits; these take turns with the cache
    kv_cache: float = 0.0  # of what transformers samples at once
    engine: float = 0.0  # share of a GPU's memory that a vLLM engine of the run's own takes from the start
    on_host: float = 0.0  # bytes of the machine's memory, where the accelerate config keeps the state there

    @property
    def total(self) -> float:
        """All of it at its most, without vLLM's share."""
        return self.state + max(self.activations, self.kv_cache)


def held(run: Resolved, model: Shape, teacher: Shape | None, lengths: Lengths) -> list[Held]:
    """What a run holds in each phase, every completion as long as the limit; of `lengths` the prompt's counts."""
    if "steps" not in run.params:
        return [_sampled(run, model, lengths, run.hardware.dtype)]
    after = [_sampled(run, model, lengths, "float32")] if run.hardware.processes > 1 else []
    return [_training(run, model, teacher, lengths), *after]


def _training(run: Resolved, model: Shape, teacher: Shape | None, lengths: Lengths) -> Held:
    hardware, params, lora, width = run.hardware, run.params, lora_of(run), BYTES[run.hardware.dtype]
    taught, trained = params.get("method") in SELF_TAUGHT, trained_parameters(run, model)
    compares, frozen = run.stage in DENSE or taught, teacher if params.get("teacher_targets") == "recompute" else None
    weights = 4 * (model.parameters + (trained if lora else 0))
    copies = weights / 2 if width == 2 else 0  # autocast's
    # A self-teacher, or a reference, which under LoRA is the policy without its adapters; gradients and two moments
    second = taught or (params.get("kl_coefficient", 0) > 0 and not lora)
    state = weights + 4 * trained * second + 12 * trained
    on_host, share = state_on_host(hardware), 1 / hardware.processes if hardware.accelerate else 1
    if hardware.accelerate:  # embeddings and two layers of each model are whole for a moment, and a gradient on its way
        shapes = [shape for shape in (model, model if taught else frozen) if shape]
        copies = width * sum(shape.parameters - (shape.layers - 2) * shape.layer for shape in shapes)
        copies += (width + 4) * max(model.embedding, model.layer)
    beside = share * width * frozen.parameters if frozen else 0.0
    # A chunk of each model's logits and, where two are compared, a buffer for the head's gradient
    logits = 4 * CHUNK[hardware.device] * (1 + compares) + 4 * model.embedding * (compares and not lora)
    engine = _engine(run, "training") if run.samples_itself else 0.0
    return Held(
        phase="training",
        on=hardware.processes,
        state=(0 if on_host else share * state) + copies + beside,
        activations=activations(run, model, lengths.prompt + run.sampling.max_new_tokens) + logits,
        kv_cache=_cached(run, lengths) * model.cached("float32"),  # of trained weights, under autocast too
        engine=engine or (_engine(run, "evaluation") if hardware.processes == 1 else 0.0),
        on_host=state if on_host else 0.0,
    )


def activations(run: Resolved, model: Shape, length: float) -> float:
    """Bytes kept for the backward pass of a micro-batch: a layer keeps of a token six vectors of the residual stream in
    float32 and, in the computation's precision, four of the MLP, six of queries and keys and its row of the mask; the
    gradients of a layer are as large. With checkpointing every layer keeps its input, and one at a time is made again."""
    of_others = 4 * model.mlp + 6 * (model.queries + model.keys) + length
    layer = 24 * model.width + BYTES[run.hardware.dtype] * of_others
    kept = 4 * model.width * model.layers + layer if run.hardware.gradient_checkpointing else model.layers * layer
    return run.params["micro_batch"] * ceil(length) * (kept + layer)


def _cached(run: Resolved, lengths: Lengths) -> float:
    """Tokens that transformers caches at once beside a training's state: the most of its rollouts, of the validation (in every
    process) and of the evaluation by a process that has trained alone."""
    processes, validation, sampling = run.hardware.processes, run.validation, run.sampling
    rollouts = counts(run).at_once / processes if run.samples_itself and not sampling.by_vllm("training") else 0
    evaluated = sampling.batch if processes == 1 and not sampling.by_vllm("evaluation") else 0
    tokens = max(rollouts, evaluated) * (lengths.prompt + sampling.max_new_tokens)
    if validation is None:
        return tokens
    rows = min(validation.batch or sampling.batch, validation.samples * size(run.problems.validation))
    return max(tokens, rows * (lengths.prompt + (validation.max_new_tokens or sampling.max_new_tokens)))


def _sampled(run: Resolved, model: Shape, lengths: Lengths, dtype: str) -> Held:
    """A model that one process only samples, its layers laid out over its GPUs, to the nearest one."""
    gpus, use = run.hardware.sampling_gpus, "rollouts" if run.stage == "teacher_rollouts" else "evaluation"
    part = 1 / gpus + (1 / model.layers if gpus > 1 else 0)
    rows = 0 if run.sampling.by_vllm(use) else run.sampling.batch
    cache = rows * (lengths.prompt + run.sampling.max_new_tokens) * model.cached(dtype)
    phase, weights = "evaluation" if "steps" in run.params else "sampling", BYTES[dtype] * model.parameters
    return Held(phase, gpus, part * weights, kv_cache=part * cache, engine=_engine(run, use))


def _engine(run: Resolved, use: str) -> float:
    """The share of a vLLM engine of the run's own; none of a server, or on a CPU."""
    options = run.sampling.by_vllm(use)
    own = options and options.mode == "colocate" and run.hardware.device == "cuda"
    return options.gpu_memory_utilization if own else 0.0


def host_bytes(run: Resolved, model: Shape, teacher: Shape | None, first: Held) -> float:
    """Bytes of the machine's memory that a run takes: on a CPU all that it holds in its `first` phase, else what an accelerate
    config keeps there and models on their way to GPUs, which the notebook reads too before it starts processes."""
    processes = first.on if first.phase == "training" else 1
    readers = (1 if run.hardware.accelerate else processes) + (processes > 1)
    weights = 4 * model.parameters + (BYTES[run.hardware.dtype] * teacher.parameters if teacher else 0)
    there = processes * first.total if run.hardware.device == "cpu" else first.on_host + readers * weights
    return PROCESS * (processes + (processes > 1)) + there


REMEDIES = {
    "weights": "take a smaller model, or let more GPUs hold it together (hardware.sampling_gpus)",
    "state": "take a smaller model, train adapters (lora), or let more processes share it (hardware.accelerate)",
    "activations": "lower `micro_batch` or set hardware.gradient_checkpointing",
    "KV cache": "lower sampling.batch, the stage's `batch` or max_new_tokens",
}
ON_CPU = "take a smaller model, lower batches or hardware.processes, or take a machine with more memory"


def shortage(one: Held, room: float, whose: str, reserve: float = RESERVE, together: bool = False) -> str | None:
    """What a phase of a run lacks of `room` bytes on each of its GPUs, and the remedy; None where it fits with that share in
    reserve. `together`: its processes divide the room among them, as they do a machine's memory on a CPU."""
    free = (1 - reserve - one.engine) * room / (one.on if together else 1)
    if one.total <= free:
        return None
    parts = {"activations": one.activations, "KV cache": one.kv_cache}
    if one.state > free:
        parts = {"state" if one.phase == "training" else "weights": one.state}
    largest = max(parts, key=parts.get)
    each = f" on each of {one.on}" if one.on > 1 else ""
    beside = f" beside vLLM's {one.engine:.0%}" if one.engine else ""
    return (
        f"needs {one.total / 1e9:.1f} GB of {whose}'s {room / 1e9:.1f}{each}{beside}, {reserve:.0%} in reserve, "
        f"{parts[largest] / 1e9:.1f} of them for {largest}: {ON_CPU if together else REMEDIES[largest]}."
    )


def refuse_what_does_not_fit(run: Resolved, certain: bool = True) -> None:
    """Refuse a run that would end for want of memory, in its training or the evaluation after it, before anything is loaded: with
    what takes most, and the remedy. `certain` refuses only what is sure: without a reserve and what loading takes, of activations
    two thirds; GPUs that are not there and models of unknown shape are for others to refuse. Else a GPU that is not there is the
    plan's."""
    settings, on_cpu, machine = load_profile(run.profile, run.overrides), run.hardware.device == "cpu", machine_memory()
    teacher = teacher_of(run, lineage(run.profile, run.checkpoint, run.seed, run.overrides))
    try:
        model, beside = (role and shape_of(role.model, role.layers) for role in (run.model, teacher))
    except StudyError:
        if certain:
            return
        raise
    room, whose = machine, "the machine"
    if not on_cpu:
        free = [bytes_ for _, bytes_ in visible_gpus()]
        assumed = settings.block("cluster", run.stage, run.role).gpu or GPU
        if certain and not free:
            return
        room, whose = (min(free), "a GPU") if free else (gpu_named(assumed)["memory"], assumed)
    reserve, phases = 0.0 if certain else RESERVE, held(run, model, beside, assumed_lengths(settings))
    on_host = phases[0].on_host if certain else host_bytes(run, model, beside, phases[0])
    if certain:
        phases = [replace(one, activations=2 / 3 * one.activations) for one in phases]
    asked = [(one, room, whose, reserve, on_cpu) for one in phases]
    if whose == "a GPU":
        asked.append((Held("training", 1, on_host), machine, "the machine", 0.0, True))
    for one in asked:
        if lacks := shortage(*one):
            part = " (its evaluation, by one process)" if one[0].phase == "evaluation" else ""
            raise StudyError(f"{run.checkpoint!r}{part} {lacks}")


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less where a container or a Slurm job has a limit."""
    files = [CGROUPS / name for name in ("memory.max", "memory/memory.limit_in_bytes")]
    texts = [file.read_text("utf-8").strip() for file in files if file.is_file()]
    limits = [int(text) for text in texts if text.isdigit()]  # without one v2 says `max`, v1 a huge number, Slurm 0
    slurm = int(os.environ.get("SLURM_MEM_PER_NODE", 0)) * 2**20
    return min(limit for limit in (psutil.virtual_memory().total, slurm, *limits) if limit)


def visible_gpus() -> list[tuple[str, int]]:
    """Of every GPU that torch sees its name and the bytes of its memory that are free, or this process's own."""
    from torch import cuda

    here = range(cuda.device_count())
    return [(cuda.get_device_name(i), cuda.mem_get_info(i)[0] + cuda.memory_reserved(i)) for i in here]
