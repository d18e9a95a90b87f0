"""A model's last step, from hidden states to logits, as the losses want to be told of it."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from s2d_lib.losses import token_log_probs
from s2d_lib.losses.inputs import gathered
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.sampling import Rollout, completion_states


def head_arguments(side: str, model: PreTrainedModel, whole: bool = False) -> dict[str, Any]:
    """Weight, bias, scale and softcap of a model's head under the names that an estimator of s2d_lib.losses knows.

    Args:
        side: `student` or `teacher`: what the names begin with.
        model: Unwrapped; of the names that the models TRL supports use for their scale, the one it has is read.
        whole: Gather what FSDP2 keeps in shards, which all processes have to do together; the estimators would do it too.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    names = ("logit_scale", "output_multiplier", "lm_head_multiplier")
    scale = next((v for n in names if (v := getattr(config, n, None)) is not None), None)
    scaling = getattr(config, "logits_scaling", None)
    if scale is None and scaling is not None:  # Granite divides by it, HyperCLOVA X multiplies
        scale = scaling if config.model_type == "hyperclovax" else 1 / scaling
    gather = gathered if whole else lambda tensor: tensor
    return {
        f"{side}_weight": gather(head.weight),
        f"{side}_bias": gather(head.bias),
        f"{side}_logit_scale": 1.0 if scale is None else scale,
        f"{side}_softcap": getattr(config, "final_logit_softcapping", None),
    }


def alone(arguments: dict[str, Any]) -> dict[str, Any]:
    """`head_arguments` of either side as `token_log_probs`, which reads one model, wants them."""
    return {name.split("_", 1)[1]: value for name, value in arguments.items()}


@torch.no_grad()
def sequence_log_probs(
    policy: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], batch: int
) -> list[float]:
    """Log-probability (nats, temperature 1) of every rollout under the policy, EOS included; `batch` rollouts at a time."""
    prompt_ids = dict(zip((p.id for p in problems), policy.prompt_ids(problems), strict=True))
    head, values = alone(head_arguments("student", policy.model)), []
    for start in range(0, len(rollouts), batch):
        part = rollouts[start : start + batch]
        # Of a model that lies on several GPUs, the last one has the head.
        hidden, tokens = (t.to(head["weight"].device) for t in completion_states(policy, prompt_ids, part))
        chosen = token_log_probs(hidden, tokens=tokens, **head).log_probs
        values += [token_values.sum().item() for token_values in chosen.split([len(r.ids) for r in part])]
    return values
