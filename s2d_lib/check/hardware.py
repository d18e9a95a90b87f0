"""Is there the GPU that the profile asks for, and do its runs fit on it and on the disk?"""

import shutil
from collections.abc import Iterator

from s2d_lib.check.line import Line
from s2d_lib.check.params import resolved_runs
from s2d_lib.errors import StudyError
from s2d_lib.plan import fit as fitting
from s2d_lib.plan import plan
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.memory import Memory, memory_of
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
    found = fitting.visible_gpus()
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


def check_memory(profile: str) -> Iterator[Line]:
    """The most that a process of each kind of run holds, as planned, against a GPU's memory or, on the CPU, the machine's."""
    settings, runs = load_profile(profile), resolved_runs(profile)
    here = fitting.memory_here(settings.hardware)
    if here is None:
        return  # said by check_gpus
    lengths, kinds = assumed_lengths(settings), {}
    for run in runs.values():
        teacher = teacher_of(run, runs)
        taught_by = architecture_of(teacher) if teacher else None
        memory = memory_of(run, architecture_of(run.model.model), taught_by, lengths)
        kind = f"{run.stage} of {run.model.model}" + (f" by {teacher}" if teacher else "")
        kinds[kind] = max(kinds.get(kind, memory), memory, key=lambda one: one.on(1))
    for kind, memory in kinds.items():
        yield fit(kind, memory, settings.hardware, *here)


def fit(kind: str, memory: Memory, hardware: Hardware, room: float, whose: str) -> Line:
    """Whether a process of one kind of run fits into `room` bytes, and what to do where it does not."""
    lacks = fitting.shortage(memory, hardware, room, whose)
    return Line(f"memory, {kind}", lacks or fitting.needed(memory, hardware, room, whose), ok=lacks is None)


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
