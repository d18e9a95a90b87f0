"""Which teacher a dense stage holds beside its own model: none where both are adapters over one base, which is held once.

Known from the parameters alone, before anything is loaded or made; the teacher's adapters themselves, at most about a
hundredth of a model, are not counted.
"""

from collections.abc import Mapping

from s2d_lib.plan.trained import lora_of
from s2d_lib.study import Resolved

DENSE = ("forward_kl", "opd")


def teacher_of(run: Resolved, resolved: Mapping[str, Resolved]) -> str | None:
    """The model of the teacher that a dense stage holds beside its own; None of other stages, and where its own serves both.

    Args:
        run: Any run.
        resolved: Its ancestors, by their names; others may be among them.
    """
    return None if on_one_base(run, resolved) else taught_by(run, resolved)


def taught_by(run: Resolved, resolved: Mapping[str, Resolved]) -> str | None:
    """The model of the teacher whose distributions a run matches, wherever its weights lie."""
    return resolved[run.parents["teacher"]].model.model if run.stage in DENSE else None


def on_one_base(run: Resolved, resolved: Mapping[str, Resolved]) -> bool:
    """Whether a dense stage trains adapters over the very weights that its teacher's adapters lie over, if it has any."""
    if run.stage not in DENSE or lora_of(run) is None:
        return False
    start, teacher = (resolved[run.parents[kind]] for kind in ("from", "teacher"))
    return teacher.model == run.model and _whole(start, resolved) == _whole(teacher, resolved)


def _whole(run: Resolved, resolved: Mapping[str, Resolved]) -> str | None:
    """The run whose whole weights a run's adapters lie over: itself where it keeps more than adapters, None for the untrained
    model, which roles of one spec have in common."""
    while run.stage != "base":
        lora = lora_of(run)
        if lora is None or lora.save != "adapter":
            return run.checkpoint
        run = resolved[run.parents["from"]]
    return None
