"""A model's last step, from hidden states to logits, as the losses want to be told of it."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from s2d_lib.losses import Head, token_log_probs
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.sampling import Rollout, completion_states


def head_of(model: PreTrainedModel) -> Head:
    """The head of an unwrapped model; of the names that the models TRL supports use for their scale, the one it has is read."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    names = ("logit_scale", "output_multiplier", "lm_head_multiplier")
    scale = next((v for n in names if (v := getattr(config, n, None)) is not None), None)
    scaling = getattr(config, "logits_scaling", None)
    if scale is None and scaling is not None:  # Granite divides by it, HyperCLOVA X multiplies
        scale = scaling if config.model_type == "hyperclovax" else 1 / scaling
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(head.weight, head.bias, 1.0 if scale is None else scale, softcap)


@torch.no_grad()
def sequence_log_probs(
    policy: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], batch: int
) -> list[float]:
    """Log-probability (nats, temperature 1) of every rollout under the policy, EOS included; `batch` rollouts at a time."""
    prompt_ids = dict(zip((p.id for p in problems), policy.prompt_ids(problems), strict=True))
    head, values = head_of(policy.model), []
    for start in range(0, len(rollouts), batch):
        part = rollouts[start : start + batch]
        # Of a model that lies on several GPUs, the last one has the head.
        hidden, tokens = (t.to(head.weight.device) for t in completion_states(policy, prompt_ids, part))
        chosen = token_log_probs(hidden, head, tokens).log_probs
        values += [token_values.sum().item() for token_values in chosen.split([len(r.ids) for r in part])]
    return values
