"""A language model's last step, from hidden states to distributions, and which tokens of a batch take part in a loss.

The losses of this room take hidden states and a `Head`, never logits: they make those themselves, a chunk of tokens at a
time, in fp32 (fp64 for fp64 inputs) also for bf16 inputs and under autocast. Logits rounded to bf16 would cost tens of
percent of the gradient once the two models are close.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """A model's output head: `logits = softcap tanh(scale (hidden @ weight.T + bias) / softcap)`.

    Attributes:
        weight: (V, H).
        bias: (V,). It may hold -inf to forbid tokens: such a token adds nothing to its own distribution's sums (0 log 0
            = 0), and a probability above 0 against it is a divergence of +inf.
        scale: Multiplies the logits (Cohere, Granite).
        softcap: Bounds the logits (Gemma); None: no bound.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def gathered(self) -> Head:
        """The whole head where FSDP2 keeps it in shards (DTensors), which all processes have to ask for together."""
        return replace(self, weight=_whole(self.weight), bias=_whole(self.bias))

    def detached(self) -> Head:
        """The same head, to which no gradient flows."""
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def log_probs(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (n, V) of the next tokens after hidden states (n, H), differentiable; in nats."""
        logits = _Projection.apply(hidden, self.weight, self.bias) * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return (logits / temperature).log_softmax(-1)

    def project(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Write `hidden @ weight.T + bias` to `out`, (n, V), without rounding it to the inputs' dtype on the way."""
        if not hidden.is_cuda:
            # Piece by piece: a CPU's matmul packs what fits in cache (a quarter faster here), and a bf16 head, for which
            # it has no fp32 result, is never wide as a whole
            hidden, piece = hidden.to(out.dtype), 512
            for start in range(0, len(self.weight), piece):
                some = slice(start, start + piece)
                torch.mm(hidden, self.weight[some].to(out.dtype).t(), out=out[:, some])
        elif hidden.dtype == torch.bfloat16 and out.dtype == torch.float32:
            torch.mm(hidden, self.weight.t(), out_dtype=torch.float32, out=out)
        else:
            torch.mm(hidden.to(out.dtype), self.weight.to(out.dtype).t(), out=out)
        return out if self.bias is None else out.add_(self.bias)

    def logits_(self, z: Tensor, temperature: float, slope: Tensor | None = None) -> None:
        """Turn a projection (n, V) into logits in place; write the softcap's derivative to `slope` where it is wanted."""
        if self.softcap is None:
            if self.scale != temperature:
                z.mul_(self.scale / temperature)
            return
        z.mul_(self.scale / self.softcap).tanh_()
        if slope is not None:
            torch.mul(z, z, out=slope).neg_().add_(1)
        z.mul_(self.softcap / temperature)


class _Projection(torch.autograd.Function):
    """`Head.project` for autograd: logits wider than the inputs, gradient matmuls in the inputs' dtype."""

    @staticmethod
    def forward(ctx, hidden, weight, bias):
        ctx.save_for_backward(hidden, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(hidden.shape[0], weight.shape[0], dtype=dtype, device=hidden.device)
        return Head(weight, bias).project(hidden, out)

    @staticmethod
    def backward(ctx, grad):
        hidden, weight = ctx.saved_tensors
        rounded, (wants_hidden, wants_weight, wants_bias) = grad.to(hidden.dtype), ctx.needs_input_grad
        of_hidden = rounded @ weight if wants_hidden else None
        of_weight = rounded.t() @ hidden if wants_weight else None
        return of_hidden, of_weight, grad.sum(0).to(ctx.bias_dtype) if wants_bias else None


def _whole(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or not hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    # Each rank sees its own tokens, so the gradient that flows back is averaged over the ranks, as FSDP2 does for every
    # other parameter. (`full_tensor()` alone would keep each rank's own gradient for its shard.)
    mesh = tensor.device_mesh
    full = tensor.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if full.requires_grad and mesh.size() > 1:
        full.register_hook(lambda grad: grad / mesh.size())
    return full


def aligned(who: str, hidden: Tensor, head: Head) -> tuple[Tensor, Head]:
    """Flat hidden states (N, H) and their whole head, in the dtype that computes with both.

    The head follows the hidden states, as under autocast or FSDP mixed precision, where its master copy is fp32. fp16 is
    computed in fp32: gradients are made before a loss scaler could keep them from vanishing.

    Raises:
        ValueError: Naming `who`: shapes that do not fit together, or a scale or softcap that is not above 0.
    """
    states, weight, bias = tuple(hidden.shape), tuple(head.weight.shape), head.bias
    fits = len(weight) == 2 and states[-1:] == weight[1:]
    check(fits, f"{who} hidden states must be (..., H) and the head (V, H), got {states} and {weight}.")
    check(bias is None or bias.shape == weight[:1], f"{who} bias must have shape {weight[:1]}.")
    check_positive(f"{who} scale", head.scale)
    check_positive(f"{who} softcap", 1.0 if head.softcap is None else head.softcap)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    dtype = torch.float32 if dtype == torch.float16 else dtype
    head = head.gathered()
    return hidden.reshape(-1, states[-1]).to(dtype), replace(head, weight=head.weight.to(dtype))


class Kept:
    """Which of the N tokens of hidden states (..., H) a mask keeps, and how many of them to compute at a time."""

    def __init__(self, hidden: Tensor, head: Head, mask: Tensor | None = None, chunk_size: int | None = None):
        self.shape = hidden.shape[:-1]
        self.n, self.rows = self.shape.numel(), None
        if mask is not None:
            rows = (self.of("mask", mask) != 0).nonzero().squeeze(-1)
            if len(rows) < self.n:  # the n places of kept tokens among all N; None while all are kept
                self.n, self.rows = len(rows), rows
        # Enough rows for the matmuls to run at full speed, few enough that both models' logits stay small beside the heads:
        # on a CPU 2^17 numbers (they fit its cache) but at least 256 rows, on a GPU 2^27 (512 MiB) but at least 512 rows.
        vocab, n = len(head.weight), self.n
        limit = max(256, 2**17 // vocab) if hidden.device.type == "cpu" else max(512, 2**27 // vocab)
        self.chunk = chunk_size or max(1, math.ceil(n / math.ceil(max(n, 1) / limit)))

    def chunks(self) -> list[slice]:
        """Slices of equal length (the last may be shorter) over the kept tokens; one empty slice if there are none."""
        return [slice(start, min(start + self.chunk, self.n)) for start in range(0, max(self.n, 1), self.chunk)]

    def places(self, part: slice) -> slice | Tensor:
        """Where the kept tokens `part` lie among all N tokens."""
        return part if self.rows is None else self.rows[part]

    def of(self, name: str, values: Tensor) -> Tensor:
        """Of one value per token (...) those (n,) of the kept tokens."""
        good, shape = values.shape == self.shape, tuple(self.shape)
        check(good, f"{name} must have the tokens' shape {shape}, got {tuple(values.shape)}.")
        return values.reshape(-1) if self.rows is None else values.reshape(-1)[self.rows]

    def ids(self, tokens: Tensor, head: Head) -> Tensor:
        """The same of token ids, which must lie in the head's vocabulary."""
        ids, vocab = self.of("tokens", tokens), len(head.weight)
        good = not ids.is_floating_point() and (self.n == 0 or bool(ids.min() >= 0 and ids.max() < vocab))
        check(good, f"tokens must be whole numbers in the vocabulary, 0 to {vocab - 1}.")
        return ids.long()

    def spread(self, values: Tensor) -> Tensor:
        """Give one value per kept token back in the leading shape, zeros elsewhere."""
        if self.rows is not None:
            values = values.new_zeros(self.shape.numel()).index_copy_(0, self.rows, values)
        return values.view(self.shape)


def check(condition: bool, sentence: str) -> None:
    """Raise ValueError with `sentence` unless `condition` holds."""
    if not condition:
        raise ValueError(sentence)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above zero."""
    good = isinstance(value, Real) and math.isfinite(value) and value > 0
    check(good, f"{name} must be a finite number above 0, got {value!r}.")
