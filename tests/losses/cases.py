"""Random models at random tokens, and the losses that are asked about them."""

import math

import torch

from s2d_lib.losses import Head, Pair


def make_case(shape, vocab, student_width, teacher_width, *, bias=False, dtype=torch.float32, seed=0, spread=2.0):
    """Hidden states and heads with logits of standard deviation `spread`, in `dtype`, by name."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    case = {
        "student_hidden": normal(*shape, student_width),
        "student_weight": normal(vocab, student_width) * spread / math.sqrt(student_width),
        "teacher_hidden": normal(*shape, teacher_width),
        "teacher_weight": normal(vocab, teacher_width) * spread / math.sqrt(teacher_width),
    }
    if bias:
        case["student_bias"], case["teacher_bias"] = normal(vocab), normal(vocab)
    return {k: v.to(dtype) for k, v in case.items()}


def pair(case, student=None, teacher=None, **options):
    """The `Pair` of a case; `student` and `teacher` are scale and softcap of their heads."""
    of_student, of_teacher = (
        Head(case[f"{who}_weight"], case.get(f"{who}_bias"), **(more or {}))
        for who, more in (("student", student), ("teacher", teacher))
    )
    return Pair(case["student_hidden"], of_student, case["teacher_hidden"], of_teacher, **options)


def loss_and_grads(function, case, upstream=1.0, student=None, teacher=None, options=None, **pair_options):
    """What `function(pair, **options)` returns, and the gradients by the names of the case's student tensors."""
    case = {k: v.detach().clone().requires_grad_(k.startswith("student")) for k, v in case.items()}
    out = function(pair(case, student, teacher, **pair_options), **(options or {}))
    leaves = {k: v for k, v in case.items() if k.startswith("student")}
    return out, dict(zip(leaves, torch.autograd.grad(out.loss * upstream, list(leaves.values())), strict=True))


def forbid(case, allowed, forbidding=-math.inf):
    """The case with a bias, in both models, that forbids all tokens but the allowed ones."""
    changed = {}
    for who in ("student", "teacher"):
        bias = case[f"{who}_bias"]
        changed[f"{who}_bias"] = torch.full_like(bias, forbidding).index_copy(0, allowed, bias[allowed])
    return case | changed


def relative_error(value, expected):
    """Norm of the difference over the norm of `expected`."""
    value, expected = torch.as_tensor(value).double(), torch.as_tensor(expected).double()
    return ((value - expected).norm() / expected.norm().clamp(min=1e-300)).item()
