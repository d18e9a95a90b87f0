"""How many parameters a run trains: all of its model's, or those of low-rank adapters."""

from s2d_lib.plan.architecture import Architecture
from s2d_lib.study import Resolved
from s2d_lib.study.settings import Lora


def lora_of(run: Resolved) -> Lora | None:
    """What a run that trains says of LoRA."""
    return getattr(run.stage_params, "lora", None)


def linear_layers(model: Architecture) -> dict[str, int]:
    """The linear layers of every layer of a model, by name: inputs and outputs together."""
    width, queries, keys, mlp = model.width, model.query_width, model.kv_width, model.mlp
    return {
        "q_proj": width + queries, "k_proj": width + keys, "v_proj": width + keys, "o_proj": queries + width,
        "gate_proj": width + mlp, "up_proj": width + mlp, "down_proj": mlp + width,
    }  # fmt: skip


def adapter_parameters(model: Architecture, lora: Lora) -> int:
    """Parameters of adapters of a rank: rank * (inputs + outputs) of every linear layer that has one."""
    sizes = linear_layers(model)
    named = sizes if lora.target_modules == "all-linear" else lora.target_modules
    return lora.rank * model.layers * sum(sizes.get(name.rsplit(".", 1)[-1], 0) for name in named)


def trained_parameters(run: Resolved, model: Architecture) -> int:
    """Parameters with a gradient and an optimiser's state; 0 of a run that trains nothing."""
    if not run.params.get("steps"):
        return 0
    lora = lora_of(run)
    return adapter_parameters(model, lora) if lora else model.parameters
