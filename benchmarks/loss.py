"""Time, memory and error of the full-vocabulary loss beside plain and compiled torch, TRL's and Liger's, on the same batches.

Each peer is called as its own trainer calls it, and with the fastest of a few settings; s2d has its default.
"""

import importlib.util
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import NamedTuple
from unittest import mock

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from trl.kernels import chunked_divergence
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from benchmarks.timing import compared, peak_of, seconds_of
from s2d_lib.losses import Head, Pair, divergence, linear_divergence

MEDIUM = {"tokens": 512, "hidden": (576, 960), "vocabulary": 49152}  # SmolLM2 135M and 360M
LARGE = {"tokens": 64, "hidden": (2048, 4096), "vocabulary": 151936}  # Qwen3 1.7B and 8B
FEW = MEDIUM | {"tokens": 128}
CASES = {
    "small": {"tokens": 8192, "hidden": (64, 128), "vocabulary": 64},  # the micro family's scale
    "medium": MEDIUM,
    "medium bf16": MEDIUM | {"dtype": torch.bfloat16},
    "JSD": FEW | {"beta": 0.5},
    "frozen head": FEW | {"train_head": False},
    "half masked": FEW | {"masked": 0.5},
    "large bf16": LARGE | {"dtype": torch.bfloat16},
}
EXACTLY = "exact"
EXACT = 64, 49152  # tokens and vocabulary, at most, that gradients are compared on: float64 keeps whole logits
TRL_TILES = {"cpu": [(256, 4096), (512, 2048)], "cuda": [(1024, 32768), (4096, 8192), (4096, 65536)]}
LIGER_CHUNKS = {"cpu": [256, 1024], "cuda": [None, 1024, 4096]}  # tokens; None: its Triton loss


class Batch(NamedTuple):
    """What the losses work on: hidden states, heads, and options."""

    student_hidden: Tensor  # (N, Hs)
    student_weight: Tensor  # (V, Hs)
    teacher_hidden: Tensor  # (N, Ht)
    teacher_weight: Tensor  # (V, Ht)
    mask: Tensor  # (N,), bool
    beta: float  # 0 forward KL, 1 reverse KL, between them the generalised JSD


def make_batch(tokens, hidden, vocabulary, dtype=torch.float32, device="cpu", beta=1.0, masked=0.0, train_head=True):
    """A Batch of seeded random tensors; both models' logits have a standard deviation of about 2.

    Args:
        tokens: How many, masked ones included.
        hidden: Widths of the student's and of the teacher's hidden states.
        vocabulary: Rows of both heads.
        dtype, device: Of all of them; `cpu` or `cuda`.
        beta: Of the divergence, see Batch.
        masked: Share of the tokens that the mask drops.
        train_head: Whether the student's head gets a gradient (with LoRA it does not).
    """
    generator = torch.Generator(device).manual_seed(0)

    def normal(rows: int, width: int, scale: float = 1.0) -> Tensor:
        # Heads hold up to 600 million numbers: a block of them, repeated, costs the same to multiply
        block = torch.randn(min(rows, 4096), width, generator=generator, device=device).mul_(scale).to(dtype)
        return block.repeat(-(-rows // len(block)), 1)[:rows].contiguous()

    mask = torch.ones(tokens, dtype=torch.bool, device=device)
    mask[torch.randperm(tokens, generator=generator, device=device)[: round(tokens * masked)]] = False
    student, teacher = ((normal(tokens, width), normal(vocabulary, width, 2 * width**-0.5)) for width in hidden)
    return Batch(student[0].requires_grad_(), student[1].requires_grad_(train_head), *teacher, mask, beta)


def step(loss, batch: Batch, constants: AbstractContextManager | None = None) -> tuple[Tensor, ...]:
    """Forward and backward pass under other constants: gradients of the student's hidden states and, if it is trained, head."""
    with constants or nullcontext():
        value = loss(batch)
        return torch.autograd.grad(value, [t for t in batch[:2] if t.requires_grad], torch.ones_like(value))


def s2d(b: Batch) -> Tensor:
    """`s2d_lib.losses.linear_divergence` as the dense stages call it."""
    pair = Pair(b.student_hidden, Head(b.student_weight), b.teacher_hidden, Head(b.teacher_weight), mask=b.mask)
    return linear_divergence(pair, b.beta).loss


def plain(b: Batch) -> Tensor:
    """Both models' whole logits, log-softmax in float32 (of a float64 batch in float64), autograd."""
    student = functional.linear(b.student_hidden[b.mask], b.student_weight)
    teacher = functional.linear(b.teacher_hidden[b.mask], b.teacher_weight)
    precise = torch.promote_types(student.dtype, torch.float32)
    return divergence(student.to(precise), teacher.to(precise), b.beta).mean()


def products(b: Batch) -> Tensor:
    """No loss, but the matrix products that an exact one can't avoid: both models' logits, both gradients."""
    functional.linear(b.teacher_hidden[b.mask], b.teacher_weight)
    return functional.linear(b.student_hidden[b.mask], b.student_weight)


def trl(b: Batch) -> Tensor:
    """TRL's chunked divergence as its DistillationTrainer calls it (release 1.16)."""
    hidden = b.student_hidden[None], b.teacher_hidden[None]
    return _chunked_divergence_loss(*hidden, b.student_weight, b.teacher_weight, b.mask[None].float(), b.beta)[0]


def liger(b: Batch, chunk: int | None) -> Tensor:
    """Liger's JSD in chunks of tokens, which runs everywhere, or without a size its Triton JSD, which needs a GPU."""
    labels = torch.where(b.mask, 0, -100)
    if chunk is None:
        from liger_kernel.ops.fused_linear_jsd import LigerFusedLinearJSDFunction

        return LigerFusedLinearJSDFunction.apply(*b[:4], labels, b.beta, -100, 1.0)
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    return LigerFusedLinearJSDLoss(0.0, 1.0, beta=b.beta, compiled=False, chunk_size=chunk)(*b[:4], labels)


def contenders(batch: Batch) -> dict[str, dict[str, Callable]]:
    """Who takes part: for each name the settings, of which the fastest counts. What can't run here does not."""
    device = batch.mask.device.type
    losses = {"s2d": s2d, "TRL": trl, "torch": plain, "products alone": products}
    if device == "cuda" or shutil.which("g++") or shutil.which("clang++"):
        torch.compiler.reset()  # what was compiled for other shapes
        losses["torch, compiled"] = torch.compile(plain, dynamic=False)
    found = {name: {"": partial(step, loss)} for name, loss in losses.items()} | {"TRL, best tile": {}}
    for tokens, words in TRL_TILES[device]:
        sizes = mock.patch.multiple(chunked_divergence, TOKEN_CHUNK_SIZE=tokens, VOCAB_CHUNK_SIZE=words)
        found["TRL, best tile"][f"{tokens} x {words}"] = partial(step, trl, constants=sizes)
    # Liger makes the head's gradient whether it is wanted or not
    if importlib.util.find_spec("liger_kernel") and batch.student_weight.requires_grad:
        chunks = {str(chunk or "Triton"): chunk for chunk in LIGER_CHUNKS[device]}
        found["Liger"] = {setting: partial(step, partial(liger, chunk=chunk)) for setting, chunk in chunks.items()}
    return found


def loss_cost(tokens, hidden, vocabulary, dtype=torch.float32, device="cpu", rounds=3, **options) -> pd.DataFrame:
    """Every contender on one batch; the arguments are those of `make_batch`, and in how many rounds they take turns.

    Returns:
        `compared`'s columns; `setting` that a contender ran with, or `out of memory`; `floor`, the seconds of the products alone
        over its own (above 1 where pieces that stay in the cache are faster); `peak_mib` beyond the inputs; `gradient_error`,
        the larger one of hidden states and head, relative to their norms, against float64 of the same inputs; `rounding`, what
        it is of exact gradients once they have the batch's dtype.
    """
    batch, chosen, settings = make_batch(tokens, hidden, vocabulary, dtype, device, **options), {}, {}
    for name, ways in contenders(batch).items():
        tried = {}
        for setting, way in ways.items():
            with suppress(torch.OutOfMemoryError):
                tried[setting] = seconds_of(partial(way, batch))
        settings[name] = min(tried, key=tried.get, default="out of memory")
        chosen |= {name: ways[settings[name]]} if tried else {}
    calls = {name: partial(way, batch) for name, way in chosen.items()}
    table = compared({name: partial(seconds_of, call) for name, call in calls.items()}, "TRL", rounds, "loss")
    table = table.set_index("contender").reindex(list(settings))
    table.insert(0, "setting", pd.Series(settings))
    table["floor"] = table.loc["products alone", "seconds"] / table["seconds"]
    table["peak_mib"] = pd.Series({name: peak_of(call, device) for name, call in calls.items()})
    few = make_batch(min(tokens, EXACT[0]), hidden, min(vocabulary, EXACT[1]), dtype, device, **options)
    errors = gradient_errors(few, chosen)
    return table.assign(rounding=errors.pop(EXACTLY), gradient_error=pd.Series(errors)).reset_index()


def gradient_errors(batch: Batch, ways: dict[str, Callable]) -> dict[str, float]:
    """By contender, the larger relative error of its gradients; under EXACTLY that of exact ones in the batch's dtype."""
    exact = step(plain, Batch(*(t.detach().double().requires_grad_(t.requires_grad) for t in batch[:4]), *batch[4:]))
    found = {name: way(batch) for name, way in ways.items() if name != "products alone"}
    found[EXACTLY] = [gradient.to(batch.student_hidden.dtype) for gradient in exact]
    return {
        name: max(((one - want).norm() / want.norm()).item() for one, want in zip(got, exact, strict=True))
        for name, got in found.items()
    }
