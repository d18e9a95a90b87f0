"""The divergences from their definitions, in fp64, with whole logits and autograd: nothing of s2d_lib in here."""

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


def exact_probs(hidden, weight, bias, scale=1.0, softcap=None, temperature=1.0):
    z = torch.einsum("...h,vh->...v", hidden, weight)
    z = (z if bias is None else z + bias) * scale
    if softcap is not None:
        z = softcap * (torch.exp(2 * z / softcap) - 1) / (torch.exp(2 * z / softcap) + 1)
    return (z / temperature).softmax(-1)


def exact_loss(case, beta, options=None):
    """(loss, per_token, entropy, gradients of the case's student tensors) in fp64 of `cases.pair(case, **options)`."""
    d = {k: v.detach().double() for k, v in case.items()}
    leaves = {k: v.requires_grad_() for k, v in d.items() if k.startswith("student")}
    o = {"student": {}, "teacher": {}, "temperature": 1.0, "weights": None, "mask": None, "normalizer": None}
    o |= options or {}
    p, q = (
        exact_probs(
            d[f"{who}_hidden"], d[f"{who}_weight"], d.get(f"{who}_bias"), **o[who], temperature=o["temperature"]
        )
        for who in ("student", "teacher")
    )
    keep = torch.ones(p.shape[:-1], dtype=torch.bool) if o["mask"] is None else o["mask"].bool()
    per_token, entropy = exact_divergence(p, q, beta), -torch.xlogy(p, p).sum(-1)
    weighted = per_token if o["weights"] is None else per_token * o["weights"].double()
    normalizer = max(int(keep.sum()), 1) if o["normalizer"] is None else float(o["normalizer"])
    loss = weighted[keep].sum() / normalizer
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    per_token, entropy = (torch.where(keep, value, 0.0).detach() for value in (per_token, entropy))
    return loss.item(), per_token, entropy, grads
