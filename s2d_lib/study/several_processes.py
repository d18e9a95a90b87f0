"""What several processes can't train together, said from the parameters alone."""

from collections.abc import Iterator

from s2d_lib.errors import StudyError
from s2d_lib.study.load import project_root
from s2d_lib.study.resolve import Resolved
from s2d_lib.study.settings import Hardware
from s2d_lib.study.stage_params import DENSE
from s2d_lib.study.strict import read_yaml


def trains_in_several(resolved: Resolved) -> bool:
    """Whether a run trains, and in more than one process."""
    return resolved.hardware.processes > 1 and hasattr(resolved.stage_params, "micro_batch")


def refuse_what_is_not_shared(resolved: Resolved) -> None:
    """Refuse a run that its processes could not train together.

    Raises:
        StudyError: Processes whose micro-batches don't fill the batch; adapters on a model that is in shards; a
            loss that reads heads itself, of models in the machine's memory; kept targets.
    """
    if trains_in_several(resolved):
        for wrong, sentence in _refusals(resolved):
            if wrong:
                raise StudyError(sentence)


def _refusals(resolved: Resolved) -> Iterator[tuple[bool, str]]:
    params, hardware, stage = resolved.stage_params, resolved.hardware, resolved.stage
    together = params.micro_batch * hardware.processes
    few = f"{hardware.processes} processes with micro_batch {params.micro_batch} take {together} sequences at a time, which "
    yield params.batch % together, f"{few}does not divide batch {params.batch}: lower micro_batch."
    shared = "adapters can't be trained on a model that processes share: leave out hardware.accelerate, or lora."
    yield hardware.accelerate and params.lora, shared
    heads = (
        f"{stage} reads the models' heads where they are, and {hardware.accelerate} keeps them in the machine's memory"
    )
    heads += ": name fsdp2.yaml for it (hardware.accelerate, in a rule)."
    yield stage in (*DENSE, "self_distillation") and state_on_host(hardware), heads
    gold = "estimator gold is one process's: train it in one (hardware.processes, in a rule)."
    yield getattr(params, "estimator", None) == "gold", gold
    kept = "kept teacher_targets are one process's: use `recompute` with several processes."
    yield getattr(params, "teacher_targets", "recompute") != "recompute", kept


def state_on_host(hardware: Hardware) -> bool:
    """Whether the file that `accelerate` names, if it is there, keeps weights and optimiser in the machine's memory instead of
    the GPUs'.

    Raises:
        StudyError: It holds no mapping.
    """
    path = project_root() / "params" / "accelerate" / hardware.accelerate if hardware.accelerate else None
    config = read_yaml(path) if path is not None and path.is_file() else {}
    return bool(config.get("fsdp_config", {}).get("fsdp_offload_params"))
