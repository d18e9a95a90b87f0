"""Which teacher a dense stage holds beside its own model, known from the parameters alone."""

from collections.abc import Mapping

from s2d_lib.study import Resolved

DENSE = ("forward_kl", "opd")


def teacher_of(run: Resolved, resolved: Mapping[str, Resolved]) -> str | None:
    """The model of the teacher that a dense stage holds beside its own; None of other stages.

    Args:
        run: Any run.
        resolved: Its ancestors, by their names; others may be among them.
    """
    return taught_by(run, resolved)


def taught_by(run: Resolved, resolved: Mapping[str, Resolved]) -> str | None:
    """The model of the teacher whose distributions a run matches, wherever its weights lie."""
    return resolved[run.parents["teacher"]].model.model if run.stage in DENSE else None
