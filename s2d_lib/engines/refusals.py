"""What can't be sampled by vLLM, said before anything is trained."""

from collections.abc import Iterator
from pathlib import Path

from s2d_lib.engines.answers import refuse_longer_than, room_for
from s2d_lib.engines.server import Server
from s2d_lib.engines.version import checked_version
from s2d_lib.errors import StudyError
from s2d_lib.policies.place import model_place
from s2d_lib.policies.policy import Policy
from s2d_lib.problems.sources import Problems
from s2d_lib.study import Resolved
from s2d_lib.study.vllm import Use

HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # of vLLM 0.31.0's attention on CPUs
HOTTEST = 2.0  # temperature that vLLM takes


def uses(resolved: Resolved) -> Iterator[Use]:
    """What of a run is sampled by vLLM."""
    if resolved.stage == "teacher_rollouts":
        possible = ("rollouts",)
    else:
        possible = ("training", "evaluation") if resolved.samples_itself else ("evaluation",)
    return (use for use in possible if resolved.sampling.by_vllm(use))


def refuse_what_cannot_be(resolved: Resolved, *folders: Path | None) -> None:
    """Everything that can be known of a run's sampling by vLLM before a model is loaded.

    Args:
        resolved: The run.
        folders: Where the weights lie that it starts from or samples.

    Raises:
        StudyError: A temperature beyond vLLM's; vLLM is missing or of an unsupported version; the server is not there, slow,
            serves another model, or could not get what is trained; training would need what this hardware can't do.
    """
    wanted, options, hardware = set(uses(resolved)), resolved.sampling.vllm, resolved.hardware
    if not wanted:
        return
    evaluated = resolved.evaluation.decodings.values() if "evaluation" in wanted else ()
    trained = [resolved.sampling] if wanted - {"evaluation"} else []
    warmest = max(how.temperature for how in (*evaluated, *trained))
    if warmest > HOTTEST:
        raise StudyError(
            f"vLLM takes temperatures up to {HOTTEST:g}, not {warmest:g}: lower it, or set `engine: transformers`."
        )
    if "training" in wanted:
        refuse_training(resolved)
    if options.mode == "colocate" or "training" in wanted:  # TRL's client of a server needs the package too
        checked_version(hardware.device)
    if options.mode == "server":
        if wanted == {"evaluation"} and resolved.stage != "base":
            raise StudyError(
                f"no server can hold the weights that {resolved.checkpoint!r} is going to train, since its training does not "
                "send them there: leave `evaluation` out of `sampling.vllm.uses`, or set `mode: colocate`."
            )
        Server(options).refuse_another_model(names(resolved, *filter(None, folders)))


def refuse_model(resolved: Resolved, policy: Policy, problems: Problems) -> None:
    """What of a loaded model and its prompts vLLM could not serve.

    Raises:
        StudyError: The CPU's kernels do not know its head size; a prompt and its completion may exceed the context.
    """
    wanted, options, config = set(uses(resolved)), resolved.sampling.vllm, policy.model.config.get_text_config()
    if not wanted:
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if resolved.hardware.device == "cpu" and options.mode == "colocate" and head not in HEAD_SIZES:
        raise StudyError(
            f"the attention heads of {resolved.model.model} have size {head}, and vLLM's CPU kernels know {HEAD_SIZES}: set "
            "`engine: transformers`."
        )
    asked = [p for one in problems.evaluations.values() for p in one] if "evaluation" in wanted else []
    asked += problems.pool if wanted & {"rollouts", "training"} else []
    prompts, new = policy.prompt_ids(asked), resolved.sampling.max_new_tokens
    refuse_longer_than(room_for(options, policy, prompts, new), prompts, new)


def refuse_training(resolved: Resolved) -> None:
    """Training whose weights could not go to an engine.

    Raises:
        StudyError: On a CPU, unless a fresh engine is asked for, which nothing else may ask for; or where the engine's GPUs do
            not divide the training's.
    """
    hardware, options = resolved.hardware, resolved.sampling.vllm
    if options.fresh_each_update:
        if hardware.device != "cpu" or hardware.processes > 1:
            raise StudyError(
                "`sampling.vllm.fresh_each_update` is for a training in one process on a CPU: leave it out, since on GPUs the "
                "weights of a running engine are updated in place."
            )
    elif hardware.device == "cpu":
        raise StudyError(
            f"{resolved.checkpoint!r} can't be sampled by vLLM while it trains on a CPU, where the weights of a running engine "
            "can't be updated: set `sampling.vllm.uses: [rollouts, evaluation]`, ask for a new engine before every sampling "
            "(`fresh_each_update: true`, which costs its loading each time), or use a GPU."
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
