"""What a study leaves on the disk, and what it needs on the way."""

from s2d_lib.plan.architecture import Architecture
from s2d_lib.plan.memory import BYTES
from s2d_lib.plan.tokens import counts
from s2d_lib.plan.trained import lora_of, trained_parameters
from s2d_lib.study import Resolved
from s2d_lib.study.settings import Lengths
from s2d_lib.study.stage_params import SELF_TAUGHT

SAVED = 2  # trainer checkpoints kept while a run trains (save_total_limit)
TOKEN = 8  # bytes of a stored token: its id and its text, before parquet compresses them
PUBLISHED = 2  # bytes of a parameter as models are published, in bfloat16


def kept_bytes(run: Resolved, model: Architecture, lengths: Lengths) -> float:
    """Bytes of a finished run's folder: the trained model (or adapters alone) in float32, or its rollouts; tables are nothing
    beside them."""
    if run.stage == "teacher_rollouts":
        return TOKEN * counts(run).sequences * lengths.completion
    if not counts(run).trained:
        return 0.0
    lora = lora_of(run)
    return 4 * (trained_parameters(run, model) if lora and lora.save == "adapter" else model.parameters)


def scratch_bytes(run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths) -> float:
    """Bytes that a run takes while it trains and then gives back: weights and optimiser of trainer checkpoints, a
    self-teacher's weights beside them, all float32, and kept teacher targets (of as many rollouts as it trains on, an upper
    bound where it takes more than one epoch). `teacher` is that of `memory_of`."""
    if not counts(run).trained:
        return 0.0
    tokens, kind = counts(run).trained * lengths.completion, run.params.get("teacher_targets", "recompute")
    if kind == "hidden_states":
        targets = tokens * (teacher or model).width * BYTES[run.hardware.dtype]
    else:
        targets = tokens * run.params["top_k"] * 8 if kind == "top_k" else 0.0
    of_a_weight = 12 + (4 if run.params.get("method") in SELF_TAUGHT else 0)
    return SAVED * of_a_weight * trained_parameters(run, model) + targets
