"""Problems that the package `reasoning-gym` generates: text problems with verifiers of their own, without any data.

A problem's answer is a note in JSON from which its task makes the same problem again, since a task's verifier wants the
whole problem and not only one right answer: task, configuration, index, the question's hash, and an answer to read.
Grading mode `reasoning_gym` gives the note and the completion's answer to the verifier.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem, content_id
from s2d_lib.study.load import did_you_mean
from s2d_lib.study.problem_sets import GymSet
from s2d_lib.study.resolve import derive_seed

ATTEMPTS = 10  # generated for every problem that is wanted, before a task counts as too small


def load_gym(name: str, spec: GymSet, taken: set[str]) -> list[Problem]:
    """The problems of a set, distinct and none of them in `taken`; the tasks take turns.

    Args:
        name: Of the set, for error messages.
        spec: Tasks, size and seed.
        taken: Questions that must not come again, words joined by one space; the set's own are added.

    Raises:
        StudyError: The package isn't installed, a task is unknown, its configuration is refused or its verifier doesn't
            accept its own answers, or too few distinct problems.
    """
    wanted = [spec.size // len(spec.tasks) + (i < spec.size % len(spec.tasks)) for i in range(len(spec.tasks))]
    found: list[list[Problem]] = []
    for (task, config), count in zip(spec.tasks.items(), wanted, strict=True):
        made: list[Problem] = []
        # Tasks make problem i of seed s from s + i, so that neighbouring seeds would make the same problems again.
        seeded = config | {"seed": derive_seed("reasoning-gym", task, spec.seed), "size": ATTEMPTS * max(count, 1)}
        candidates = _generated(task, seeded)
        while len(made) < count:
            problem = next(candidates, None)
            if problem is None:
                raise StudyError(
                    f"problem set {name!r}: task {task!r} has only {len(made)} of {count} distinct problems: lower `size` "
                    "or make its configuration more varied."
                )
            words = " ".join(problem.prompt.split())
            if words not in taken:
                taken.add(words)
                made.append(problem)
        found.append(made)
    return [made[i] for i in range(max(wanted)) for made in found if i < len(made)]


def _generated(task: str, config: dict[str, Any]) -> Iterator[Problem]:
    dataset = _dataset(task, config)
    for index in range(config["size"]):
        entry = dataset[index]
        question, answer = entry["question"].strip(), entry["answer"]
        if isinstance(answer, str) and dataset.score_answer(answer, entry) < 1:
            raise StudyError(
                f"the verifier of reasoning-gym task {task!r} does not give its own answer full marks: leave the task out."
            )
        note = {
            "answer": answer,
            "task": task,
            "index": index,
            "config": config,
            "question_sha256": hashlib.sha256(entry["question"].encode()).hexdigest(),
        }
        yield Problem(content_id(f"reasoning-gym/{task}", question), question, json.dumps(note), task)


def _dataset(task: str, config: dict[str, Any]):
    # Imported here: it takes seconds, and only profiles with this source need it installed.
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise StudyError(
            f"the package reasoning-gym can't be imported ({error}): `make gym` installs it, or use another source."
        ) from error
    if task not in DATASETS:
        raise StudyError(f"unknown reasoning-gym task {task!r}; {did_you_mean(task, DATASETS)}")
    try:
        return reasoning_gym.create_dataset(task, **config)
    except (TypeError, AssertionError, ValueError) as error:
        raise StudyError(f"reasoning-gym task {task!r} refuses its configuration {config}: {error}.") from error
