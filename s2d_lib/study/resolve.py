"""From a name to everything its run needs: one checkpoint of one profile and seed, resolved, hashed and recorded."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from s2d_lib.errors import StudyError
from s2d_lib.study.load import did_you_mean, load_profile, load_study, project_root, validated
from s2d_lib.study.schema import (
    HALVES,
    ChainSet,
    Checkpoint,
    CompetitionSet,
    Distillation,
    Evaluation,
    Hardware,
    Problems,
    Profile,
    Role,
    RoleModel,
    Sampling,
    SparseRL,
    Stage,
    Strict,
    Study,
    TeacherRollouts,
    Training,
    WorldSpec,
)

STAGE_PARAMS = {
    "sparse_rl": SparseRL,
    "teacher_sft": Training,
    "forward_kl": Distillation,
    "opd": Distillation,
    "teacher_sample_sft": Training,
    "teacher_rollouts": TeacherRollouts,
}
USES_ROLLOUTS = ("forward_kl", "teacher_sample_sft")
RELEASED = Path(__file__).parents[1] / "policies" / "micro"


class Half(Strict):
    """A random half of the pool `full`, cut once everything else has settled which problems that pool holds."""

    half: Literal["1H", "2H"]
    of: ChainSet | CompetitionSet
    seed: int  # the profile's `halves_seed`; no run on another pool has it, so changing it makes none of those stale


class ProblemSets(Strict):
    """The problems a run touches."""

    source: str
    world: WorldSpec | None = None
    instruction: str = ""
    overlap: str = "refuse"
    pool: ChainSet | CompetitionSet | Half | None = None  # the label pool; none for a base checkpoint
    evaluations: dict[str, ChainSet | CompetitionSet]


class Resolved(Strict):
    """Everything one run needs. Its hash names the run's content: equal hashes are interchangeable in one profile."""

    profile: str
    checkpoint: str
    seed: int
    stage: Stage
    role: Role
    model: RoleModel
    weights: str | None = None  # hash of released base weights, so that new base models make all runs stale
    labels: str | None = None
    params: dict[str, Any]  # the stage's hyperparameters, validated
    problems: ProblemSets
    sampling: Sampling
    evaluation: Evaluation
    hardware: Hardware
    parents: dict[str, str] = Field(default_factory=dict)  # kind (from, teacher, rollouts) -> checkpoint name
    parent_hashes: dict[str, str] = Field(default_factory=dict)  # checkpoint name -> hash
    overrides: dict[str, Any] = Field(default_factory=dict)

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved form; `profile` and `overrides` are only labels and don't enter it."""
        content = self.model_dump(mode="json", exclude={"profile", "overrides"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def stage_params(self) -> SparseRL | Distillation | Training | TeacherRollouts | None:
        """The stage's hyperparameters as their own type."""
        model = STAGE_PARAMS.get(self.stage)
        return model.model_validate(self.params) if model else None


def rollouts_name(teacher: str, labels: str) -> str:
    """Name of the run that holds a teacher's rollouts on a label pool, sampled once for all that train on them."""
    return f"{teacher}.rollouts.{labels}"


def with_rollouts(study: Study) -> dict[str, Checkpoint]:
    """The study's checkpoints and, for every teacher and pool that some stage needs rollouts of, their run."""
    nodes = dict(study.checkpoints)
    for node in study.checkpoints.values():
        if teacher := rollouts_of(node):
            nodes[rollouts_name(teacher, node.labels)] = Checkpoint(
                stage="teacher_rollouts",
                teacher=teacher,
                labels=node.labels,
                about=f"rollouts of {teacher} on the label pool {node.labels}, sampled once",
            )
    return nodes


def rollouts_of(node: Checkpoint) -> str | None:
    """Whose stored rollouts a checkpoint trains on: its teacher's, in teacher SFT its own; None if it uses none."""
    if node.stage == "teacher_sft":
        return node.from_
    return node.teacher if node.stage in USES_ROLLOUTS or node.overrides.get("states") == "teacher" else None


def parents_of(node: Checkpoint) -> dict[str, str]:
    """The runs a checkpoint reads, by what it reads them for."""
    parents = {"from": node.from_, "teacher": node.teacher}
    if teacher := rollouts_of(node):
        parents["rollouts"] = rollouts_name(teacher, node.labels)
    return {kind: name for kind, name in parents.items() if name}


def resolve(
    profile: str, checkpoint: str, seed: int, overrides: dict | None = None, root: Path | None = None
) -> Resolved:
    """Everything the run (profile, seed, checkpoint) needs.

    Raises:
        StudyError: Unknown profile, checkpoint, role, pool or parameter, or a value of the wrong type; nothing has
            been loaded or trained by then.
    """
    root = root or project_root()
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise StudyError(f"`seed` must be a whole number of at least 0, given {seed!r}.")
    study = load_study(root)
    settings = load_profile(profile, overrides, root)
    nodes = with_rollouts(study)
    memo: dict[str, Resolved] = {}

    def visit(name: str, path: tuple[str, ...]) -> Resolved:
        if name in path:
            raise StudyError(f"study.yaml: {' needs '.join([*path[path.index(name) :], name])}, which is a cycle.")
        if name not in nodes:
            raise StudyError(f"unknown checkpoint {name!r}; {did_you_mean(str(name), nodes)}")
        if name not in memo:
            parents = {kind: visit(parent, (*path, name)) for kind, parent in parents_of(nodes[name]).items()}
            memo[name] = _resolve_node(name, nodes[name], settings, parents, profile, seed, overrides or {})
        return memo[name]

    return visit(checkpoint, ())


def _resolve_node(
    name: str, node: Checkpoint, settings: Profile, parents: dict[str, Resolved], profile: str, seed: int, overrides
) -> Resolved:
    where = f"profile {profile!r}, checkpoint {name!r}"
    role = node.role or parents["from" if "from" in parents else "teacher"].role
    if role not in settings.roles:
        raise StudyError(f"{where} needs a model for role {role!r}: add it under `roles`.")
    params = _stage_params(node, role, settings, where)
    if "states" in params and (params["states"] == "teacher") != ("rollouts" in parents):
        raise StudyError(
            f"{where}: stage {node.stage!r} can't train on {params['states']} states by the profile alone; set `states` in "
            "the checkpoint's overrides in study.yaml, where the graph can see it."
        )
    problems = ProblemSets(
        source=settings.problems.source,
        world=getattr(settings.problems, "world", None),
        instruction=getattr(settings.problems, "instruction", ""),
        overlap=getattr(settings.problems, "overlap", "refuse"),
        pool=_label_pool(node.labels, settings.problems, where),
        evaluations=settings.problems.evaluations,
    )
    return Resolved(
        profile=profile,
        checkpoint=name,
        seed=seed,
        stage=node.stage,
        role=role,
        model=settings.roles[role],
        weights=released_weights(settings.roles[role].model) if node.stage == "base" else None,
        labels=node.labels,
        params=params,
        problems=problems,
        sampling=settings.sampling,
        evaluation=settings.evaluation,
        hardware=settings.hardware,
        parents={kind: parent.checkpoint for kind, parent in parents.items()},
        parent_hashes={parent.checkpoint: parent.hash for parent in parents.values()},
        overrides=overrides,
    )


def _label_pool(name: str | None, problems: Problems, where: str) -> ChainSet | CompetitionSet | Half | None:
    if name is None:
        return None
    if name in HALVES:
        if "full" not in problems.pools:
            raise StudyError(
                f"{where}: label pool {name!r} is a half of `full`, which is not declared: add it to `pools`."
            )
        return Half(half=name, of=problems.pools["full"], seed=problems.halves_seed)
    if name not in problems.pools:
        hint = did_you_mean(name, [*problems.pools, *HALVES])
        raise StudyError(f"{where}: label pool {name!r} is not declared; {hint}")
    return problems.pools[name]


def _stage_params(node: Checkpoint, role: str, settings: Profile, where: str) -> dict[str, Any]:
    if node.stage == "base":
        return {}

    def params(stage: str, extra: dict) -> dict:
        content = settings.stage_settings(stage, role) | extra
        return validated(STAGE_PARAMS[stage], content, f"{where}, stage {stage!r}").model_dump()

    own = params(node.stage, node.overrides)
    if node.steps_of:
        own["steps"] = sum(params(stage, {})["steps"] for stage in node.steps_of)
    return own


def released_weights(model: str) -> str | None:
    """Weights hash of a model released inside the package (`micro/<name>`), from its record; none for other models."""
    if not model.startswith("micro/"):
        return None
    return released_record(RELEASED / model.removeprefix("micro/"))["weights_sha256"]


def released_record(folder: Path) -> dict[str, Any]:
    """The record of a released base model, its weights checked against it.

    Raises:
        StudyError: When it is missing, or its weights are not those of the record.
    """
    if not (folder / "record.json").is_file():
        raise StudyError(f"the base model {folder.name!r} is not in {folder.parent}: make it with `make base`.")
    record = json.loads((folder / "record.json").read_text())
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != record["weights_sha256"]:
        raise StudyError(
            f"the weights of base model {folder.name!r} are not those of its record: make it again with `make base`."
        )
    return record


def derive_seed(*parts: str | int) -> int:
    """A 31-bit seed from names and numbers, so that no two runs share a random stream by accident."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
