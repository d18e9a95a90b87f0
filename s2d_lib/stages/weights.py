"""Where a run's weights lie: a whole checkpoint, and the adapters to be laid over it."""

from pathlib import Path
from typing import NamedTuple

from s2d_lib.models.adapters import is_adapter
from s2d_lib.runs import Run
from s2d_lib.study import Resolved


class Weights(NamedTuple):
    """A checkpoint's folder, None for the place that the role's spec names, and folders of adapters, first to last."""

    place: Path | None
    adapters: tuple[Path, ...] = ()


def weights_of(run: Run) -> Weights:
    """A run's own weights; a base run has none, its weights are where the role's spec says.

    Raises:
        StudyError: A run that its adapters lie over is missing, stale or broken.
    """
    if run.resolved.stage == "base":
        return Weights(None)
    folder = run.path("model")
    if not is_adapter(folder):
        return Weights(folder)
    below = starting_weights(run)
    return Weights(below.place, (*below.adapters, folder))


def starting_weights(run: Run) -> Weights:
    """What a run starts from: its parent's weights (of teacher rollouts, the teacher's), or the base model's place.

    Raises:
        StudyError: A parent run is missing, stale or broken.
    """
    kind = "teacher" if run.resolved.stage == "teacher_rollouts" else "from"
    return parent_weights(run, kind) if kind in run.resolved.parents else Weights(None)


def parent_weights(run: Run, kind: str) -> Weights:
    """The weights of the run that this one reads as `from` or `teacher`.

    Raises:
        StudyError: It is missing, stale or broken.
    """
    parent = run.parent(kind)
    return weights_of(Run(Resolved.model_validate(parent.record["resolved"]), parent))
