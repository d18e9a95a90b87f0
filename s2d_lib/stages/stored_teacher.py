"""What a teacher says once, for all that train on it: its rollouts, and its hidden states at each of their tokens.

The teacher is frozen and the rollouts are stored, so its distribution at their tokens never changes. On request its last hidden
states are written down instead of computed again in every epoch, in the dtype that computed them: exact; its head stays in use.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from s2d_lib.errors import StudyError
from s2d_lib.losses import Head, token_log_probs
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout, completion_states, read_rollouts, write_rollouts
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import run_seed
from s2d_lib.stages.states import completion_hidden, head_of, padded
from s2d_lib.vllm import sampler


def teacher_rollouts(run: Run, inputs: Inputs) -> list[Rollout]:
    """Sample `samples_per_problem` completions of every problem of the pool from the teacher.

    Returns:
        The rollouts. The run keeps them in rollouts.parquet, with their log-probabilities and how they were sampled.
    """
    path = run.path("rollouts.parquet")
    if path.is_file():
        return read_rollouts(path)[0]
    resolved, pool = run.resolved, inputs.problems.pool
    seed, sampling = run_seed(run, "rollouts"), resolved.sampling
    with sampler(run, inputs.policy, "rollouts", pool) as sample:
        each = resolved.stage_params.samples_per_problem
        rollouts = sample(pool, samples=each, sampling=sampling, seed=seed, about=resolved.checkpoint)
    log_probs = sequence_log_probs(inputs.policy, pool, rollouts, sampling.batch)
    how = {
        "teacher": resolved.parents["teacher"],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 0,
        "log_prob": "nats of the whole completion under the teacher at temperature 1, top-p 1",
        "seed": seed,
    }
    tokens = sum(len(r.ids) for r in rollouts)
    run.remember(sampled={"sequences": len(rollouts), "tokens": tokens}, problems=inputs.problems.report)
    write_rollouts(path, rollouts, log_probs, how)
    return rollouts


@torch.no_grad()
def sequence_log_probs(
    policy: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], batch: int
) -> list[float]:
    """Log-probability (nats, temperature 1) of every rollout under the policy, EOS included; `batch` rollouts at a time."""
    prompt_ids = dict(zip((p.id for p in problems), policy.prompt_ids(problems), strict=True))
    head, values = head_of(policy.model), []
    for start in range(0, len(rollouts), batch):
        part = rollouts[start : start + batch]
        # Of a model that lies on several GPUs, the last one has the head.
        hidden, tokens = (t.to(head.weight.device) for t in completion_states(policy, prompt_ids, part))
        chosen = token_log_probs(hidden, head, tokens).log_probs
        values += [token_values.sum().item() for token_values in chosen.split([len(r.ids) for r in part])]
    return values


class TeacherTargets:
    """Kept hidden states; of their file only what a batch needs is read."""

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
        values = torch.from_numpy(self._values[places])
        values = values.view(torch.bfloat16) if values.dtype == torch.uint16 else values
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
        path.parent.mkdir(exist_ok=True)
        beside = path.with_name(f".{path.name}")
        write_targets(beside, teacher, inputs.problems.pool, inputs.rollouts, batch=params.micro_batch)
        run.remember()  # what it took
        beside.replace(path)  # last: what is there is whole
    head, device = head_of(teacher.model).detached(), inputs.policy.model.device
    bias = None if head.bias is None else head.bias.to(device)
    head = replace(head, weight=head.weight.to(device), bias=bias)
    teacher.model.to("cpu")  # a GPU's memory is the student's from here on
    return TeacherTargets(path, inputs.rollouts, head)


def write_targets(
    path: Path, teacher: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], *, batch: int
) -> None:
    """Let the teacher read every rollout once, `batch` at a time, and write its hidden states to a .npy file (tokens, H).

    Raises:
        StudyError: When the disk has no room for them; nothing but the first batch has been computed by then.
    """
    prompts = dict(zip((p.id for p in problems), teacher.prompt_ids(problems), strict=True))
    total, kept, end = sum(len(r.ids) for r in rollouts), None, 0
    teacher.model.eval()
    with tqdm(total=len(rollouts), desc="teacher targets", unit="rollout") as bar:
        for start in range(0, len(rollouts), batch):
            part = rollouts[start : start + batch]
            hidden = teacher_states(teacher, [prompts[r.problem] for r in part], [r.ids for r in part])
            # numpy has no bfloat16: its bits as whole numbers
            values = (hidden.view(torch.uint16) if hidden.dtype == torch.bfloat16 else hidden).cpu().numpy()
            if kept is None:
                needed, free = total * values[0].nbytes, shutil.disk_usage(path.parent).free
                if needed > free:
                    raise StudyError(
                        f"the teacher targets need {needed / 1e9:.1f} GB but {path.parent} has {free / 1e9:.1f} GB free: set "
                        "`teacher_targets` to recompute, or let S2D_RUNS name a folder on a larger disk."
                    )
                kept = np.lib.format.open_memmap(path, "w+", values.dtype, (total, values.shape[1]))
            kept[end : end + len(values)] = values
            end += len(values)
            bar.update(len(part))
    kept.flush()


@torch.no_grad()
def teacher_states(policy: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states (tokens, H) from which the completions' tokens are predicted, one completion after the other.

    Padded as TRL's trainer pads. So what it would compute anew differs at most by rounding, where the longest prompt or
    completion of its batch is another.
    """
    model, pad = policy.model, policy.tokenizer.pad_token_id
    (ids, mask), completion = (
        padded(rows, pad, side, model.device) for rows, side in ((prompts, "left"), (completions, "right"))
    )
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        return completion_hidden(model, ids, mask, *completion)[completion[1] != 0]
