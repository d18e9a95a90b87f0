"""What several processes can't train together, said from the parameters alone."""

from s2d_lib.errors import StudyError
from s2d_lib.study.resolve import Resolved


def trains_in_several(resolved: Resolved) -> bool:
    """Whether a run trains, and in more than one process."""
    return resolved.hardware.processes > 1 and hasattr(resolved.stage_params, "micro_batch")


def refuse_what_is_not_shared(resolved: Resolved) -> None:
    """Refuse a run that its processes could not train together.

    Raises:
        StudyError: Processes whose micro-batches don't fill the batch; adapters, or a self-teacher, on a model that is in
            shards; kept targets.
    """
    params, hardware = resolved.stage_params, resolved.hardware
    if not trains_in_several(resolved):
        return
    together = params.micro_batch * hardware.processes
    if params.batch % together:
        raise StudyError(
            f"{hardware.processes} processes with micro_batch {params.micro_batch} take {together} sequences at a time, which "
            f"does not divide batch {params.batch}: lower micro_batch."
        )
    if hardware.accelerate and params.lora:
        raise StudyError(
            "adapters can't be trained on a model that processes share: leave out hardware.accelerate, or lora."
        )
    if hardware.accelerate and resolved.stage == "self_distillation":
        raise StudyError(
            "self-distillation keeps a whole copy of the policy, which processes can't share: leave out hardware.accelerate."
        )
    if getattr(params, "teacher_targets", "recompute") != "recompute":
        raise StudyError("kept teacher_targets are one process's: use `recompute` with several processes.")
