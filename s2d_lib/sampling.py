"""Completions with their token ids: sampled from a policy, kept in a parquet file, or read from a file of traces.

Traces are a stronger model's answers to the pool's problems: a row a problem with `problem` (its id here) or `prompt` (its text
or chat messages; spacing and known instructions do not count) and `answers`, a list of texts.
"""

import contextlib
import json
import os
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
from s2d_lib.models.policy import Policy, unwritable
from s2d_lib.problems.base import Problem
from s2d_lib.problems.files import load_rows
from s2d_lib.problems.public import bare_prompt, user_message
from s2d_lib.study.load import project_root
from s2d_lib.study.settings import Decoding, Sampling


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of one problem."""

    problem: str  # its id
    sample: int  # which of the problem's samples this is, from 0
    ids: tuple[int, ...]  # EOS included where the completion ended by itself
    text: str  # without special tokens
    finished: bool  # False where the length limit cut it off
    log_prob: float | None = field(
        default=None, compare=False
    )  # of a stored one: nats, under who made it, at temperature 1


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


def traces_place(name: str) -> Path:
    """Where a file of traces lies, in the folder $S2D_DATA or by its path from the project's; else raises a StudyError."""
    for folder in (os.environ.get("S2D_DATA", ""), ""):
        if (place := project_root() / folder / name).is_file():
            return place
    raise StudyError(f"the traces {name!r} are not there: put the file into the folder S2D_DATA, or give its path.")


def read_traces(
    name: str, problems: Sequence[Problem], policy: Policy, instruction: str = "", longest: int | None = None
) -> list[Rollout]:
    """The answers to `problems`, in their order, of a .jsonl, .json or .parquet file (see `traces_place`).

    They are read with the tokenizer of the policy that is going to learn from them, and cut off after `longest` tokens, as
    samples would be. Rows about other problems are left out; `instruction` is what every prompt ends with here. A file that is
    missing or broken, or has no answers to any of the problems, is a StudyError.
    """
    asked = {_words(problem.prompt, instruction): problem.id for problem in problems}
    answers: dict[str, list[str]] = {problem.id: [] for problem in problems}
    strangers, rows = [], load_rows(traces_place(name), columns=["answers"])
    for number, row in enumerate(rows, 1):
        texts, prompt = row["answers"] or [], row.get("prompt") or ""
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise StudyError(f"row {number} of the traces in {name} must hold `answers`, a list of texts.")
        text = prompt if isinstance(prompt, str) else user_message(prompt) or ""
        problem = row.get("problem") or asked.get(_words(text, instruction))
        if problem in answers:
            answers[problem] += texts
        else:
            strangers.append(str(row.get("problem") or " ".join(text.split())[:40]))
    if len(strangers) == len(rows):
        first = f"the first about {strangers[0]!r}"
        raise StudyError(f"none of the traces in {name} is about a problem of the label pool, {first}.")
    if not any(answers.values()):
        raise StudyError(f"the traces in {name} hold no answer to any problem of the label pool: fill in `answers`.")
    rollouts, eos = [], policy.tokenizer.eos_token_id
    for problem, texts in answers.items():
        for number, text in enumerate(texts):
            ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
            if ids[-1] != eos:  # else who learns from it would never end
                ids.append(eos)
            rollouts.append(Rollout(problem, number, tuple(ids[:longest]), text, ids[:longest][-1] == eos))
    return rollouts


def _words(prompt: str, instruction: str) -> str:
    return " ".join(bare_prompt(prompt.rstrip().removesuffix(instruction)).split())


def by_text(rollouts: Sequence[Rollout], policy: Policy) -> list[Rollout]:
    """A teacher's rollouts in the tokens of a student of another vocabulary, EOS where they ended by themselves. Those with a
    word that the student has no tokens for are left out, as a sampling teacher may spell a word that is none; more than half of
    them are a StudyError that names the first such word."""
    strange = [unwritable(policy, [r.text]) for r in rollouts]
    left_out = sum(map(bool, strange))
    if 2 * left_out > len(rollouts):
        raise StudyError(
            f"student and teacher can't be aligned: in {left_out} of {len(rollouts)} rollouts of the teacher is a word for which "
            f"the student's tokenizer has no tokens, the first {next(filter(None, strange))!r}; take a student that can write it."
        )
    kept = [r for r, word in zip(rollouts, strange, strict=True) if word is None]
    ids = policy.tokenizer([r.text for r in kept], add_special_tokens=False)["input_ids"]
    end = (policy.tokenizer.eos_token_id,)
    return [replace(r, ids=(*read, *end * r.finished)) for r, read in zip(kept, ids, strict=True)]
