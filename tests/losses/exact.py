"""The same losses from their definitions, in fp64, with whole logits and autograd: nothing of s2d_lib in here."""

import math

import torch


def exact_divergence(p, q, beta):
    """Per-token divergence of probabilities (..., V) by summing the definition; xlogy makes 0 log 0 = 0."""
    if beta == 0:
        return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(-1)
    if beta == 1:
        return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)
    m = (1 - beta) * p + beta * q
    to_teacher = (torch.xlogy(q, q) - torch.xlogy(q, m)).sum(-1)
    to_student = (torch.xlogy(p, p) - torch.xlogy(p, m)).sum(-1)
    return beta * to_teacher + (1 - beta) * to_student


def exact_logits(hidden, weight, bias, scale, softcap, temperature, vocab):
    z = torch.einsum("...h,vh->...v", hidden, weight)
    if bias is not None:
        z = z + bias
    z = z[..., :vocab] * scale
    if softcap is not None:
        z = softcap * (torch.exp(2 * z / softcap) - 1) / (torch.exp(2 * z / softcap) + 1)
    return z / temperature


def exact_loss(case, beta, options):
    """(loss, per_token, entropy, gradients of the case's student tensors) in fp64 from `case`, a dict of tensors."""
    d = {k: None if v is None else v.detach().double() for k, v in case.items()}
    leaves = [k for k in ("student_hidden", "student_weight", "student_bias") if d.get(k) is not None]
    for k in leaves:
        d[k].requires_grad_()
    o = {"temperature": 1.0, "weights": None, "mask": None, "vocab_size": None, "normalizer": None, **options}
    vocab = o["vocab_size"] or d["student_weight"].shape[0]
    p, q = (
        exact_logits(
            d[f"{who}_hidden"],
            d[f"{who}_weight"],
            d.get(f"{who}_bias"),
            o.get(f"{who}_logit_scale", 1.0),
            o.get(f"{who}_softcap"),
            o["temperature"],
            vocab,
        ).softmax(-1)
        for who in ("student", "teacher")
    )
    keep = torch.ones(p.shape[:-1], dtype=torch.bool) if o["mask"] is None else o["mask"].bool()
    per_token = exact_divergence(p, q, beta)
    weighted = per_token if o["weights"] is None else per_token * o["weights"].double()
    normalizer = max(int(keep.sum()), 1) if o["normalizer"] is None else float(o["normalizer"])
    loss = weighted[keep].sum() / normalizer
    grads = torch.autograd.grad(loss, [d[k] for k in leaves])
    entropy = -torch.xlogy(p, p).sum(-1)
    zero = torch.zeros((), dtype=torch.float64)
    return (
        loss.item(),
        torch.where(keep, per_token, zero).detach(),
        torch.where(keep, entropy, zero).detach(),
        dict(zip(leaves, grads, strict=True)),
    )


def make_case(shape, vocab, student_width, teacher_width, *, bias=False, dtype=torch.float32, seed=0, spread=2.0):
    """Random hidden states and heads with logits of standard deviation `spread`, in `dtype`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    vocab_student, vocab_teacher = vocab if isinstance(vocab, tuple) else (vocab, vocab)
    case = {
        "student_hidden": normal(*shape, student_width),
        "student_weight": normal(vocab_student, student_width) * spread / math.sqrt(student_width),
        "teacher_hidden": normal(*shape, teacher_width),
        "teacher_weight": normal(vocab_teacher, teacher_width) * spread / math.sqrt(teacher_width),
    }
    if bias:
        case["student_bias"], case["teacher_bias"] = normal(vocab_student), normal(vocab_teacher)
    return {k: v.to(dtype) for k, v in case.items()}


def relative_error(value, expected):
    """Norm of the difference over the norm of `expected`."""
    value, expected = torch.as_tensor(value).double(), torch.as_tensor(expected).double()
    return ((value - expected).norm() / expected.norm().clamp(min=1e-300)).item()


def with_grad(case):
    """A copy of the case whose student tensors collect gradients."""
    return {k: v.clone().requires_grad_(k.startswith("student")) for k, v in case.items()}
