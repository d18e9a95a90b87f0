"""What keeping the teacher's targets over epochs costs in truth, disk and time (forward KL on its own rollouts)."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from s2d_lib.bench.measure import interleaved
from s2d_lib.losses import TokenLoss, linear_divergence, topk_targets_forward_kl
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.sampling import Rollout
from s2d_lib.stages.heads import head_arguments
from s2d_lib.stages.teacher_targets import TeacherTargets, completion_states, write_targets

BATCH = 256  # rollouts at a time
COLUMNS = [
    *("teacher_targets", "top_k", "loss", "bias", "hidden_error", "hidden_cosine", "head_error", "head_cosine"),
    *("bytes_per_token", "logits_bytes_per_token", "seconds_to_make", "seconds_per_pass"),
]

Teaching = tuple[Callable[..., TokenLoss], Callable[[int, int], dict[str, Any]]]
"""A loss, and its arguments of the teacher's side for rollouts from the first number to before the second."""


def target_bias(
    student: Policy,
    teacher: Policy,
    problems: Sequence[Problem],
    rollouts: Sequence[Rollout],
    top_ks: Sequence[int],
    rounds: int = 3,
) -> pd.DataFrame:
    """Compare the teacher asked anew with its kept hidden states and its kept top tokens, at temperature 1.

    Args:
        student: Whose loss and gradients are looked at; it is not changed.
        teacher: Who made the rollouts.
        problems: Those of the rollouts.
        rollouts: What is trained on.
        top_ks: Numbers of tokens to keep.
        rounds: How often each pass is timed.

    Returns:
        One row a form of targets, the exact one (`recompute`) first:
        `loss` and `bias`, its difference from the exact loss, in nats a token;
        `hidden_error` and `hidden_cosine`, `head_error` and `head_cosine`: norm of the difference from the exact
        gradient over its norm, and cosine with it, by the student's hidden states and by its head;
        `bytes_per_token` on disk, beside `logits_bytes_per_token`, what all logits in fp32 would take;
        `seconds_to_make` them, once; `seconds_per_pass`: student forward and backward over all rollouts with the
        teacher asked or looked up, the median of the rounds.
    """
    prompts = dict(zip((p.id for p in problems), student.prompt_ids(problems), strict=True))
    total = sum(len(r.ids) for r in rollouts)

    def states(policy: Policy, start: int, stop: int) -> Tensor:
        part = rollouts[start:stop]
        return completion_states(policy, [prompts[r.problem] for r in part], [r.ids for r in part])

    def asked(start: int, stop: int) -> dict[str, Any]:
        with torch.no_grad():
            return {"teacher_hidden": states(teacher, start, stop), **head_arguments("teacher", teacher.model)}

    def looked_up(path: Path, head: dict[str, Any]) -> Callable[[int, int], dict[str, Any]]:
        targets = TeacherTargets(path, rollouts, head)

        def of(start: int, stop: int) -> dict[str, Any]:
            lengths = torch.tensor([len(r.ids) for r in rollouts[start:stop]])
            mask = torch.arange(int(lengths.max())) < lengths[:, None]
            found = targets.of(torch.arange(start, stop), mask.to(teacher.model.device))
            return {n: v if n in head else v[mask] for n, v in found.items()}

        return of

    teachings: dict[str, Teaching] = {"recompute": (_forward_kl, asked)}
    rows = {
        "recompute": {"teacher_targets": "recompute", "logits_bytes_per_token": 4 * teacher.model.config.vocab_size}
    }
    with tempfile.TemporaryDirectory() as folder:
        for top_k in (None, *top_ks):
            name = "hidden_states" if top_k is None else f"top_k {top_k}"
            path, began = Path(folder) / f"{top_k}.npy", time.perf_counter()
            write_targets(path, teacher, problems, rollouts, batch=BATCH, top_k=top_k)
            rows[name] = rows["recompute"] | {
                "teacher_targets": name.split()[0],
                "top_k": top_k,
                "bytes_per_token": path.stat().st_size / total,
                "seconds_to_make": time.perf_counter() - began,
            }
            head = head_arguments("teacher", teacher.model) if top_k is None else {}
            teachings[name] = (_forward_kl if top_k is None else topk_targets_forward_kl, looked_up(path, head))

        parts = [(start, min(start + BATCH, len(rollouts))) for start in range(0, len(rollouts), BATCH)]
        compared = _compared(student, lambda *part: states(student, *part), teachings, parts, total)
        for name, values in compared.items():
            rows[name] |= values

        def one_pass(teaching: Teaching) -> None:
            loss, arguments = teaching
            for part in parts:
                head = head_arguments("student", student.model)
                loss(student_hidden=states(student, *part), **head, **arguments(*part)).loss.backward()
            student.model.zero_grad()

        passes = {name: lambda t=teaching: one_pass(t) for name, teaching in teachings.items()}
        seconds = interleaved(passes, rounds, "passes").median()
    return pd.DataFrame([rows[n] | {"seconds_per_pass": seconds[n]} for n in rows])[COLUMNS].astype({"top_k": "Int64"})


def _forward_kl(**arguments: Any) -> TokenLoss:
    return linear_divergence(**arguments, beta=0.0)


def _compared(
    student: Policy,
    states: Callable[[int, int], Tensor],
    teachings: dict[str, Teaching],
    parts: list[tuple[int, int]],
    total: int,
) -> dict[str, dict[str, float]]:
    """Loss and gradients of every teaching against the first one's, over all rollouts."""
    head = head_arguments("student", student.model)
    weight = head.pop("student_weight").detach().requires_grad_()
    loss = dict.fromkeys(teachings, 0.0)
    inner = {name: torch.zeros(4, dtype=torch.float64) for name in teachings}
    of_head = {name: torch.zeros_like(weight, dtype=torch.float64, requires_grad=False) for name in teachings}
    for part in parts:
        with torch.no_grad():
            hidden = states(*part)
        exact = None
        for name, (function, arguments) in teachings.items():
            hidden = hidden.detach().requires_grad_()
            out = function(
                student_hidden=hidden, student_weight=weight, **head, **arguments(*part), normalizer=float(total)
            )
            of_hidden, of_weight = torch.autograd.grad(out.loss, [hidden, weight])
            exact = of_hidden if exact is None else exact
            loss[name] += out.loss.item()
            inner[name] += _products(of_hidden, exact)
            of_head[name] += of_weight
    exact_name = next(iter(teachings))
    rows = {}
    for name in teachings:
        rows[name] = {"loss": loss[name], "bias": loss[name] - loss[exact_name]}
        heads = _products(of_head[name], of_head[exact_name])
        for kind, products in (("hidden", inner[name]), ("head", heads)):
            rows[name] |= {f"{kind}_{k}": v for k, v in _error_and_cosine(*products.tolist()).items()}
    return rows


def _products(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|², a · b, |a|² and |b|²."""
    a, b = a.double().flatten(), b.double().flatten()
    return torch.stack([(a - b) @ (a - b), a @ b, a @ a, b @ b]).cpu()


def _error_and_cosine(difference: float, product: float, own: float, exact: float) -> dict[str, float]:
    return {"error": math.sqrt(difference / exact), "cosine": product / math.sqrt(own * exact)}
