"""From a resolved run's specification to its problems: the label pool and the evaluation sets."""

import hashlib
import os
from dataclasses import dataclass, field, replace

import numpy as np

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem
from s2d_lib.problems.competition import load_competition
from s2d_lib.problems.decontamination import decontaminate
from s2d_lib.problems.micro import WORLDS, world_of
from s2d_lib.problems.pools import cut
from s2d_lib.problems.world import World
from s2d_lib.study.load import project_root
from s2d_lib.study.problem_sets import CompetitionSet, Half, LabelBudget, MicroSet, ProblemSets

LOCAL_FILES = {
    "dapo-math-17k": "dapo-math-17k-processed.parquet",
    "math-500": "math500.jsonl",
    "aime-2024": "aime24.json",
    "aime-2025": "aime25.json",
    "gsm8k": "gsm8k_test.jsonl",
}
"""Names under which local copies of the datasets are looked for in $S2D_DATA."""


@dataclass(frozen=True)
class Problems:
    """The problems of a run.

    Attributes:
        pool: The label pool; empty for a base checkpoint.
        evaluations: Evaluation sets by name.
        grading: How answers are compared: `exact` or `math`.
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
    part = spec.pool if isinstance(spec.pool, Half | LabelBudget) else None
    whole = spec.model_copy(update={"pool": part.of}) if part else spec
    problems = _micro(whole) if spec.source in WORLDS else _competition(whole)
    pool = cut(problems.pool, part) if part else problems.pool
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
    problems = world.problems(name, spec.count, spec.lengths, spec.rare, spec.seed, exclude=taken)
    taken |= {problem.prompt for problem in problems}
    return problems


def _competition(spec: ProblemSets) -> Problems:
    report: dict = {}

    def read(name: str, one: CompetitionSet) -> list[Problem]:
        path = str((project_root() / one.path).resolve()) if one.path else local_copy(one.dataset)
        found = load_competition(one.dataset, source=path)
        report[name] = found.report
        problems = list(found.problems)
        if one.limit and one.limit < len(problems):
            chosen = np.random.default_rng(one.seed).choice(len(problems), size=one.limit, replace=False)
            problems = [problems[i] for i in sorted(chosen)]
        return problems

    evaluations = {name: read(name, one) for name, one in spec.evaluations.items()}
    validation = read("validation", spec.validation) if spec.validation else []
    pool = read("pool", spec.pool) if spec.pool else []
    # Training on validation problems would spoil them as it would an evaluation set.
    pool, report["overlap"] = _disjoint(pool, evaluations | {"validation": validation}, spec.overlap)

    def instructed(problems: list[Problem]) -> list[Problem]:
        return (
            [replace(p, prompt=f"{p.prompt}\n\n{spec.instruction}") for p in problems] if spec.instruction else problems
        )

    return Problems(
        instructed(pool),
        {n: instructed(ps) for n, ps in evaluations.items()},
        grading="math",
        validation=instructed(validation),
        report=report,
    )


def local_copy(dataset: str) -> str | None:
    """A file of the dataset in $S2D_DATA, a folder of local copies (relative to the project); None where there is none
    and the dataset comes from the Hub."""
    folder, name = os.environ.get("S2D_DATA"), LOCAL_FILES.get(dataset)
    path = project_root() / folder / name if folder and name else None
    return str(path.resolve()) if path and path.is_file() else None


def _disjoint(pool: list[Problem], evaluations: dict[str, list[Problem]], overlap: str) -> tuple[list[Problem], dict]:
    if not pool:
        return pool, {}
    kept, report = decontaminate(pool, evaluations)
    if report["overlaps"] and overlap == "refuse":
        first = report["overlaps"][0]
        raise StudyError(
            f"the label pool overlaps an evaluation set: {report['removed']} of its problems, the first {first['pool']!r} "
            f"with {first['problem']!r} of {first['evaluation']!r}; set problems.overlap to 'remove' to drop them from "
            "the pool, or choose other sets."
        )
    return list(kept), report
