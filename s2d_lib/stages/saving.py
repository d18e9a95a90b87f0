"""The trained model into the run's folder: whole weights, from whatever processes hold them, or LoRA's adapters."""

from accelerate.utils import DistributedType
from transformers import Trainer

from s2d_lib.models.adapters import merged, save_adapter
from s2d_lib.models.policy import save_policy
from s2d_lib.runs import Run
from s2d_lib.stages.inputs import Inputs


def keep_model(run: Run, inputs: Inputs, trainer: Trainer) -> None:
    """Save what was trained, by the first process; `inputs.policy` holds it afterwards, adapters merged."""
    policy, accelerator, folder = inputs.policy, trainer.accelerator, run.path("model")
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    weights = accelerator.get_state_dict(trainer.model_wrapped) if sharded else None  # by all processes together
    # With accelerate's wrapper a bf16 run would be evaluated in bf16 now and in float32 after an interruption.
    policy.model = accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    lora, writes = run.resolved.stage_params.lora, trainer.is_world_process_zero()
    if lora is not None:
        if lora.save == "adapter" and writes:
            save_adapter(policy.model, policy.tokenizer, folder)
        policy.model = merged(policy.model)
    if weights is not None:  # tied ones are gathered as if they were two, and would be saved twice
        weights = {name: value for name, value in weights.items() if name not in policy.model.all_tied_weights_keys}
    if (lora is None or lora.save == "merged") and writes:
        save_policy(policy, folder, weights)
