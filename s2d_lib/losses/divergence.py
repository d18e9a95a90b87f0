r"""Divergence between two models' next-token distributions, over the whole vocabulary: from logits, and without them.

`beta` is GKD's (arXiv 2306.13649) in TRL's convention: 0 is the forward KL(p_T || p_S), 1 the reverse KL(p_S || p_T) of
on-policy distillation (Eq. 2 of arXiv 2605.12483), between them the generalised Jensen-Shannon divergence
`beta KL(p_T || m) + (1 - beta) KL(p_S || m)` with `m = (1 - beta) p_S + beta p_T`. (It vanishes towards both ends: the
two KLs are cases of their own, not its limits.)

`divergence` is to be read and tested against; training takes `linear_divergence`. With z the student's logits,
p = softmax(z) its distribution and q the teacher's, the gradients are

    forward KL(q || p)   d/dz = p - q
    reverse KL(p || q)   d/dz = p (log p - log q - KL(p || q))
    generalised JSD      d/dz = (1 - beta) p (log p - log m - KL(p || m)),  m = (1 - beta) p + beta q

so one visit to a token's logits is enough to know its loss and its gradient. The loss is a scalar, and its upstream
gradient a number: the gradients of hidden states and head are made in the forward pass, chunk by chunk, and only scaled
in the backward pass. That takes four head-sized matmuls (two logits, two gradients), where recomputing the logits in the
backward pass takes six, and no logits outlive their chunk.

A trailing underscore means, as in torch, that arguments are overwritten.
"""

import copy
import functools
import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from s2d_lib.losses.head import Head, Kept, aligned, check, check_positive


def kl_divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) in nats over the last dimension, from log-probabilities.

    -inf in `log_a` adds nothing and has no gradient (0 log 0 = 0); where a > 0 and b = 0 the divergence is +inf.
    """
    present = log_a > -math.inf
    gap = log_a.where(present, 0.0) - log_b.where(present, 0.0)
    return (log_a.exp() * gap).sum(-1)


def divergence_of_log_probs(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """The divergence (...,) in nats of a student p and a teacher q from log-probabilities (..., V)."""
    if beta == 0:
        return kl_divergence(log_q, log_p)
    if beta == 1:
        return kl_divergence(log_p, log_q)
    # A token that neither model allows has no mixture probability and no part in either sum; 0 keeps autograd finite
    present = torch.maximum(log_p, log_q) > -math.inf
    log_m = torch.logaddexp(log_p.where(present, 0.0) + math.log1p(-beta), log_q.where(present, 0.0) + math.log(beta))
    return beta * kl_divergence(log_q, log_m) + (1 - beta) * kl_divergence(log_p, log_m)


def divergence(student_logits: Tensor, teacher_logits: Tensor, beta: float = 1.0) -> Tensor:
    """The divergence (...,) in nats of two models from their logits (..., V), in plain torch.

    Raises:
        ValueError: The shapes differ, or `beta` is not from 0 to 1.
    """
    check_beta(beta)
    check(student_logits.shape == teacher_logits.shape, "both models' logits must have the same shape.")
    return divergence_of_log_probs(student_logits.log_softmax(-1), teacher_logits.log_softmax(-1), beta)


class TokenLoss(NamedTuple):
    """A distillation loss and what it knows about each token; only `loss` carries a gradient.

    All others have the leading shape of the hidden states, and 0 or False where masked.
    """

    loss: Tensor  # scalar, nats per token: the weighted sum of the tokens' values over the normalizer
    per_token: Tensor  # the divergence of each token (nats), unweighted
    entropy: Tensor  # the student's (nats, at the given temperature)
    agreement: Tensor  # bool: both models have the same most likely token


class Pair:
    """A student and a teacher at the same tokens: what every estimator of their divergence is asked about.

    No gradient flows to the teacher or the weights. Heads in FSDP2's shards are gathered once.

    Args:
        student_hidden: (..., Hs).
        student: Its head.
        teacher_hidden: (..., Ht), the same tokens.
        teacher: Its head, over the same vocabulary.
        temperature: Divides both models' logits. The loss is not multiplied by its square.
        weights: (...), factor of each token's divergence in the loss.
        mask: (...), bool or number; tokens where it is 0 are dropped before anything is computed.
        normalizer: What the weighted sum is divided by. Default: the number of kept tokens, not their total weight. Give the
            count over all micro-batches and ranks where a mean per micro-batch would change the objective.
        chunk_size: Tokens at a time; changes memory and speed, not the result.

    Raises:
        ValueError: Shapes that do not fit together, heads of different size, or a number out of its range.
    """

    def __init__(
        self,
        student_hidden: Tensor,
        student: Head,
        teacher_hidden: Tensor,
        teacher: Head,
        *,
        temperature: float = 1.0,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
        chunk_size: int | None = None,
    ):
        shapes = tuple(student_hidden.shape[:-1]), tuple(teacher_hidden.shape[:-1])
        check(shapes[0] == shapes[1], f"both models' hidden states must cover the same tokens, got {shapes}.")
        check_positive("temperature", temperature)
        self.temperature = float(temperature)
        self.student_hidden, self.student = aligned("student", student_hidden, student)
        self.teacher_hidden, self.teacher = aligned("teacher", teacher_hidden.detach(), teacher.detached())
        sizes = len(self.student.weight), len(self.teacher.weight)
        check(sizes[0] == sizes[1], f"the heads have {sizes[0]} and {sizes[1]} rows: they need one vocabulary.")
        self.kept = Kept(student_hidden, self.student, mask, chunk_size)
        wider = torch.promote_types(self.student_hidden.dtype, self.teacher_hidden.dtype)
        self.dtype = torch.promote_types(wider, torch.float32)  # of logits and loss
        self.weights = None if weights is None else self.kept.of("weights", weights.detach().to(self.dtype))
        if isinstance(normalizer, Tensor):
            normalizer = normalizer.detach().reshape(()).to(student_hidden.device)
        else:
            normalizer = max(self.kept.n, 1) if normalizer is None else normalizer
            check_positive("normalizer", normalizer)
        self.normalizer = normalizer

    def weighted(self, weights: Tensor) -> "Pair":
        """The same tokens with these weights (...) in place of any that they had."""
        other = copy.copy(self)
        other.weights = self.kept.of("weights", weights.detach().to(self.dtype))
        return other

    def token_loss(self, loss: Tensor, per_token: Tensor, entropy: Tensor, agreement: Tensor) -> TokenLoss:
        """Pack one value per kept token into what every estimator returns."""
        return TokenLoss(loss, *map(self.kept.spread, (per_token.detach(), entropy, agreement)))


def linear_divergence(pair: Pair, beta: float = 1.0) -> TokenLoss:
    """Exact divergence over the whole vocabulary, without ever holding more than a chunk of logits.

    Gradients flow to the student's hidden states, head and bias, where they are asked for. With every token masked the
    loss is 0, and so are the gradients.

    Raises:
        ValueError: `beta` is not from 0 to 1.
        RuntimeError: A second backward pass through a graph that was not retained, or a derivative of the gradient.
    """
    check_beta(beta)
    leaves = pair.student_hidden, pair.student.weight, pair.student.bias
    wanted = [torch.is_grad_enabled() and leaf is not None and leaf.requires_grad for leaf in leaves]
    # Autocast has had its say on the dtypes in `aligned`; inside it would round the logits.
    with torch.autocast(pair.student_hidden.device.type, enabled=False):
        return pair.token_loss(*_LinearDivergence.apply(*leaves, pair, float(beta), wanted))


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, pair, beta, wanted):
        # The first three arguments are the pair's own, passed so that autograd knows where gradients go
        results, ctx.grads = _compute(pair, beta, wanted)
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        if ctx.grads is None:
            raise RuntimeError("linear_divergence keeps its gradients for one backward pass: pass retain_graph=True.")
        # Private in torch (its own compiler asks the same before it reuses memory); without it, assume the costlier case
        retained = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
        grads = ctx.grads
        if retained():
            grads = [None if grad is None else grad * upstream for grad in grads]
        else:
            ctx.grads = None
            # A head's gradient is large: scale it where it lies, or not at all (asking a GPU for the number would wait)
            if upstream.is_cuda or upstream != 1:
                grads = [None if grad is None else grad.mul_(upstream) for grad in grads]
        return *grads, None, None, None


def _compute(pair: Pair, beta: float, wanted: list[bool]):
    """The loss, divergence, entropy and agreement of the kept tokens, and the gradients that are `wanted`, else None."""
    kept, head, hidden, weight = pair.kept, pair.student, pair.student_hidden, pair.student.weight
    vocab, device, chunks = len(weight), hidden.device, kept.chunks()
    empty = functools.partial(torch.empty, dtype=pair.dtype, device=device)
    z_student, z_teacher = empty(kept.chunk, vocab), empty(kept.chunk, vocab)
    per_token, entropy, agreement = empty(kept.n), empty(kept.n), empty(kept.n, dtype=torch.bool)
    # Elementwise work goes by blocks of rows that fit in cache, so that only the matmuls touch main memory: a few buffers
    # of a block should fit a core's second level; a GPU wants more to do at once.
    block = min(max(1, (2**17 if device.type == "cpu" else 2**24) // vocab), kept.chunk)
    spare = [empty(block, vocab) for _ in range((3 if 0 < beta < 1 else 2) + (head.softcap is not None))]
    # What each row's gradient is multiplied by, beyond the formula of its divergence
    constant = head.scale / pair.temperature * (1 - beta if 0 < beta < 1 else 1)
    factor = torch.tensor(constant, dtype=pair.dtype, device=device) / pair.normalizer
    factor = (factor if pair.weights is None else pair.weights[:, None] * factor).expand(kept.n, 1)

    wants_hidden, wants_weight, wants_bias = wanted
    of_hidden = torch.zeros_like(hidden) if wants_hidden else None
    # One chunk writes its product as it is; more need a sum that does not round after each
    summed = weight.dtype if len(chunks) == 1 else pair.dtype
    of_weight = torch.empty_like(weight, dtype=summed) if wants_weight else None
    of_bias = torch.zeros_like(head.bias, dtype=pair.dtype) if wants_bias else None

    for part in chunks:
        where, size = kept.places(part), part.stop - part.start
        rows = hidden[where]
        z_s = head.project(rows, z_student[:size])
        z_t = pair.teacher.project(pair.teacher_hidden[where], z_teacher[:size])
        for start in range(0, size, block):
            inner = slice(start, min(start + block, size))
            outer = slice(part.start + inner.start, part.start + inner.stop)
            buffers = [buffer[: inner.stop - inner.start] for buffer in spare]
            values = _block_(pair, beta, z_s[inner], z_t[inner], buffers, factor[outer] if any(wanted) else None)
            per_token[outer], entropy[outer], agreement[outer] = values
        if not any(wanted):
            continue
        # z_s now holds the gradient of the loss by the student's projection
        grad = z_s.to(hidden.dtype)
        if wants_hidden:
            of_hidden[where] = torch.mm(grad, weight)
        if wants_weight:
            _add_outer_(of_weight, z_s, grad, rows, first=part.start == 0)
        if wants_bias:
            of_bias += z_s.sum(0)

    value = per_token if pair.weights is None else per_token * pair.weights
    pairs = (of_hidden, hidden), (of_weight, weight), (of_bias, head.bias)
    gradients = [None if gradient is None else gradient.to(of.dtype) for gradient, of in pairs]
    return (value.sum() / pair.normalizer, per_token, entropy, agreement), gradients


def _add_outer_(total: Tensor, grad32: Tensor, grad: Tensor, rows: Tensor, first: bool) -> None:
    """Add `grad.T @ rows` to `total` without rounding it to the inputs' dtype on the way; the first overwrites."""
    if total.dtype == rows.dtype:
        torch.addmm(total, grad.t(), rows, beta=0 if first else 1, out=total)
    elif total.is_cuda and rows.dtype == torch.bfloat16 and total.dtype == torch.float32:
        torch.addmm(total.zero_() if first else total, grad.t(), rows, out_dtype=torch.float32, out=total)
    else:
        torch.addmm(total, grad32.t(), rows.to(total.dtype), beta=0 if first else 1, out=total)


def _block_(pair: Pair, beta: float, z_s: Tensor, z_t: Tensor, spare: list[Tensor], factor: Tensor | None):
    """From both projections (n, V) of some tokens return divergence, entropy and agreement (n,).

    Leaves the gradient times `factor` in `z_s`, and nothing useful in `z_t` and the `spare` buffers.
    """
    student, teacher, slope = pair.student, pair.teacher, None
    if student.softcap is not None:
        *spare, slope = spare
    # Both are largest at one token: then, and only then, their sum is as large as the sum of both maxima. (Scales, caps
    # and temperature keep the order. Two argmaxes would cost as much as all exponentials.)
    highest = torch.add(z_s, z_t, out=spare[0]).amax(-1)
    agreement = highest == z_s.amax(-1) + z_t.amax(-1)
    student.logits_(z_s, pair.temperature, slope)
    teacher.logits_(z_t, pair.temperature)
    # Without a bias logits are finite, and so is every log-probability
    infinite = student.bias is not None or teacher.bias is not None
    formula = _forward_kl_ if beta == 0 else _reverse_kl_ if beta == 1 else functools.partial(_jsd_, beta)
    value, entropy = formula(z_s, z_t, *spare, infinite)
    if factor is not None:
        if slope is not None:
            z_s.mul_(slope)
        z_s.mul_(factor)
    return value, entropy, agreement


def _log_and_probs_(z: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into log-probabilities in place, and write the probabilities to `out`, with one exponential a token.

    The largest probability is exp(0) over the sum of the exponentials, so its logarithm gives the normaliser.
    """
    probs = torch.softmax(z, -1, out=out)
    return z.sub_(z.amax(-1, keepdim=True) - probs.amax(-1, keepdim=True).log_()), probs


# Each formula gets both models' logits and buffers, returns the divergence and the student's entropy, and leaves the
# gradient by the student's logits in `z_s` (JSD's without its 1 - beta). Where a probability is 0 because its logarithm
# is -inf, the logarithm must not meet it: 0 * inf is NaN. A probability that merely underflowed is harmless.


def _forward_kl_(z_s: Tensor, z_t: Tensor, free: Tensor, free2: Tensor, infinite: bool):
    log_p, p = _log_and_probs_(z_s, free)
    log_q, q = _log_and_probs_(z_t, free2)
    gap = log_q.sub_(log_p)
    if infinite:
        gap.masked_fill_(q == 0, 0)
        log_p.masked_fill_(p == 0, 0)
    value = gap.mul_(q).sum(-1)
    entropy = log_p.mul_(p).sum(-1).neg_()
    torch.sub(p, q, out=z_s)
    return value, entropy


def _reverse_kl_(z_s: Tensor, z_t: Tensor, free: Tensor, free2: Tensor, infinite: bool):
    log_p, p = _log_and_probs_(z_s, free)
    log_q = torch.log_softmax(z_t, -1, out=free2)
    if infinite:
        log_p.masked_fill_(p == 0, 0)
        log_q.masked_fill_(p == 0, 0)
    entropy = torch.mul(log_p, p, out=z_t).sum(-1).neg_()
    gap = log_p.sub_(log_q)
    value = gap.mul_(p).sum(-1)
    gap.addcmul_(p, value[:, None], value=-1)
    return value, entropy


def _jsd_(beta: float, z_s: Tensor, z_t: Tensor, free: Tensor, free2: Tensor, free3: Tensor, infinite: bool):
    log_p, p = _log_and_probs_(z_s, free)
    log_q, q = _log_and_probs_(z_t, free2)
    if infinite:
        log_p.masked_fill_(p == 0, 0)
        log_q.masked_fill_(q == 0, 0)
    # Where both underflow the mixture's logarithm has no say, but must be finite
    log_m = torch.lerp(p, q, beta, out=free3).clamp_(min=torch.finfo(p.dtype).tiny).log_()
    kl_teacher = log_q.sub_(log_m).mul_(q).sum(-1)
    entropy = torch.mul(log_p, p, out=log_q).sum(-1).neg_()
    gap = log_p.sub_(log_m)
    kl_student = gap.mul_(p).sum(-1)
    gap.addcmul_(p, kl_student[:, None], value=-1)
    return beta * kl_teacher + (1 - beta) * kl_student, entropy


def check_beta(beta: float) -> None:
    """Raise ValueError unless `beta` lies in [0, 1]."""
    check(isinstance(beta, Real) and 0 <= beta <= 1, f"beta must be a number from 0 to 1, got {beta!r}.")
