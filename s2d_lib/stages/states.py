"""What the losses are told of a model: its last hidden states at a completion's tokens, and its head."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, is_tensor, nn
from transformers import PreTrainedModel

from s2d_lib.losses import Head

ROWS = 64  # of a part: with fewer, a part's fixed cost outweighs the padding that it saves

Found = TypeVar("Found")


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


def completion_hidden(
    model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> Tensor:
    """Last hidden states (B, T, H) that predict the tokens of the completions (B, T) behind their prompts (B, P)."""
    ids = torch.cat([prompt_ids, completion_ids], dim=1)
    attention = torch.cat([prompt_mask, completion_mask], dim=1)
    hidden = model.base_model(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
    return hidden[:, -completion_ids.shape[1] - 1 : -1]


def padded(rows: Sequence[Sequence[int]], pad: int, side: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (B, P) with P at least 1; rows may be empty. TRL pads prompts `left` and completions `right`."""
    width = max(1, *map(len, rows))
    filled = lambda row, some, more: [*more, *some] if side == "left" else [*some, *more]  # noqa: E731
    ids = [filled(row, row, [pad] * (width - len(row))) for row in rows]
    mask = [filled(row, [1] * len(row), [0] * (width - len(row))) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def by_length(inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The rows of a TRL batch in parts of about ROWS, completions of like length together, each part cut to its longest.

    TRL (read from release 1.16) pads every micro-batch to the longest prompt and completion of the whole step. Where
    ranks have equally many rows they have equally many parts, as sharded models need.
    """
    lengths = inputs["completion_mask"].sum(1)
    parts = []
    for rows in lengths.argsort(stable=True).chunk(-(-len(lengths) // ROWS)):
        part = {k: v[rows] for k, v in inputs.items() if is_tensor(v) and v.dim()}
        longest, prompt = max(1, int(lengths[rows].max())), int(part["prompt_mask"].sum(1).max())
        for name in ("completion_ids", "completion_mask"):
            part[name] = part[name][:, :longest]
        for name in ("prompt_ids", "prompt_mask"):
            part[name] = part[name][:, -prompt:]
        parts.append(part)
    return parts


def inside_forward(wrapper: nn.Module, module: nn.Module, work: Callable[[], Found]) -> Found:
    """What `work()` returns inside the forward pass of the module's wrapper: there DDP joins gradients and FSDP2 gathers weights.

    What `work` needs does not go through the wrapper: FSDP2 casts all that enters a forward pass, also advantages, entropies and
    normalisers, to the precision of the computation, and hands on a copy of every dictionary.
    """
    forward = module.forward

    def instead(_):
        module.forward = forward
        return work()

    module.forward = instead
    # One argument that no wrapper touches: DDP on GPUs takes the first of those that it has moved
    return wrapper(module)
