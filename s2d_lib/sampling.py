"""Completions with their token ids: sampled from a policy, and kept in a parquet file."""

import contextlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm
from transformers import set_seed

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.study.settings import Decoding, Sampling


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of one problem."""

    problem: str  # its id
    sample: int  # which of the problem's samples this is, from 0
    ids: tuple[int, ...]  # EOS included where the completion ended by itself
    text: str  # without special tokens
    finished: bool  # False where the length limit cut it off
    # Of a stored one: nats, under who made it, at temperature 1
    log_prob: float | None = field(default=None, compare=False)


def sample(
    policy: Policy,
    problems: Sequence[Problem],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    decoding: Decoding | None = None,
    about: str = "sampling",
    show: bool = True,
) -> list[Rollout]:
    """`samples` independent completions of every problem, in the order of the problems.

    Length limit and batch are those of `sampling`, temperature (0: greedy), top-p and top-k those of `decoding` if there is one.
    The same seed gives the same bytes on the same machine. `show` a progress bar with the label `about`, or none.
    """
    set_seed(seed)
    how, tokenizer, device = decoding or sampling, policy.tokenizer, policy.model.device
    drawn = {"do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k or 0}
    drawn = drawn if how.temperature else {"do_sample": False}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    jobs = [(problem, i) for problem in problems for i in range(samples)]
    prompt_ids = dict(zip((p.id for p in problems), policy.prompt_ids(problems), strict=True))
    rollouts: list[Rollout] = []
    bar = tqdm(total=len(jobs), desc=about, unit="rollout", mininterval=1.0, disable=not show)
    with bar, torch.no_grad(), evaluating(policy.model):
        for start in range(0, len(jobs), sampling.batch):
            batch = jobs[start : start + sampling.batch]
            asked = {"input_ids": [prompt_ids[p.id] for p, _ in batch]}
            inputs = tokenizer.pad(asked, return_tensors="pt", padding_side="left").to(device)
            out = policy.model.generate(**inputs, **drawn, max_new_tokens=sampling.max_new_tokens, **ends)
            completions = [_cut(row, tokenizer.eos_token_id) for row in out[:, inputs["input_ids"].shape[1] :].tolist()]
            for (problem, i), ids, text in zip(batch, completions, policy.decode(completions), strict=True):
                rollouts.append(Rollout(problem.id, i, tuple(ids), text, ids[-1] == tokenizer.eos_token_id))
            bar.update(len(batch))
    return rollouts


def _cut(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos) + 1] if eos in ids else ids


@torch.no_grad()
def completion_states(
    policy: Policy, prompt_ids: dict[str, list[int]], rollouts: Sequence[Rollout]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states (n, H) from which the policy predicts the rollouts' n tokens, and these tokens (n,)."""
    # Right padding: a causal model never looks at it, so it needs no mask and no shifted positions.
    rows = [[*prompt_ids[r.problem], *r.ids] for r in rollouts]
    device = policy.model.device
    ids = torch.full((len(rows), max(map(len, rows))), policy.tokenizer.pad_token_id, device=device)
    predicts = torch.zeros_like(ids, dtype=torch.bool)  # positions whose next token belongs to the completion
    for i, (row, rollout) in enumerate(zip(rows, rollouts, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        predicts[i, len(row) - len(rollout.ids) - 1 : len(row) - 1] = True
    hidden = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    # Of a model that lies on several GPUs, the last one has them.
    return hidden.to(device)[predicts], ids.roll(-1, 1)[predicts]


@contextlib.contextmanager
def undisturbed():
    """Put the random streams (Python, NumPy, torch on every device) back to where they were, however the block ends."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module):
    """A model without dropout inside the block, and in its own mode after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


SCHEMA = pa.schema(
    {
        "problem": pa.string(),
        "sample": pa.int32(),
        "ids": pa.list_(pa.int32()),
        "text": pa.string(),
        "finished": pa.bool_(),
        "log_prob": pa.float32(),
    }
)


def write_rollouts(path: Path, rollouts: Sequence[Rollout], log_probs: Sequence[float], how: dict) -> None:
    """Write rollouts, whole or not at all, with the log-probability of each under the policy that made it (nats at temperature
    1); `how` they were sampled goes into the file's metadata."""
    rows = [asdict(replace(r, log_prob=value)) for r, value in zip(rollouts, log_probs, strict=True)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"s2d": json.dumps(how, sort_keys=True)}))
    beside = path.with_name(f".{path.name}")
    pq.write_table(table, beside)
    beside.replace(path)


def read_rollouts(path: Path) -> tuple[list[Rollout], dict]:
    """Rollouts and how they were sampled; raises a StudyError where the file is missing, no parquet file or lacks a column."""
    try:
        table = pq.read_table(path).select(SCHEMA.names)
    except (OSError, KeyError, pa.ArrowException):
        raise StudyError(f"{path} is no readable file of rollouts: delete its run and make it again.") from None
    how = json.loads((table.schema.metadata or {}).get(b"s2d", b"{}"))
    return [Rollout(**row | {"ids": tuple(row["ids"])}) for row in table.to_pylist()], how
