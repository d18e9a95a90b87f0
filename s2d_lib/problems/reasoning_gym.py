"""Problems that the package `reasoning-gym` generates: text problems with verifiers of their own, without any data.

A task's verifier wants the whole problem and not only one right answer. So a problem's answer is a note in JSON from which
its task makes the same problem again: task, configuration, index, the question's hash, and an answer to read.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem, content_id
from s2d_lib.study.problem_sets import GymSet
from s2d_lib.study.resolve import derive_seed
from s2d_lib.study.strict import did_you_mean

ATTEMPTS = 10  # generated for every problem that is wanted, before a task counts as too small


def load_gym(name: str, spec: GymSet, taken: set[str]) -> list[Problem]:
    """The problems of a set, distinct and none of them in `taken`, to which theirs are added; the tasks take turns.

    Raises StudyError where the package isn't installed, a task is unknown, refuses its configuration, doesn't accept its own
    answers or has too few distinct problems.
    """
    found: list[list[Problem]] = []
    for i, (task, config) in enumerate(spec.tasks.items()):
        count, made = spec.size // len(spec.tasks) + (i < spec.size % len(spec.tasks)), []
        # Tasks make problem i of seed s from s + i, so that neighbouring seeds would make the same problems again.
        seeded = config | {"seed": derive_seed("reasoning-gym", task, spec.seed), "size": ATTEMPTS * max(count, 1)}
        candidates = _generated(task, seeded)
        while len(made) < count:
            problem = next(candidates, None)
            if problem is None:
                few = f"task {task!r} has only {len(made)} of {count} distinct problems"
                raise StudyError(f"problem set {name!r}: {few}: lower `size` or make its configuration more varied.")
            words = " ".join(problem.prompt.split())
            if words not in taken:
                taken.add(words)
                made.append(problem)
        found.append(made)
    return [made[i] for i in range(len(found[0])) for made in found if i < len(made)]


def _generated(task: str, config: dict[str, Any]) -> Iterator[Problem]:
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
        dataset = reasoning_gym.create_dataset(task, **config)
    except (TypeError, AssertionError, ValueError) as error:
        raise StudyError(f"reasoning-gym task {task!r} refuses its configuration {config}: {error}.") from error
    for index in range(config["size"]):
        entry = dataset[index]
        question, answer = entry["question"].strip(), entry["answer"]
        if isinstance(answer, str) and dataset.score_answer(answer, entry) < 1:
            raise StudyError(
                f"the verifier of reasoning-gym task {task!r} does not give its own answer full marks: leave the task out."
            )
        asked = hashlib.sha256(entry["question"].encode()).hexdigest()
        note = {"answer": answer, "task": task, "index": index, "config": config, "question_sha256": asked}
        yield Problem(content_id(f"reasoning-gym/{task}", question), question, json.dumps(note), task)
