"""What the teacher says of stored rollouts, written down once instead of computed again in every epoch.

The teacher is frozen and the rollouts are stored, so its distribution at each of their tokens never changes. Two forms
of it are kept on request, one value for every token of every rollout:

    hidden_states   its last hidden states, in the dtype that computed them: exact; its head stays in use
    top_k           its k most likely tokens with their log-probabilities, the rest one tail bucket: the same loss as the
                    estimator topk_tail, a lower bound of the full divergence; needs no teacher while it trains
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from s2d_lib.errors import StudyError
from s2d_lib.losses import topk_targets
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout
from s2d_lib.stages.heads import alone, head_arguments
from s2d_lib.stages.inputs import Inputs


class TeacherTargets:
    """Kept targets; of their file only what a batch needs is read."""

    def __init__(self, path: Path, rollouts: Sequence[Rollout], head: dict[str, Any]):
        """`rollouts` in the file's order; `head` is what a loss is told of the teacher beside its targets."""
        self._values = np.load(path, mmap_mode="r")
        self._starts = torch.tensor([0, *(len(r.ids) for r in rollouts)]).cumsum(0)
        self._head = head

    def of(self, rollouts: Tensor, mask: Tensor) -> dict[str, Any]:
        """The teacher's part of a loss's arguments.

        Args:
            rollouts: (B,) each row's rollout, by its place among the stored ones.
            mask: (B, T) not 0 where a row holds a token of its rollout; the rollout begins at the left.

        Returns:
            (B, T, ...) tensors on the mask's device, zeros where it is 0, and the head's arguments.
        """
        kept = mask.cpu() != 0
        places = (self._starts[rollouts.cpu(), None] + torch.arange(mask.shape[1]))[kept].numpy()
        arguments = dict(self._head)
        for name in self._values.dtype.names:
            values = _as_tensor(self._values[name][places])
            spread = values.new_zeros(*mask.shape, values.shape[-1])
            spread[kept] = values
            arguments[name] = spread.to(mask.device)
        return arguments


def kept_targets(run: Run, inputs: Inputs) -> TeacherTargets:
    """The targets of a run's stored rollouts, made unless an earlier attempt at the run has made them.

    The file lies in the run's trainer folder: `open_run` empties that when the run's hash changes, and `finish` drops
    it. The hash covers teacher, rollouts, temperature, dtype, form and k, so a file that is there fits.

    Raises:
        StudyError: When the disk has no room for them.
    """
    params, teacher = run.resolved.stage_params, inputs.teacher
    path = run.path("trainer") / "teacher_targets.npy"
    if not path.is_file():
        began = time.perf_counter()
        path.parent.mkdir(exist_ok=True)
        top_k = params.top_k if params.teacher_targets == "top_k" else None
        beside = path.with_name(f".{path.name}")
        write_targets(
            beside,
            teacher,
            inputs.problems.pool,
            inputs.rollouts,
            batch=params.micro_batch,
            top_k=top_k,
            temperature=run.resolved.sampling.temperature,
        )
        seconds = round(time.perf_counter() - began, 2)
        run.remember(teacher_targets={"bytes": beside.stat().st_size, "seconds": seconds})
        beside.replace(path)  # last: what is there is whole, and its cost is on record
    head = {}
    if params.teacher_targets == "hidden_states":
        device = inputs.policy.model.device
        head = {
            name: value.detach().to(device) if isinstance(value, Tensor) else value
            for name, value in head_arguments("teacher", teacher.model).items()
        }
    teacher.model.to("cpu")  # a GPU's memory is the student's from here on
    return TeacherTargets(path, inputs.rollouts, head)


def write_targets(
    path: Path,
    teacher: Policy,
    problems: Sequence[Problem],
    rollouts: Sequence[Rollout],
    *,
    batch: int,
    top_k: int | None = None,
    temperature: float = 1.0,
) -> None:
    """Let the teacher read every rollout once and write what it says to a file of one value a token.

    Args:
        path: A .npy file whose fields are named as a loss names them: `teacher_hidden`, or `teacher_tokens` and
            `teacher_log_probs`.
        teacher: Who is asked.
        problems: Those of the rollouts.
        rollouts: Read in this order.
        batch: Rollouts at a time.
        top_k: Tokens to keep; without it the hidden states are kept.
        temperature: Of the kept log-probabilities.

    Raises:
        StudyError: When the disk has no room for them; nothing but the first batch has been computed by then.
    """
    prompts = dict(zip((p.id for p in problems), teacher.prompt_ids(problems), strict=True))
    total = sum(len(r.ids) for r in rollouts)
    teacher.model.eval()
    with path.open("wb") as stream, tqdm(total=len(rollouts), desc="teacher targets", unit="rollout") as bar:
        for start in range(0, len(rollouts), batch):
            part = rollouts[start : start + batch]
            with torch.no_grad():
                hidden = completion_states(teacher, [prompts[r.problem] for r in part], [r.ids for r in part])
            values = _fields(hidden, teacher, top_k, temperature)
            kind = np.dtype([(name, value.dtype, value.shape[1:]) for name, value in values.items()])
            if start == 0:
                _check_room(path, total * kind.itemsize)
                descr = np.lib.format.dtype_to_descr(kind)
                header = {"descr": descr, "fortran_order": False, "shape": (total,)}
                np.lib.format.write_array_header_1_0(stream, header)
            rows = np.empty(len(hidden), kind)
            for name, value in values.items():
                rows[name] = value
            stream.write(rows.data)
            bar.update(len(part))


def completion_states(policy: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states (tokens, H) from which the completions' tokens are predicted, one completion after the other.

    Padded as TRL's trainer pads (read from release 1.16): prompts left, completions right. So what it would compute anew
    differs at most by rounding, where the longest prompt or completion of its batch is another.
    """
    model, pad = policy.model, policy.tokenizer.pad_token_id
    sides = []
    for side, rows in (("left", prompts), ("right", completions)):
        rows = [torch.tensor(row) for row in rows]
        ids = pad_sequence(rows, batch_first=True, padding_value=pad, padding_side=side)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
        sides.append((ids, mask))
    ids, mask = (torch.cat(pair, dim=1).to(model.device) for pair in zip(*sides, strict=True))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    kept = sides[1][1].to(model.device) != 0
    return hidden[:, -kept.shape[1] - 1 : -1][kept]


def _fields(hidden: Tensor, teacher: Policy, top_k: int | None, temperature: float) -> dict[str, np.ndarray]:
    """What is kept of the hidden states (tokens, H), by the losses' names; (tokens, ...) each."""
    if top_k is None:
        return {"teacher_hidden": _as_array(hidden)}
    head = alone(head_arguments("teacher", teacher.model))
    tokens, log_probs = topk_targets(hidden, top_k=top_k, temperature=temperature, **head)
    return {"teacher_tokens": _as_array(tokens.int()), "teacher_log_probs": _as_array(log_probs.float())}


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StudyError(
            f"the teacher targets need {needed / 1e9:.1f} GB but {path.parent} has {free / 1e9:.1f} GB free: set "
            "`teacher_targets` to top_k or recompute, lower `top_k`, or let S2D_RUNS name a folder on a larger disk."
        )


def _as_array(tensor: Tensor) -> np.ndarray:
    """For numpy, which has no bfloat16: its bits as whole numbers."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _as_tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
