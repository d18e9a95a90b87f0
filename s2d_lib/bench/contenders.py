"""Who is timed: s2d's loss, plain torch, TRL's and Liger's, each called as its own trainer calls it.

A contender is made for a batch and is then a step: one forward and one backward pass, which leaves the gradients of the
student's hidden states and head in the batch and returns the loss.
"""

import contextlib
from collections.abc import Callable
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from s2d_lib.bench.cases import Batch, Case
from s2d_lib.losses import Head, Pair, divergence, linear_divergence

Step = Callable[[], Tensor]


def s2d(case: Case, batch: Batch) -> Step:
    """`s2d_lib.losses.linear_divergence` as the dense stages call it."""

    def loss() -> Tensor:
        student, teacher = Head(batch.student_weight), Head(batch.teacher_weight)
        pair = Pair(batch.student_hidden, student, batch.teacher_hidden, teacher, mask=batch.mask)
        return linear_divergence(pair, case.beta).loss

    return _step(batch, loss)


def naive(case: Case, batch: Batch) -> Step:
    """Both models' whole logits in fp32, log-softmax, autograd."""

    def loss() -> Tensor:
        rows = slice(None) if batch.mask is None else batch.mask
        student = functional.linear(batch.student_hidden[rows], batch.student_weight).float()
        with torch.no_grad():
            teacher = functional.linear(batch.teacher_hidden[rows], batch.teacher_weight).float()
        return divergence(student, teacher, case.beta).mean()

    return _step(batch, loss)


def trl(case: Case, batch: Batch, tile: tuple[int, int] | None = None) -> Step:
    """TRL's chunked divergence as its DistillationTrainer calls it; `tile` (tokens, vocabulary) in place of its own."""
    from trl.kernels import chunked_divergence
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask = torch.ones(case.tokens, device=batch.student_hidden.device) if batch.mask is None else batch.mask
    step = _step(
        batch,
        lambda: _chunked_divergence_loss(
            batch.student_hidden[None],
            batch.teacher_hidden[None],
            batch.student_weight,
            batch.teacher_weight,
            mask[None],
            case.beta,
        )[0],
    )

    if tile is None:
        return step
    sizes = {"TOKEN_CHUNK_SIZE": tile[0], "VOCAB_CHUNK_SIZE": tile[1]}
    return _with_constants(chunked_divergence, sizes, step)


def liger_chunked(case: Case, batch: Batch, chunk_size: int = 1024, compiled: bool = False) -> Step:
    """Liger's chunked JSD, which runs everywhere; it can't leave out the head's gradient."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    module = LigerFusedLinearJSDLoss(0.0, 1.0, beta=case.beta, compiled=compiled, chunk_size=chunk_size)
    step = _step(batch, lambda: module(*_as_liger(case, batch)))
    if compiled:
        step()  # compiling takes half a minute and is not what is timed
    return step


def liger_fused(case: Case, batch: Batch, budget: int) -> Step:
    """Liger's Triton JSD (GPU only), the fairest peer there; `budget` is its constant for the size of its chunks."""
    from liger_kernel.ops import fused_linear_jsd

    student, weight, teacher, teacher_weight, labels = _as_liger(case, batch)
    step = _step(
        batch,
        lambda: fused_linear_jsd.LigerFusedLinearJSDFunction.apply(
            student, weight, teacher, teacher_weight, labels, case.beta, -100, 1.0
        ),
    )
    # Liger 0.8.5 picks the constant by the card's generation; it is read at each call
    sizes = {"_max_capability": lambda device=None: 103, "_CHUNK_MEM_CONST_B300": budget}
    return _with_constants(fused_linear_jsd, sizes, step)


def _as_liger(case: Case, batch: Batch) -> tuple[Tensor, ...]:
    labels = torch.zeros(case.tokens, dtype=torch.long, device=batch.student_hidden.device)
    if batch.mask is not None:
        labels[~batch.mask] = -100
    return batch.student_hidden, batch.student_weight, batch.teacher_hidden, batch.teacher_weight, labels


def _step(batch: Batch, loss: Callable[[], Tensor]) -> Step:
    def step() -> Tensor:
        batch.student_hidden.grad = batch.student_weight.grad = None
        value = loss()
        value.backward()
        return value.detach()

    return step


def _with_constants(module: ModuleType, constants: dict[str, object], step: Step) -> Step:
    """The step with other values for a module's constants, which are put back after it."""

    def changed() -> Tensor:
        with contextlib.ExitStack() as stack:
            for name, value in constants.items():
                stack.enter_context(mock.patch.object(module, name, value))
            return step()

    return changed
