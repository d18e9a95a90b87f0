"""What the three estimators of a divergence share: their arguments, checked and flattened, and what they return."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor


class TokenLoss(NamedTuple):
    """A distillation loss and what it knows about each token; only `loss` carries a gradient.

    `loss`: scalar, nats per token: the weighted sum of the tokens' values over the normalizer.
    `per_token`: leading shape of the hidden states: the divergence of each token (nats), 0 where masked.
    `entropy`: same shape: the student's entropy (nats, at the given temperature), 0 where masked.
    `agreement`: same shape, bool: student and teacher have the same most likely token; False where masked.
    `n_tokens`: scalar int64 tensor: how many tokens the mask kept.
    """

    loss: Tensor
    per_token: Tensor
    entropy: Tensor
    agreement: Tensor
    n_tokens: Tensor

    @property
    def entropy_sum(self) -> Tensor:
        """Sum of the student's entropies over the kept tokens (nats), as TRL logs it."""
        return self.entropy.sum()

    @property
    def agreement_sum(self) -> Tensor:
        """Number of kept tokens whose most likely token is the same in both models."""
        return self.agreement.sum()


@dataclass(frozen=True)
class Head:
    """One model's last step: `softcap * tanh(scale * (hidden @ weight.T + bias) / softcap)`, first columns only."""

    hidden: Tensor  # (N, H)
    weight: Tensor  # (V, H), all rows: those beyond the compared vocabulary get a zero gradient
    bias: Tensor | None  # (V,)
    scale: float
    softcap: float | None


@dataclass(frozen=True)
class Inputs:
    """Checked arguments with the leading dimensions flattened to N tokens, of which `rows` take part."""

    student: Head
    teacher: Head
    shape: torch.Size  # the leading shape, to give the metrics back in
    rows: Tensor | None  # (n,) indices of the kept tokens; None: all of them
    weights: Tensor | None  # (n,) of the kept tokens
    n: int  # kept tokens
    vocab: int  # compared columns
    temperature: float
    normalizer: float | Tensor
    dtype: torch.dtype  # of logits and loss
    chunk: int  # tokens at a time

    def chunks(self) -> list[slice]:
        """Slices of equal length (the last may be shorter) over the kept tokens; one empty slice if there are none."""
        return [slice(start, min(start + self.chunk, self.n)) for start in range(0, max(self.n, 1), self.chunk)]

    def select(self, part: slice) -> slice | Tensor:
        """Where the kept tokens `part` lie among all N tokens."""
        return part if self.rows is None else self.rows[part]

    def spread(self, values: Tensor) -> Tensor:
        """Give one value per kept token back in the leading shape, zeros elsewhere."""
        if self.rows is not None:
            values = values.new_zeros(self.student.hidden.shape[0]).index_copy_(0, self.rows, values)
        return values.view(self.shape)

    def token_loss(self, loss: Tensor, per_token: Tensor, entropy: Tensor, agreement: Tensor) -> TokenLoss:
        """Pack one value per kept token into what every estimator returns."""
        count = torch.tensor(self.n, device=loss.device)
        return TokenLoss(loss, *map(self.spread, (per_token.detach(), entropy, agreement)), count)


def check(condition: bool, sentence: str) -> None:
    """Raise ValueError with `sentence` unless `condition` holds."""
    if not condition:
        raise ValueError(sentence)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above zero."""
    good = isinstance(value, Real) and math.isfinite(value) and value > 0
    check(good, f"{name} must be a finite number above 0, got {value!r}.")


def check_beta(beta: float) -> None:
    """Raise ValueError unless `beta` lies in [0, 1]."""
    check(isinstance(beta, Real) and 0 <= beta <= 1, f"beta must be a number from 0 to 1, got {beta!r}.")


def gathered(tensor: Tensor | None) -> Tensor | None:
    """Gather a head that FSDP2 has sharded (a DTensor), once; an ordinary tensor passes through.

    Each rank sees its own tokens, so the gradient that flows back is averaged over the ranks, as FSDP2 does for every
    other parameter. (`full_tensor()` alone would keep each rank's own gradient for its shard.)
    """
    if tensor is None or not hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    mesh = tensor.device_mesh
    full = tensor.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if full.requires_grad and mesh.size() > 1:
        full.register_hook(lambda grad: grad / mesh.size())
    return full


def _head(name, hidden, weight, bias, scale, softcap) -> Head:
    check(hidden.is_floating_point() and weight.is_floating_point(), f"{name} hidden states and head must be floats.")
    check(hidden.dim() >= 1 and weight.dim() == 2, f"{name} hidden states must be (..., H) and the head (V, H).")
    width, rows = hidden.shape[-1], weight.shape[0]
    check(width == weight.shape[1], f"{name} hidden states have width {width}, but the head has {weight.shape[1]}.")
    check(bias is None or bias.shape == (rows,), f"{name} bias must have shape ({rows},).")
    check_positive(f"{name}_logit_scale", scale)
    if softcap is not None:
        check_positive(f"{name}_softcap", softcap)
    weight, bias = gathered(weight), gathered(bias)
    # The head follows the hidden states, as under autocast or FSDP mixed precision, where its master copy is fp32.
    # fp16 is computed in fp32: gradients are made before a loss scaler could keep them from vanishing.
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    dtype = torch.float32 if dtype == torch.float16 else dtype
    return Head(hidden.reshape(-1, width).to(dtype), weight.to(dtype), bias, float(scale), softcap)


def prepare(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    temperature: float,
    weights: Tensor | None,
    *,
    mask: Tensor | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    student_logit_scale: float = 1.0,
    teacher_logit_scale: float = 1.0,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    vocab_size: int | None = None,
    normalizer: float | Tensor | None = None,
    chunk_size: int | None = None,
) -> Inputs:
    """Check the arguments that all estimators share (see `linear_divergence` for what they mean) and flatten them."""
    shape = student_hidden.shape[:-1]
    check(
        teacher_hidden.shape[:-1] == shape,
        f"student and teacher hidden states must cover the same tokens, "
        f"got {tuple(shape)} and {tuple(teacher_hidden.shape[:-1])}.",
    )
    check_positive("temperature", temperature)
    sizes = student_weight.shape[0], teacher_weight.shape[0]
    if vocab_size is None:
        check(
            sizes[0] == sizes[1],
            f"the heads have {sizes[0]} and {sizes[1]} rows: pass vocab_size to say how many they share.",
        )
        vocab_size = sizes[0]
    check(
        isinstance(vocab_size, int) and 1 <= vocab_size <= min(sizes),
        f"vocab_size must be a whole number from 1 to {min(sizes)}, got {vocab_size!r}.",
    )
    for name, value in (("mask", mask), ("weights", weights)):
        got = shape if value is None else value.shape
        check(got == shape, f"{name} must have the tokens' shape {tuple(shape)}, got {tuple(got)}.")
    check(
        chunk_size is None or (isinstance(chunk_size, int) and chunk_size >= 1),
        f"chunk_size must be a whole number above 0, got {chunk_size!r}.",
    )
    student = _head("student", student_hidden, student_weight, student_bias, student_logit_scale, student_softcap)
    teacher_hidden, teacher_weight = teacher_hidden.detach(), teacher_weight.detach()
    teacher_bias = None if teacher_bias is None else teacher_bias.detach()
    teacher = _head("teacher", teacher_hidden, teacher_weight, teacher_bias, teacher_logit_scale, teacher_softcap)

    rows = None if mask is None else (mask.reshape(-1) != 0).nonzero().squeeze(-1)
    total = student.hidden.shape[0]
    n = total if rows is None else len(rows)
    rows = None if n == total else rows
    dtype = torch.promote_types(torch.promote_types(student.hidden.dtype, teacher.hidden.dtype), torch.float32)
    if weights is not None:
        weights = weights.detach().reshape(-1).to(dtype)
        weights = weights if rows is None else weights[rows]
    if normalizer is None:
        normalizer = max(n, 1)
    elif not isinstance(normalizer, Tensor):
        check_positive("normalizer", normalizer)
    else:
        check(normalizer.numel() == 1, f"normalizer must be one number, got shape {tuple(normalizer.shape)}.")
        normalizer = normalizer.detach().reshape(()).to(student.hidden.device)
    chunk = chunk_size or _auto_chunk(n, vocab_size, student.hidden.device.type)
    return Inputs(student, teacher, shape, rows, weights, n, vocab_size, float(temperature), normalizer, dtype, chunk)


def _auto_chunk(n: int, vocab: int, device: str) -> int:
    # Enough rows for the matmuls to run at full speed, few enough that both models' logits stay small beside the heads:
    # on a CPU 2^17 numbers (they fit its cache) but at least 256 rows, on a GPU 2^27 (512 MiB) but at least 512 rows.
    limit = max(256, 2**17 // vocab) if device == "cpu" else max(512, 2**27 // vocab)
    return max(1, math.ceil(n / math.ceil(max(n, 1) / limit)))


_PIECE = 512


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """Write `hidden @ weight.T + bias` to `out`, (n, V), without rounding it to the inputs' dtype on the way."""
    if not hidden.is_cuda:
        # Piece by piece: a CPU's matmul packs what fits in cache (a quarter faster here), and a bf16 head, for which it
        # has no fp32 result, is never wide as a whole
        hidden = hidden.to(out.dtype)
        for start in range(0, weight.shape[0], _PIECE):
            piece = weight[start : start + _PIECE].to(out.dtype)
            torch.mm(hidden, piece.t(), out=out[:, start : start + _PIECE])
    elif hidden.dtype == torch.bfloat16 and out.dtype == torch.float32:
        torch.mm(hidden, weight.t(), out_dtype=torch.float32, out=out)
    else:
        torch.mm(hidden.to(out.dtype), weight.to(out.dtype).t(), out=out)
    return out if bias is None else out.add_(bias)
