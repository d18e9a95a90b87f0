"""Traces: a stronger model's answers to the pool's problems, from a file instead of a run that samples it.

A row a problem: `problem` (its id here) or `prompt` (its text, or chat messages; spacing and known instructions do not count),
and `answers`, a list of texts. They are read with the tokenizer of the model that learns from them; token `ids`, a list for
each answer, are taken where they are given, if it is that tokenizer's text that they spell.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.policies.pair import unwritable
from s2d_lib.policies.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.problems.files import load_rows
from s2d_lib.problems.public import bare_prompt, user_message
from s2d_lib.rollouts.sample import Rollout
from s2d_lib.study.load import project_root


def traces_place(name: str) -> Path:
    """Where a file of traces lies: in the folder $S2D_DATA, or by its path from the project's folder.

    Raises:
        StudyError: It is in neither place.
    """
    places = [project_root() / folder / name for folder in (os.environ.get("S2D_DATA", ""), "")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise StudyError(f"the traces {name!r} are not there: put the file into the folder S2D_DATA, or give its path.")
    return found


def read_traces(
    name: str, problems: Sequence[Problem], policy: Policy, instruction: str = "", longest: int | None = None
) -> list[Rollout]:
    """The file's answers to `problems`, in their order; rows about other problems are left out.

    Args:
        name: A .jsonl, .json or .parquet file (see `traces_place`).
        problems: The pool.
        policy: Who is going to learn from them.
        instruction: What every problem's prompt ends with here.
        longest: Tokens after which an answer is cut off, as a sample would be.

    Raises:
        StudyError: The file is missing or broken, has no answers to any of the problems, or token ids of another tokenizer.
    """
    place = traces_place(name)
    asked = {_words(problem.prompt, instruction): problem.id for problem in problems}
    answers: dict[str, list[tuple[str, list[int]]]] = {problem.id: [] for problem in problems}
    strangers, rows = [], load_rows(place, columns=["answers"])
    for number, row in enumerate(rows, 1):
        texts, ids = row["answers"] or [], row.get("ids")
        good = isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)
        if not good or (ids is not None and (len(ids) != len(texts) or not all(ids))):
            raise StudyError(
                f"row {number} of the traces in {name} must hold `answers`, a list of texts, and no `ids` or a list for each."
            )
        prompt = row.get("prompt") or ""
        text = prompt if isinstance(prompt, str) else user_message(prompt) or ""
        problem = row.get("problem") or asked.get(_words(text, instruction))
        if problem not in answers:
            strangers.append(str(row.get("problem") or " ".join(text.split())[:40]))
            continue
        answers[problem] += zip(texts, ids or [None] * len(texts), strict=True)
    if len(strangers) == len(rows):
        raise StudyError(
            f"none of the traces in {name} is about a problem of the label pool, the first about {strangers[0]!r}."
        )
    if not any(answers.values()):
        raise StudyError(f"the traces in {name} hold no answer to any problem of the label pool: fill in `answers`.")
    return [
        _rollout(name, problem, number, text, ids, policy, longest)
        for problem, given in answers.items()
        for number, (text, ids) in enumerate(given)
    ]


def by_text(rollouts: Sequence[Rollout], policy: Policy) -> list[Rollout]:
    """A teacher's rollouts in the tokens of a student of another vocabulary, EOS where they ended by themselves.

    Those with a word that the student has no tokens for are left out: a sampling teacher may spell a word that is none.

    Raises:
        StudyError: They are more than half; naming the first such word.
    """
    tokenizer = policy.tokenizer
    strange = [unwritable(policy, [r.text]) for r in rollouts]
    left_out = sum(map(bool, strange))
    if 2 * left_out > len(rollouts):
        raise StudyError(
            f"student and teacher can't be aligned: in {left_out} of {len(rollouts)} rollouts of the teacher is a word for which "
            f"the student's tokenizer has no tokens, the first {next(filter(None, strange))!r}; take a student that can write it."
        )
    kept = [r for r, word in zip(rollouts, strange, strict=True) if word is None]
    ids = tokenizer([r.text for r in kept], add_special_tokens=False)["input_ids"]
    end = (tokenizer.eos_token_id,)
    return [replace(r, ids=(*read, *end * r.finished)) for r, read in zip(kept, ids, strict=True)]


def _words(prompt: str, instruction: str) -> str:
    return " ".join(bare_prompt(prompt.rstrip().removesuffix(instruction)).split())


def _rollout(name: str, problem: str, number: int, text: str, ids, policy: Policy, longest: int | None) -> Rollout:
    tokenizer = policy.tokenizer
    if ids is None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    elif max(ids) >= len(tokenizer) or policy.decode([ids])[0].split() != text.split():
        raise StudyError(
            f"the token ids in {name} are of another tokenizer than that of the model to be trained, for which they do not "
            f"spell the answer to {problem!r}: leave out `ids`, and the texts are read."
        )
    if ids[-1] != tokenizer.eos_token_id:  # else who learns from it would never end
        ids = [*ids, tokenizer.eos_token_id]
    kept = tuple(ids[:longest])
    return Rollout(problem, number, kept, text, kept[-1] == tokenizer.eos_token_id)
