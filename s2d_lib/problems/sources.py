"""From a resolved run's specification to its problems: the label pool and the evaluation sets."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem, Problems, content_id
from s2d_lib.problems.decontamination import decontaminate, same_problems
from s2d_lib.problems.files import is_local
from s2d_lib.problems.micro import WORLDS, world_of
from s2d_lib.problems.public import DOMAINS, load_public
from s2d_lib.study.load import project_root
from s2d_lib.study.problem_sets import AnySet, GymSet, Half, LabelBudget, ProblemSets, whole_pool
from s2d_lib.study.resolve import derive_seed
from s2d_lib.study.strict import did_you_mean

LOCAL_FILES = {
    "dapo-math-17k": "dapo-math-17k-processed.parquet",
    "math-500": "math500.jsonl",
    "aime-2024": "aime24.json",
    "aime-2025": "aime25.json",
    "gsm8k": "gsm8k_test.jsonl",
    **{
        f"sdpo-{name}-{part}": f"sdpo/{name.replace('-', '')}-{part}.jsonl"
        for name in (*DOMAINS, "tool-use")
        for part in ("train", "test")
    },
}
"""Names under which local copies of the datasets are looked for in $S2D_DATA; SDPO's splits are files each."""
# How answers of a source are compared, a mode of s2d_lib.grading; those of worlds exactly.
GRADING = {"competition_math": "math", "science": "choice", "tool_use": "tool_calls", "reasoning_gym": "reasoning_gym"}
GYM_ATTEMPTS = 10  # generated for every problem that is wanted, before a task of reasoning-gym counts as too small


def load_problems(spec: ProblemSets, labels: str | None = None) -> Problems:
    """The label pool, the validation problems and the evaluation sets, disjoint; `labels` names the pool in the report.

    Raises StudyError where a file is missing, broken or empty, a set can't be made, the pool is too small to be cut, or it
    overlaps an evaluation set and the profile does not ask to remove the overlap.
    """
    world, taken, sets, report = (world_of(spec) if spec.source in WORLDS else None), set(), {}, {}
    parts = {"pool": whole_pool(spec.pool), "validation": spec.validation}
    if taken_names := parts.keys() & spec.evaluations:
        raise StudyError(f"an evaluation set can't be named {min(taken_names)!r}, as the run's own set is: rename it.")
    generated = world is not None or spec.source == "reasoning_gym"
    # A problem that is read twice stays in the first of: evaluation sets in the profile's order, validation, label pool. Else
    # validation would choose a checkpoint, or training would see, what an evaluation asks.
    for name, one in (spec.evaluations | dict(sorted(parts.items(), reverse=not generated))).items():
        if one is None:
            continue
        if generated:
            sets[name] = world.problems(name, one, taken) if world else load_gym(name, one, taken)
        else:
            sets[name], report[name] = _read(name, one, sets, spec)
    if isinstance(spec.pool, Half | LabelBudget):
        sets["pool"] = cut(sets["pool"], spec.pool)
    if pool := sets.get("pool"):
        digest = hashlib.sha256("\n".join(sorted(p.id for p in pool)).encode()).hexdigest()
        report["label_pool"] = {"name": labels, "size": len(pool), "ids_sha256": digest}
    if spec.instruction:
        for name, problems in sets.items():
            sets[name] = [replace(p, prompt=f"{p.prompt}\n\n{spec.instruction}") for p in problems]
    return Problems(sets.pop("pool", []), sets, GRADING.get(spec.source, "exact"), sets.pop("validation", []), report)


def _read(name: str, one: AnySet, earlier: dict[str, list[Problem]], spec: ProblemSets) -> tuple[list[Problem], dict]:
    """A set of a public dataset, without what stands in an earlier set, and what reading it found."""
    path, part, grading = one.path or local_copy(one.file), getattr(one, "part", None), GRADING[spec.source]
    if part and not path and one.file in LOCAL_FILES:
        raise StudyError(
            f"the {part} split of {one.dataset} is published as a file (github.com/lasgroup/SDPO, datasets): put it as "
            f"{LOCAL_FILES[one.file]} into a folder that S2D_DATA names, or give the set's `path`."
        )
    if path and is_local(path):
        path = str((project_root() / path).resolve())
    problems, report = load_public(one.dataset, grading, path, split=part)
    if one.limit and one.limit < len(problems):
        chosen = np.random.default_rng(one.seed).choice(len(problems), size=one.limit, replace=False)
        problems = [problems[i] for i in sorted(chosen)]
    # Questions are written on templates and requests share pages of documentation, so only the same one is a copy.
    kept, overlap = (decontaminate if grading == "math" else same_problems)(problems, earlier)
    if overlap["overlaps"] and spec.overlap == "refuse":
        first = overlap["overlaps"][0]
        what = {"pool": "the label pool", "validation": "the validation set"}.get(name, f"the evaluation set {name!r}")
        raise StudyError(
            f"{what} overlaps another set: {overlap['removed']} of its problems, the first {first['pool']!r} with "
            f"{first['problem']!r} of {first['evaluation']!r}; set problems.overlap to 'remove' to drop them from "
            f"{what}, or choose other sets."
        )
    return kept, report | ({"part": part} if part else {}) | {"overlap": overlap}


def local_copy(dataset: str) -> str | None:
    """The dataset's file in $S2D_DATA, a folder of local copies (relative to the project); None where there is none."""
    folder, name = os.environ.get("S2D_DATA"), LOCAL_FILES.get(dataset)
    path = project_root() / folder / name if folder and name else None
    return str(path.resolve()) if path and path.is_file() else None


def cut(pool: list[Problem], part: Half | LabelBudget) -> list[Problem]:
    """The part of a whole pool, in the pool's order; a half of some labels is cut after these.

    Halves are disjoint and together the whole pool; of an odd number 1H gets one problem more. A budget's problems are the
    first of one random order, so that a smaller budget lies inside a larger one. Too small a pool is refused.
    """
    if isinstance(part.of, LabelBudget):
        pool = cut(pool, part.of)
    if isinstance(part, LabelBudget):
        if part.labels >= len(pool):
            raise StudyError(
                f"`labels` or `prompts` ask for {part.labels} problems of the pool 'full', which has {len(pool)} in the end: "
                "leave it out of `problems`, or lower it."
            )
        chosen = set(_shuffled(pool, "budgets", part.seed)[: part.labels])
    else:
        if len(pool) < 2:
            few = f"{len(pool)} problem(s), too few for the halves 1H and 2H"
            raise StudyError(f"the label pool 'full' has {few}: enlarge it.")
        order, middle = _shuffled(pool, "halves", part.seed), (len(pool) + 1) // 2
        chosen = set(order[:middle] if part.half == "1H" else order[middle:])
    return [p for p in pool if p.id in chosen]


def _shuffled(pool: list[Problem], purpose: str, seed: int) -> list[str]:
    """The pool's ids in an order that depends on them and the seed, not on their order in a file."""
    ids = sorted(p.id for p in pool)
    return [ids[i] for i in np.random.default_rng(derive_seed(purpose, seed)).permutation(len(ids))]


def load_gym(name: str, spec: GymSet, taken: set[str]) -> list[Problem]:
    """The problems of a set that the package reasoning-gym makes: distinct, none in `taken`, to which theirs are added.

    The tasks take turns. A task's verifier wants the whole problem and not only one right answer; so a problem's answer is a
    note in JSON from which its task makes the same problem again. Raises StudyError where the package isn't installed, a task
    is unknown, refuses its configuration, doesn't accept its own answers or has too few distinct problems.
    """
    found: list[list[Problem]] = []
    for i, (task, config) in enumerate(spec.tasks.items()):
        count, made = spec.size // len(spec.tasks) + (i < spec.size % len(spec.tasks)), []
        # Tasks make problem i of seed s from s + i, so that neighbouring seeds would make the same problems again.
        seeded = config | {"seed": derive_seed("reasoning-gym", task, spec.seed), "size": GYM_ATTEMPTS * max(count, 1)}
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
