"""Is there the GPU that the profile asks for, and do its runs fit on it and on the disk?"""

import shutil
from collections.abc import Iterator

from s2d_lib.check.line import Line
from s2d_lib.check.params import resolved_runs
from s2d_lib.errors import StudyError
from s2d_lib.plan import fit as fitting
from s2d_lib.plan import host, plan
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.gpus import gpu_named
from s2d_lib.plan.phases import Phase, gpus_of, phases_of
from s2d_lib.plan.plan import GPU, teacher_of
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.runs import runs_root
from s2d_lib.study import Resolved, load_profile


def check_gpus(profile: str) -> Iterator[Line]:
    """The GPUs that torch sees, where the profile asks for some, and how its processes are to share them."""
    runs = [run for run in resolved_runs(profile).values() if run.hardware.device == "cuda"]
    if not runs:
        yield Line("GPUs", "the profile asks for none")
        return
    found, most = fitting.visible_gpus(), max(runs, key=gpus_of)
    if found and len(found) < gpus_of(most):
        says = (
            f"{len(found)}, but {most.checkpoint!r} is given {gpus_of(most)}: lower hardware.processes or sampling_gpus"
        )
        yield Line("number of GPUs", f"{says}, or run it where there are as many.", ok=False)
    for hardware in {run.hardware.accelerate: run.hardware for run in runs if run.hardware.accelerate}.values():
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
            f"the profile asks for {gpus_of(most)} (hardware.device: cuda) but torch sees none: run it on a machine with them, "
            f"with a torch that is built for them. Memory is held against the plan's GPU, {_assumed(most)}.",
            ok=False,
        )
    for number, (name, memory) in enumerate(found):
        yield Line(f"GPU {number}", f"{name}, {memory / 1e9:.0f} GB free")


def _assumed(run: Resolved) -> str:
    """The GPU that the plan takes a run to have."""
    return load_profile(run.profile).block("cluster", run.stage, run.role).gpu or GPU


def check_memory(profile: str) -> Iterator[Line]:
    """The most that a process of each kind of run holds, as planned, against a GPU's memory or, on the CPU, the machine's;
    where torch sees no GPU, against the one that the plan assumes."""
    lengths, runs = assumed_lengths(load_profile(profile)), resolved_runs(profile)
    kinds: dict[str, tuple[Phase, float, str, bool]] = {}
    for run in runs.values():
        teacher, where = teacher_of(run, runs), fitting.memory_here(run.hardware)
        if where is None:
            where = gpu_named(_assumed(run)).memory, f"one {_assumed(run)}"
        taught_by = architecture_of(teacher) if teacher else None
        for phase in phases_of(run, architecture_of(run.model.model), taught_by, lengths):
            kind, one = fitting.of_phase(_kind(run, teacher), phase), (phase, *where, run.hardware.device == "cpu")
            kinds[kind] = max(kinds.get(kind, one), one, key=lambda found: found[0].each)
    for kind, found in kinds.items():
        yield fit(kind, *found)


def _kind(run: Resolved, teacher: str | None) -> str:
    """Runs of one stage of the same models, in words."""
    return f"{run.stage} of {run.model.model}" + (f" by {teacher}" if teacher else "")


def fit(kind: str, phase: Phase, room: float, whose: str, together: bool = False) -> Line:
    """Whether a kind of run fits into `room` bytes, and what to do where it does not (s2d_lib.plan.fit.shortage)."""
    lacks = fitting.shortage(phase, room, whose, together=together)
    return Line(f"memory, {kind}", lacks or fitting.needed(phase, room, whose, together), ok=lacks is None)


def check_machine(profile: str) -> Iterator[Line]:
    """What runs on GPUs take of the machine's own memory, as planned, against this one's: a line for each kind that lacks some,
    else one for the largest. Where torch sees no GPU they are to run on another machine, so that nothing is held against this.
    """
    lengths, runs = assumed_lengths(load_profile(profile)), resolved_runs(profile)
    most, lacking, here = (0.0, ""), {}, bool(fitting.visible_gpus())
    for run in runs.values():
        if run.hardware.device == "cpu":
            continue
        teacher = teacher_of(run, runs)
        asked = (run, architecture_of(run.model.model), architecture_of(teacher) if teacher else None, lengths)
        most = max(most, (host.host_bytes(*asked), _kind(run, teacher)))
        if here and (lacks := host.machine_shortage(*asked)):
            lacking.setdefault(_kind(run, teacher), lacks)
    for kind, lacks in lacking.items():
        yield Line(f"the machine's memory, {kind}", lacks, ok=False)
    if most[0] and not lacking:
        says = f"needs up to {most[0] / 1e9:.1f} GB ({most[1]})"
        whose = f"of {host.machine_memory() / 1e9:.1f}" if here else "of the machine with the GPUs"
        yield Line("the machine's memory", f"{says} {whose}")


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
