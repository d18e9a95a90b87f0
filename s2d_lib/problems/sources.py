"""From a resolved run's specification to its problems: the label pool and the evaluation sets."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem
from s2d_lib.problems.competition import ProblemSet, load_competition
from s2d_lib.problems.decontamination import decontaminate, same_problems
from s2d_lib.problems.files import is_local
from s2d_lib.problems.micro import WORLDS, world_of
from s2d_lib.problems.pools import cut, train_or_test
from s2d_lib.problems.reasoning_gym import load_gym
from s2d_lib.problems.science import load_science
from s2d_lib.problems.tool_use import load_tool_use
from s2d_lib.problems.world import World
from s2d_lib.study.load import project_root
from s2d_lib.study.problem_sets import (
    BenchmarkSet,
    CompetitionSet,
    Half,
    LabelBudget,
    MicroSet,
    ProblemSets,
    whole_pool,
)

LOCAL_FILES = {
    "dapo-math-17k": "dapo-math-17k-processed.parquet",
    "math-500": "math500.jsonl",
    "aime-2024": "aime24.json",
    "aime-2025": "aime25.json",
    "gsm8k": "gsm8k_test.jsonl",
    "sciknoweval-chemistry": "sciknoweval_chemistry_test.jsonl",
    "sciknoweval-physics": "sciknoweval_physics_test.jsonl",
    "sciknoweval-biology": "sciknoweval_biology_test.jsonl",
    "sciknoweval-material": "sciknoweval_material_test.jsonl",
    "toolalpaca": "toolalpaca.json",
} | {
    f"sdpo-{name}-{part}": f"sdpo/{name.replace('tool-use', 'tooluse')}-{part}.jsonl"
    for name in ("chemistry", "physics", "biology", "material", "tool-use")
    for part in ("train", "test")
}
"""Names under which local copies of the datasets are looked for in $S2D_DATA; SDPO's splits are files each."""


@dataclass(frozen=True)
class Problems:
    """The problems of a run.

    Attributes:
        pool: The label pool; empty for a base checkpoint.
        evaluations: Evaluation sets by name.
        grading: How answers are compared: a mode of s2d_lib.grading.
        validation: What accuracy is measured on while a stage trains; empty where the profile has none.
        report: What loading found: duplicates, conflicts, overlaps; and `label_pool`: the pool's name, size and the
            SHA-256 of its sorted ids.
    """

    pool: list[Problem]
    evaluations: dict[str, list[Problem]]
    grading: str
    validation: list[Problem] = field(default_factory=list)
    report: dict = field(default_factory=dict)


def load_problems(spec: ProblemSets, labels: str | None = None) -> Problems:
    """The label pool, the validation problems and the evaluation sets, disjoint.

    Args:
        spec: What a resolved run says of its problems.
        labels: The label pool's name, for the report.

    Raises:
        StudyError: A file is missing, broken or empty, a set can't be made, the pool is too small to be cut, or it
            overlaps an evaluation set and the profile does not ask to remove the overlap.
    """
    load = _micro if spec.source in WORLDS else LOADERS[spec.source]
    problems = load(spec.model_copy(update={"pool": whole_pool(spec.pool)}))
    pool = cut(problems.pool, spec.pool) if isinstance(spec.pool, Half | LabelBudget) else problems.pool
    if not pool:
        return problems
    ids = "\n".join(sorted(p.id for p in pool))
    facts = {"name": labels, "size": len(pool), "ids_sha256": hashlib.sha256(ids.encode()).hexdigest()}
    return replace(problems, pool=pool, report=problems.report | {"label_pool": facts})


def _micro(spec: ProblemSets) -> Problems:
    world = world_of(spec)
    taken: set[str] = set()
    evaluations = {name: _micro_set(world, name, one, taken) for name, one in spec.evaluations.items()}
    pool = _micro_set(world, "pool", spec.pool, taken) if spec.pool else []
    validation = _micro_set(world, "validation", spec.validation, taken) if spec.validation else []
    return Problems(pool, evaluations, grading="exact", validation=validation)


def _micro_set(world: World, name: str, spec: MicroSet, taken: set[str]) -> list[Problem]:
    problems = world.problems(name, spec.count, spec.lengths, spec.rare, spec.seed, taken, spec.withheld)
    taken |= {problem.prompt for problem in problems}
    if spec.opened:
        problems = [replace(p, prompt=f"{p.prompt} {world.opening(p.prompt)}") for p in problems]
    return problems


def _competition(spec: ProblemSets) -> Problems:
    def read(one: CompetitionSet) -> tuple[list[Problem], dict]:
        path = str((project_root() / one.path).resolve()) if one.path else local_copy(one.dataset)
        found = load_competition(one.dataset, source=path)
        return list(found.problems), found.report

    return _read_sets(spec, read, "math")


def _benchmark(spec: ProblemSets, load: Callable[..., ProblemSet], grading: str) -> Problems:
    def read(one: BenchmarkSet) -> tuple[list[Problem], dict]:
        path = one.path or local_copy(one.file)
        if one.in_splits and not path:
            raise StudyError(
                f"the {one.part} split of {one.dataset} is published as a file (github.com/lasgroup/SDPO, datasets): put it as "
                f"{LOCAL_FILES.get(one.file)} into a folder that S2D_DATA names, or give the set's `path`."
            )
        path = str((project_root() / path).resolve()) if path and is_local(path) else path
        found = load(one.dataset, path, split=one.part if one.in_splits else None)
        problems = list(found.problems)
        if not one.in_splits:
            problems = train_or_test(problems, one.part, one.seed)
        return problems, found.report | {"part": one.part}

    # Questions are written on templates and requests share pages of documentation, so only the same one is a copy.
    return _read_sets(spec, read, grading, same_problems)


def _gym(spec: ProblemSets) -> Problems:
    taken: set[str] = set()
    evaluations = {name: load_gym(name, one, taken) for name, one in spec.evaluations.items()}
    pool = load_gym("pool", spec.pool, taken) if spec.pool else []
    validation = load_gym("validation", spec.validation, taken) if spec.validation else []
    return _instructed(Problems(pool, evaluations, "reasoning_gym", validation), spec.instruction)


LOADERS: dict[str, Callable[[ProblemSets], Problems]] = {
    "competition_math": _competition,
    "science": partial(_benchmark, load=load_science, grading="choice"),
    "tool_use": partial(_benchmark, load=load_tool_use, grading="tool_calls"),
    "reasoning_gym": _gym,
}
"""How each source of real problems is loaded; micro sources have a world instead."""


def _read_sets(
    spec: ProblemSets,
    read: Callable[[CompetitionSet | BenchmarkSet], tuple[list[Problem], dict]],
    grading: str,
    compare: Callable = decontaminate,
) -> Problems:
    """All sets of a run by `read`, which also says what it found; limited, disjoint by `compare`, and instructed.

    What stands in two sets stays in the first of: evaluation sets in the profile's order, validation, label pool. Else
    validation would choose a checkpoint, or training would see, what an evaluation asks.
    """
    report: dict = {}
    sets: dict[str, list[Problem]] = {}

    def add(name: str, one: CompetitionSet | BenchmarkSet) -> None:
        problems, report[name] = read(one)
        if one.limit and one.limit < len(problems):
            chosen = np.random.default_rng(one.seed).choice(len(problems), size=one.limit, replace=False)
            problems = [problems[i] for i in sorted(chosen)]
        sets[name], report[name]["overlap"] = _disjoint(name, problems, sets, spec.overlap, compare)

    for name, one in spec.evaluations.items():
        add(name, one)
    for name, one in {"validation": spec.validation, "pool": spec.pool}.items():
        if one:
            add(name, one)
    pool, validation = sets.pop("pool", []), sets.pop("validation", [])
    return _instructed(Problems(pool, sets, grading, validation, report), spec.instruction)


def _instructed(problems: Problems, instruction: str) -> Problems:
    """The problems with an instruction appended to every prompt."""
    if not instruction:
        return problems

    def ask(some: list[Problem]) -> list[Problem]:
        return [replace(p, prompt=f"{p.prompt}\n\n{instruction}") for p in some]

    evaluations = {name: ask(some) for name, some in problems.evaluations.items()}
    return replace(problems, pool=ask(problems.pool), evaluations=evaluations, validation=ask(problems.validation))


def local_copy(dataset: str) -> str | None:
    """A file of the dataset in $S2D_DATA, a folder of local copies (relative to the project); None where there is none
    and the dataset comes from the Hub."""
    folder, name = os.environ.get("S2D_DATA"), LOCAL_FILES.get(dataset)
    path = project_root() / folder / name if folder and name else None
    return str(path.resolve()) if path and path.is_file() else None


def _disjoint(
    name: str, problems: list[Problem], earlier: dict[str, list[Problem]], overlap: str, compare: Callable
) -> tuple[list[Problem], dict]:
    kept, report = compare(problems, earlier)
    if report["overlaps"] and overlap == "refuse":
        first = report["overlaps"][0]
        what = {"pool": "the label pool", "validation": "the validation set"}.get(name, f"the evaluation set {name!r}")
        raise StudyError(
            f"{what} overlaps another set: {report['removed']} of its problems, the first {first['pool']!r} with "
            f"{first['problem']!r} of {first['evaluation']!r}; set problems.overlap to 'remove' to drop them from "
            f"{what}, or choose other sets."
        )
    return list(kept), report
