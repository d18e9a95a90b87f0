r"""Full-vocabulary divergence between two models straight from their hidden states and heads.

With `z` the student's logits, `p = softmax(z)` the student's and `q` the teacher's distribution, the gradients are

    forward KL(q || p)   d/dz = p - q
    reverse KL(p || q)   d/dz = p (log p - log q - KL(p || q))
    generalised JSD      d/dz = (1 - beta) p (log p - log m - KL(p || m)),  m = (1 - beta) p + beta q

so one visit to a token's logits is enough to know its loss and its gradient. The loss is a scalar, and its upstream
gradient a number: the gradients of hidden states and head are made in the forward pass, chunk by chunk, and only
scaled in the backward pass. That takes four head-sized matmuls (two logits, two gradients), where recomputing the
logits in the backward pass takes six, and no logits outlive their chunk.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from s2d_lib.losses.blocks import block_divergence_, block_rows, spare_buffers
from s2d_lib.losses.inputs import Inputs, TokenLoss, check_beta, prepare, project


def linear_divergence(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    beta: float = 1.0,
    temperature: float = 1.0,
    weights: Tensor | None = None,
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
) -> TokenLoss:
    """Exact divergence over the whole vocabulary, without ever holding more than a chunk of logits.

    `beta` is GKD's (arXiv 2306.13649) in TRL's convention, see `reference.divergence`: 0 is the forward KL(p_T || p_S),
    1 the reverse KL(p_S || p_T) of on-policy distillation (Eq. 2 of arXiv 2605.12483), between them the generalised
    JSD. Logits are fp32 (fp64 for fp64 inputs), also for bf16 inputs and under autocast: rounding them to bf16 costs
    tens of percent of the gradient once the models are close. Gradients flow to the student's hidden states, head and
    bias, where they are asked for, never to the teacher or the weights.

    A head sharded by FSDP2 (a DTensor) is gathered once, and its gradient averaged over the ranks. With ZeRO-3, call
    this inside `deepspeed.zero.GatheredParameters`: the backward pass no longer needs the heads.

    Args:
        student_hidden: (..., Hs).
        student_weight: (Vs, Hs), the student's head.
        teacher_hidden: (..., Ht), the same tokens.
        teacher_weight: (Vt, Ht).
        beta: which divergence, from 0 to 1.
        temperature: divides both models' logits. The loss is not multiplied by its square.
        weights: (...), factor of each token's divergence in the loss; no gradient flows to it.
        mask: (...), bool or number; tokens where it is 0 are dropped before anything is computed.
        student_bias: (Vs,), added to the logits; it may hold -inf to forbid tokens, as may the teacher's. A token that
            a distribution forbids adds nothing to that distribution's sum (0 log 0 = 0); p > 0 against 0 is +inf.
        teacher_bias: (Vt,).
        student_logit_scale: multiplies the logits (Cohere, Granite).
        teacher_logit_scale: likewise.
        student_softcap: c in `c tanh(logits / c)`, after the scale (Gemma).
        teacher_softcap: likewise.
        vocab_size: compare only the first so many columns (the tokenizer's size: heads are often padded beyond it, and
            the padding differs between sizes of one family). Rows beyond get a zero gradient. Needed if Vs != Vt.
        normalizer: what the weighted sum is divided by. Default: the number of kept tokens (not their total weight, so
            that doubling all weights doubles the loss). Give the count over all micro-batches and ranks where a mean
            per micro-batch would change the objective.
        chunk_size: tokens at a time; changes memory and speed, not the result.

    Returns:
        `TokenLoss(loss, per_token, entropy, agreement, n_tokens)`. With every token masked the loss is 0, and so are
        the gradients.

    Raises:
        ValueError: shapes that do not fit together, heads of different size without `vocab_size`, or a number out of
            its range.
        RuntimeError: a second backward pass through a graph that was not retained, or a derivative of the gradient.

    """
    check_beta(beta)
    inputs = prepare(
        student_hidden,
        student_weight,
        teacher_hidden,
        teacher_weight,
        temperature,
        weights,
        mask=mask,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        student_logit_scale=student_logit_scale,
        teacher_logit_scale=teacher_logit_scale,
        student_softcap=student_softcap,
        teacher_softcap=teacher_softcap,
        vocab_size=vocab_size,
        normalizer=normalizer,
        chunk_size=chunk_size,
    )
    head = inputs.student
    wanted = [
        torch.is_grad_enabled() and t is not None and t.requires_grad for t in (head.hidden, head.weight, head.bias)
    ]
    # Autocast has had its say on the dtypes in `prepare`; inside it would round the logits.
    with torch.autocast(head.hidden.device.type, enabled=False):
        if any(wanted):
            results = _LinearDivergence.apply(head.hidden, head.weight, head.bias, inputs, float(beta), wanted)
        else:
            results, _ = _compute(inputs, float(beta), wanted)
    return inputs.token_loss(*results)


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, inputs, beta, wanted):
        # The first three arguments are those of inputs.student, passed so that autograd knows where gradients go
        results, ctx.grads = _compute(inputs, beta, wanted)
        ctx.mark_non_differentiable(*results[1:])
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        if upstream is None:  # the loss is not part of what is differentiated
            return (None,) * 6
        if ctx.grads is None:
            raise RuntimeError("linear_divergence keeps its gradients for one backward pass: pass retain_graph=True.")
        grads = ctx.grads
        if _graph_is_retained():
            grads = [None if grad is None else grad * upstream for grad in grads]
        else:
            ctx.grads = None
            # A head's gradient is large: scale it where it lies, or not at all (asking a GPU for the number would wait)
            if upstream.is_cuda or upstream != 1:
                grads = [None if grad is None else grad.mul_(upstream) for grad in grads]
        return *grads, None, None, None


def _graph_is_retained() -> bool:
    # Private in torch (its own compiler asks the same before it reuses memory); without it, assume the costlier case
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or ask()


def _compute(inputs: Inputs, beta: float, wanted: list[bool]):
    """Return (loss, per_token, entropy, agreement) over the kept tokens and the gradients of `wanted`, or Nones."""
    student, teacher, vocab, chunks = inputs.student, inputs.teacher, inputs.vocab, inputs.chunks()
    hidden, weight = student.hidden, student.weight
    empty = functools.partial(torch.empty, dtype=inputs.dtype, device=hidden.device)
    z_student, z_teacher = empty(inputs.chunk, vocab), empty(inputs.chunk, vocab)
    per_token, entropy = empty(inputs.n), empty(inputs.n)
    agreement = torch.empty(inputs.n, dtype=torch.bool, device=hidden.device)
    # Elementwise work goes by blocks of rows that fit in cache, so that only the matmuls touch main memory
    block = min(block_rows(vocab, hidden.device.type), inputs.chunk)
    spare = [empty(block, vocab) for _ in range(spare_buffers(student, beta))]
    factor = _row_factor(inputs, beta)

    wants_hidden, wants_weight, wants_bias = wanted
    grad_hidden = (torch.zeros_like if inputs.rows is not None else torch.empty_like)(hidden) if wants_hidden else None
    grad_bias = torch.zeros(student.bias.shape, dtype=inputs.dtype, device=hidden.device) if wants_bias else None
    grad_weight = None
    if wants_weight:
        # One chunk writes its product as it is; more need a sum that does not round after each
        grad_weight = torch.empty_like(weight, dtype=weight.dtype if len(chunks) == 1 else inputs.dtype)
        grad_weight[vocab:].zero_()

    for part in chunks:
        where, size = inputs.select(part), part.stop - part.start
        rows = hidden[where]
        z_s = project(rows, weight[:vocab], _first(student.bias, vocab), z_student[:size])
        z_t = project(teacher.hidden[where], teacher.weight[:vocab], _first(teacher.bias, vocab), z_teacher[:size])
        for start in range(0, size, block):
            inner = slice(start, min(start + block, size))
            outer = slice(part.start + inner.start, part.start + inner.stop)
            row_factor = factor[outer] if factor.dim() else factor
            buffers = [buffer[: inner.stop - inner.start] for buffer in spare]
            per_token[outer], entropy[outer], agreement[outer] = block_divergence_(
                inputs, beta, z_s[inner], z_t[inner], buffers, row_factor if any(wanted) else None
            )
        # z_s now holds the gradient of the loss by the student's projection
        if not any(wanted):
            continue
        grad = z_s.to(hidden.dtype)
        if wants_hidden and inputs.rows is None:
            torch.mm(grad, weight[:vocab], out=grad_hidden[where])
        elif wants_hidden:
            grad_hidden[where] = torch.mm(grad, weight[:vocab])
        if wants_weight:
            add_outer_(grad_weight[:vocab], z_s, grad, rows, first=part.start == 0)
        if wants_bias:
            grad_bias[:vocab] += z_s.sum(0)

    value = per_token if inputs.weights is None else per_token * inputs.weights
    grad_weight = grad_weight if grad_weight is None else grad_weight.to(weight.dtype)
    grad_bias = grad_bias if grad_bias is None else grad_bias.to(student.bias.dtype)
    return (value.sum() / inputs.normalizer, per_token, entropy, agreement), (grad_hidden, grad_weight, grad_bias)


def _first(bias: Tensor | None, vocab: int) -> Tensor | None:
    return None if bias is None else bias[:vocab]


def _row_factor(inputs: Inputs, beta: float) -> Tensor:
    """What each row's gradient is multiplied by, beyond the formula of its divergence: a scalar, or (n, 1)."""
    constant = inputs.student.scale / inputs.temperature * (1 - beta if 0 < beta < 1 else 1)
    like = {"dtype": inputs.dtype, "device": inputs.student.hidden.device}
    factor = torch.tensor(constant, **like) / inputs.normalizer
    return factor if inputs.weights is None else inputs.weights[:, None] * factor


def add_outer_(total: Tensor, grad32: Tensor, grad: Tensor, rows: Tensor, first: bool) -> None:
    """Add `grad.T @ rows` to `total` without rounding it to the inputs' dtype on the way; the first overwrites."""
    if total.dtype == rows.dtype:
        torch.addmm(total, grad.t(), rows, beta=0 if first else 1, out=total)
    elif total.is_cuda and rows.dtype == torch.bfloat16 and total.dtype == torch.float32:
        torch.addmm(total.zero_() if first else total, grad.t(), rows, out_dtype=torch.float32, out=total)
    else:
        torch.addmm(total, grad32.t(), rows.to(total.dtype), beta=0 if first else 1, out=total)
