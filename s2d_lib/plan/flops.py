"""FLOPs of a decoder, counted from its shape.

A token is multiplied with each of the N parameters once, which is two operations a parameter; its gradient costs twice
that. So a forward pass over D tokens takes 2ND and training on them 6ND (Kaplan et al. 2020, arXiv 2001.08361, section
2.1; Hoffmann et al. 2022, arXiv 2203.15556, appendix F). Attention over c earlier tokens adds 4 c * layers * query width a
token, forward (queries with keys, weights with values: PaLM, arXiv 2204.02311, appendix B), likewise three times that in
training. With gradient checkpointing the forward pass is made once more (Korthikanti et al. 2022, arXiv 2205.05198).
Norms, activations and the softmax are left out: well below 1% at the sizes that cost anything.
"""

from s2d_lib.plan.architecture import Architecture

BACKWARD = 2  # forward passes that a backward pass costs


def forward_flops(model: Architecture, tokens: float, context: float = 0.0) -> float:
    """A forward pass over `tokens` tokens that each look at `context` tokens on average."""
    return tokens * (2 * model.multiplied + 4 * model.layers * model.query_width * context)


def training_flops(
    model: Architecture, tokens: float, context: float = 0.0, checkpointing: bool = False, frozen: bool = False
) -> float:
    """Forward and backward pass over `tokens` tokens; 6ND without attention (`context` 0) and without checkpointing.

    Of `frozen` weights, as under LoRA, the backward pass makes the gradients of what they read alone, which is half of it; the
    adapters' own are small beside them.
    """
    return (1 + BACKWARD / (2 if frozen else 1) + checkpointing) * forward_flops(model, tokens, context)


def sampling_flops(model: Architecture, sequences: float, prompt: float, completion: float) -> float:
    """Sampling completions with a KV cache: every token of a prompt and of a completion is read once."""
    length = prompt + completion
    return forward_flops(model, sequences * length, length / 2)
