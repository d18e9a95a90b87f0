"""A model's last step, from hidden states to logits, as the losses want to be told of it."""

from typing import Any

from transformers import PreTrainedModel


def head_arguments(side: str, model: PreTrainedModel) -> dict[str, Any]:
    """Weight, bias, scale and softcap of a model's head under the names that an estimator of s2d_lib.losses knows.

    Args:
        side: `student` or `teacher`: what the names begin with.
        model: Unwrapped; of the names that the models TRL supports use for their scale, the one it has is read.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    names = ("logit_scale", "output_multiplier", "lm_head_multiplier")
    scale = next((v for n in names if (v := getattr(config, n, None)) is not None), None)
    scaling = getattr(config, "logits_scaling", None)
    if scale is None and scaling is not None:  # Granite divides by it, HyperCLOVA X multiplies
        scale = scaling if config.model_type == "hyperclovax" else 1 / scaling
    return {
        f"{side}_weight": head.weight,
        f"{side}_bias": head.bias,
        f"{side}_logit_scale": 1.0 if scale is None else scale,
        f"{side}_softcap": getattr(config, "final_logit_softcapping", None),
    }
