"""What can't be sampled by vLLM, said before anything is trained."""

from collections.abc import Iterator

from s2d_lib.engines.server import Server
from s2d_lib.engines.version import checked_version
from s2d_lib.errors import StudyError
from s2d_lib.plan.tokens import samples_itself
from s2d_lib.policies.policy import model_place
from s2d_lib.study import Resolved
from s2d_lib.study.vllm import Use


def uses(resolved: Resolved) -> Iterator[Use]:
    """What of a run is sampled by vLLM."""
    if resolved.stage == "teacher_rollouts":
        possible = ("rollouts",)
    else:
        possible = ("training", "evaluation") if samples_itself(resolved) else ("evaluation",)
    return (use for use in possible if resolved.sampling.by_vllm(use))


def refuse_what_cannot_be(resolved: Resolved) -> None:
    """Everything that can be known of a run's sampling by vLLM before a model is loaded.

    Raises:
        StudyError: vLLM is missing or of an unsupported version; the server is not there, slow, or serves another model;
            training would need what this hardware can't do.
    """
    wanted, options, hardware = set(uses(resolved)), resolved.sampling.vllm, resolved.hardware
    if not wanted:
        return
    if "training" in wanted:
        refuse_training(resolved)
    if options.mode == "colocate" or "training" in wanted:  # TRL's client of a server needs the package too
        checked_version(hardware.device)
    if options.mode == "server":
        Server(options).refuse_another_model(names(resolved))


def refuse_training(resolved: Resolved) -> None:
    """Training whose weights could not go to an engine.

    Raises:
        StudyError: On a CPU, or where the engine's GPUs do not divide the training's.
    """
    hardware, options = resolved.hardware, resolved.sampling.vllm
    if hardware.device == "cpu":
        raise StudyError(
            f"{resolved.checkpoint!r} can't be sampled by vLLM while it trains on a CPU, where the weights of a running engine "
            "can't be updated: set `sampling.vllm.uses: [rollouts, evaluation]`, or use a GPU."
        )
    if hardware.processes % options.tensor_parallel:
        raise StudyError(
            f"`sampling.vllm.tensor_parallel` {options.tensor_parallel} does not divide the {hardware.processes} processes that "
            "train (hardware.processes), whose GPUs the engine shares."
        )


def names(resolved: Resolved, *folders) -> list[str]:
    """What a server may call a run's model: the role's name, or the place of its weights."""
    model = resolved.model.model
    return [model, model_place(model), *map(str, folders)]
