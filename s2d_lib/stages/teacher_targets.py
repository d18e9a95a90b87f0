"""What the teacher says of stored rollouts, written down once instead of computed again in every epoch.

The teacher is frozen and the rollouts are stored, so its distribution at each of their tokens never changes. On request its
last hidden states are kept, in the dtype that computed them, for every token of every rollout: exact; its head stays in use.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from s2d_lib.errors import StudyError
from s2d_lib.losses import Head
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout
from s2d_lib.stages.heads import head_of
from s2d_lib.stages.inputs import Inputs


class TeacherTargets:
    """Kept targets; of their file only what a batch needs is read."""

    def __init__(self, path: Path, rollouts: Sequence[Rollout], head: Head):
        """`rollouts` in the file's order; `head` is the teacher's."""
        self._values = np.load(path, mmap_mode="r")
        self._starts = torch.tensor([0, *(len(r.ids) for r in rollouts)]).cumsum(0)
        self._head = head

    def of(self, rollouts: Tensor, mask: Tensor) -> tuple[Tensor, Head]:
        """The teacher's hidden states (B, T, H), on the mask's device, zeros where it is 0, and its head.

        Args:
            rollouts: (B,) each row's rollout, by its place among the stored ones.
            mask: (B, T) not 0 where a row holds a token of its rollout; the rollout begins at the left.
        """
        kept = mask.cpu() != 0
        places = (self._starts[rollouts.cpu(), None] + torch.arange(mask.shape[1]))[kept].numpy()
        values = _as_tensor(self._values[places])
        spread = values.new_zeros(*mask.shape, values.shape[-1])
        spread[kept] = values
        return spread.to(mask.device), self._head


def kept_targets(run: Run, inputs: Inputs) -> TeacherTargets:
    """The targets of a run's stored rollouts, made unless an earlier attempt at the run has made them.

    The file lies in the run's trainer folder: `open_run` empties that when the run's hash changes, and `finish` drops
    it. The hash covers teacher, rollouts and dtype, so a file that is there fits.

    Raises:
        StudyError: When the disk has no room for them.
    """
    params, teacher = run.resolved.stage_params, inputs.teacher
    path = run.path("trainer") / "teacher_targets.npy"
    if not path.is_file():
        began = time.perf_counter()
        path.parent.mkdir(exist_ok=True)
        beside = path.with_name(f".{path.name}")
        write_targets(beside, teacher, inputs.problems.pool, inputs.rollouts, batch=params.micro_batch)
        seconds = round(time.perf_counter() - began, 2)
        run.remember(teacher_targets={"bytes": beside.stat().st_size, "seconds": seconds})
        beside.replace(path)  # last: what is there is whole, and its cost is on record
    head, device = head_of(teacher.model).detached(), inputs.policy.model.device
    bias = None if head.bias is None else head.bias.to(device)
    head = replace(head, weight=head.weight.to(device), bias=bias)
    teacher.model.to("cpu")  # a GPU's memory is the student's from here on
    return TeacherTargets(path, inputs.rollouts, head)


def write_targets(
    path: Path, teacher: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], *, batch: int
) -> None:
    """Let the teacher read every rollout once and write its hidden states to a .npy file (tokens, H).

    Args:
        path: The file.
        teacher: Who is asked.
        problems: Those of the rollouts.
        rollouts: Read in this order.
        batch: Rollouts at a time.

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
            values = _as_array(hidden)
            if start == 0:
                _check_room(path, total * values[0].nbytes)
                descr = np.lib.format.dtype_to_descr(values.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (total, values.shape[1])}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(values.data)
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


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StudyError(
            f"the teacher targets need {needed / 1e9:.1f} GB but {path.parent} has {free / 1e9:.1f} GB free: set "
            "`teacher_targets` to recompute, or let S2D_RUNS name a folder on a larger disk."
        )


def _as_array(tensor: Tensor) -> np.ndarray:
    """For numpy, which has no bfloat16: its bits as whole numbers."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _as_tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
