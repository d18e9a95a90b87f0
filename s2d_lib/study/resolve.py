"""From a name to everything its run needs: one checkpoint of one profile and seed, resolved, hashed and recorded."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from s2d_lib.errors import StudyError
from s2d_lib.provenance import file_hash
from s2d_lib.study.load import load_profile, load_study, project_root
from s2d_lib.study.page import Checkpoint, Role, StageName, all_nodes, parents_in, traces_of
from s2d_lib.study.problem_sets import HALVES, WHOLE, FromFiles, Half, LabelBudget, Pool, Problems, ProblemSets, at_most
from s2d_lib.study.profile import Profile, laid_over
from s2d_lib.study.settings import WHERE, Evaluation, Hardware, Logging, RoleModel, Sampling, Validation
from s2d_lib.study.stage_params import DENSE, STAGES, TRAINED
from s2d_lib.study.strict import Strict, did_you_mean, read_yaml, refuse, unless, validated

UNHASHED = {"profile": True, "overrides": True, "logging": True, "sampling": {"vllm": WHERE}}
RELEASED = Path(__file__).parents[1] / "models" / "micro"
RUN = "run:"  # what a model's name begins with that a run of another profile has made


class Resolved(Strict):
    """Everything one run needs. Its hash names the run's content: equal hashes are interchangeable in one profile."""

    profile: str
    checkpoint: str
    seed: int
    stage: StageName
    role: Role
    model: RoleModel
    traces: str | None = unless(None)  # file of the answers that it learns from
    weights: str | None = None  # hash of released base weights, so that new base models make all runs stale
    code: str | None = unless(None)  # likewise of a method's file outside of the package
    labels: str | None = None
    params: dict[str, Any]  # the stage's hyperparameters, validated
    problems: ProblemSets
    sampling: Sampling
    evaluation: Evaluation
    validation: Validation | None = None  # of runs that train
    hardware: Hardware
    logging: Logging = unless("none")
    parents: dict[str, str] = Field(default_factory=dict)  # kind (from, teacher, rollouts) -> checkpoint name
    parent_hashes: dict[str, str] = Field(default_factory=dict)  # checkpoint name -> hash
    overrides: dict[str, Any] = Field(default_factory=dict)

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved form without what changes no result: `profile`, `overrides`, `logging`, and where vLLM
        runs."""
        content = self.model_dump(mode="json", exclude=UNHASHED)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def next_token(self) -> bool:
        """Whether it trains on stored answers, whose model is never run."""
        return STAGES[self.stage].next_token

    @property
    def samples_itself(self) -> bool:
        """Whether it trains on completions that it samples itself, and not on another run's."""
        return STAGES[self.stage].samples or self.params.get("states") == "student"

    @property
    def by_text(self) -> bool:
        """Whether it needs no more of a teacher than text, so that one of another vocabulary will do."""
        return self.next_token or self.params.get("estimator") == "gold"

    @property
    def stage_params(self) -> Strict | None:
        """The stage's hyperparameters as their own type."""
        model = STAGES[self.stage].params
        return model.model_validate(self.params) if model else None


def resolve(
    profile: str, checkpoint: str, seed: int, overrides: dict | None = None, root: Path | None = None
) -> Resolved:
    """Everything the run (profile, seed, checkpoint) needs. Raises a StudyError for an unknown profile, checkpoint, role, pool or
    parameter, or a value of the wrong type; nothing has been loaded or trained by then."""
    return lineage(profile, checkpoint, seed, overrides, root)[checkpoint]


def lineage(
    profile: str, checkpoint: str, seed: int, overrides: dict | None = None, root: Path | None = None
) -> dict[str, Resolved]:
    """A run and all that it is made from, by their names; arguments and errors are those of `resolve`."""
    root = root or project_root()
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise StudyError(f"`seed` must be a whole number of at least 0, given {seed!r}.")
    settings, nodes = load_profile(profile, overrides, root), all_nodes(load_study(root))
    if checkpoint not in nodes:
        raise StudyError(f"unknown checkpoint {checkpoint!r}; {did_you_mean(str(checkpoint), nodes)}")
    if loops := [one.model for one in settings.roles.values() if (one.model or "").startswith(f"{RUN}{profile}/")]:
        raise StudyError(
            f"profile {profile!r}: the model {loops[0]!r} would be made of itself: name a run of another profile."
        )
    asked = {"profile": profile, "seed": seed, "overrides": overrides or {}}
    found: dict[str, Resolved] = {}

    def visit(name: str) -> Resolved:
        if name not in found:
            parents = {kind: visit(parent) for kind, parent in parents_in(name, nodes, settings.roles).items()}
            traces, where = traces_of(name, nodes, settings.roles), f"profile {profile!r}, checkpoint {name!r}"
            own = _resolved(nodes[name], settings, parents, traces, where)
            run = found[name] = Resolved(checkpoint=name, traces=traces, **own, **asked)
            if run.problems.pool and (size := at_most(run.problems.pool)):
                refuse_too_few_problems(run, size, stored_answers(run, found))
        return found[name]

    visit(checkpoint)
    return found


def stored_answers(run: Resolved, runs: Mapping[str, Resolved]) -> int | None:
    """Of each problem, those that a run trains on; None where it samples them itself or they are a file's."""
    return runs[run.parents["rollouts"]].params["samples_per_problem"] if "rollouts" in run.parents else None


def refuse_too_few_problems(run: Resolved, problems: int, samples: int | None = None) -> None:
    """Refuse a run whose label pool, of so many problems at most, does not fill one optimiser step.

    A label budget leaves few on purpose: they then are used several times in a step, each as often as any other (see
    s2d_lib.stages.common.schedule), and one will do. Only next-token stages take no answer (`samples` of each problem, as by
    `stored_answers`) twice in a step even so.
    """
    few_on_purpose = isinstance(run.problems.pool, LabelBudget) and not run.next_token
    if "batch" not in run.params or run.traces or few_on_purpose:
        return
    each = 1 if samples is None or run.params.get("answers") == "likeliest" else samples
    needed = run.params["batch"] // run.params.get("group_size", 1)
    if problems * each < needed:
        has = f"{problems} problem{'s' * (problems > 1)}{f', {problems * each} answers to learn,' if samples else ''}"
        more = ", or raise teacher_rollouts.samples_per_problem" if samples and each == samples else ""
        raise StudyError(
            f"profile {run.profile!r}, checkpoint {run.checkpoint!r}: the label pool {run.labels!r} has {has} but one optimiser "
            f"step of {run.stage} takes {needed}: lower `batch` or use more problems{more}."
        )


def _resolved(
    node: Checkpoint, settings: Profile, parents: dict[str, Resolved], traces: str | None, where: str
) -> dict[str, Any]:
    """What a profile makes of a checkpoint."""
    role = node.role or parents["from" if "from" in parents else "teacher"].role
    if role not in settings.roles:
        raise StudyError(f"{where} needs a model for role {role!r}: add it under `roles`.")
    if settings.roles[role].traces or (traces and node.stage != "teacher_sft"):
        raise StudyError(
            f"{where} needs a model for a role that is a file of traces, from which only teacher_sft can learn: give that "
            "role a `model`, or drop it."
        )
    goes_on = "from" in parents and parents["from"].stage != "base"
    params = _stage_params(node, role, goes_on, settings, where)
    if "states" in params and (params["states"] == "teacher") != ("rollouts" in parents):
        raise StudyError(
            f"{where}: stage {node.stage!r} can't train on {params['states']} states by the profile alone; set `states` in "
            "the checkpoint's overrides in study.yaml, where the graph can see it."
        )
    source, base, trains = settings.problems, node.stage == "base", node.stage in TRAINED
    # A pool that is read from files loses what it shares with the validation set, so rollouts on it must know that set as
    # the runs do that train on them; a generated validation set is made around the pool.
    apart = bool(node.labels) and isinstance(source, FromFiles)
    return {
        "stage": node.stage,
        "role": role,
        "model": settings.roles[role],
        "weights": weights_hash(settings.roles[role].model) if base else None,
        "code": STAGES[node.stage].code,
        "labels": node.labels,
        "params": params,
        "problems": ProblemSets(
            **{name: getattr(source, name) for name in ("world", "instruction", "overlap") if hasattr(source, name)},
            source=source.source,
            pool=_label_pool(node, params, source, where) if node.labels else None,
            evaluations=source.evaluations,
            validation=source.validation if trains or apart else None,
        ),
        "sampling": settings.block("sampling", node.stage, role),
        "evaluation": settings.evaluation if base else settings.evaluation.model_copy(update={"untrained": []}),
        "validation": settings.validation if trains else None,
        "hardware": settings.block("hardware", node.stage, role),
        "logging": settings.logging,
        "parents": {kind: parent.checkpoint for kind, parent in parents.items()},
        "parent_hashes": {parent.checkpoint: parent.hash for parent in parents.values()},
    }


def _label_pool(node: Checkpoint, params: dict, problems: Problems, where: str) -> Pool:
    """The problems of a label pool. Halves are of the labeled ones: who spends half of the labels upstream has the others for
    downstream; of other pools a stage that uses no labels gets as many as there are prompts."""
    name, half = node.labels, node.labels in HALVES
    of_labels = STAGES[node.stage].graded or params.get("filter") or half
    what = "labels" if of_labels else "prompts"
    at_hand, pool = getattr(problems, what), problems.pools.get(WHOLE if half else name)
    size = at_most(pool) if pool else None
    cut = f"`labels` and `prompts` cut the pool {WHOLE!r}"
    unknown = f"label pool {name!r} is not declared; {did_you_mean(name, [*problems.pools, *HALVES])}"
    others = f"and its halves only, not {name!r}: leave them out of `problems`, or this checkpoint out of the study"
    more = f"`{what}` can't be {at_hand} of the {size} problems of the pool {WHOLE!r}: lower it, or enlarge the pool"
    refusals = [
        (pool is None and not half, unknown),
        (pool is None, f"label pool {name!r} is cut from {WHOLE!r}, which is not declared: add it to `pools`"),
        (at_hand and name not in (WHOLE, *HALVES), f"{cut} {others}"),
        (at_hand and size is None, f"{cut}, whose size is not known: give it a `limit`"),
        (at_hand and size and at_hand > size, more),
    ]
    refuse(refusals, f"{where}: ")
    if at_hand and at_hand < size:
        pool = LabelBudget(labels=at_hand, of=pool, seed=problems.split_seed)
    return Half(half=name, of=pool, seed=problems.split_seed) if half else pool


def _stage_params(node: Checkpoint, role: str, goes_on: bool, settings: Profile, where: str) -> dict[str, Any]:
    """A stage's hyperparameters.

    A half of the labels takes half of the steps of a stage that uses labels: a problem is then graded as often in 1H
    and 2H as in the whole pool, so that routes that split their labels between two models spend as many gradings as
    routes that don't. So does teacher SFT, which passes as often over half of the answers. Other stages on prompts alone
    keep their steps.
    """

    def params(stage: str, extra: dict) -> dict:
        try:
            content = laid_over(stage, settings.stage_settings(stage, role, goes_on, extra.get("method")), extra)
        except ValueError as error:
            raise StudyError(f"{where}: {error}.") from None
        return validated(STAGES[stage].params, content, f"{where}, stage {stage!r}").model_dump()

    if node.stage == "base":
        return {}
    own = params(node.stage, node.overrides)
    if node.steps_of:
        own["steps"] = sum(params(stage, {})["steps"] for stage in node.steps_of)
    if STAGES[node.stage].halved and node.labels in HALVES:
        own["steps"] = (own["steps"] + 1) // 2
    return own


def trains_in_several(run: Resolved) -> bool:
    """Whether a run trains, and in more than one process."""
    return run.hardware.processes > 1 and hasattr(run.stage_params, "micro_batch")


def refuse_what_is_not_shared(run: Resolved) -> None:
    """Refuse a run that its processes could not train together: their micro-batches don't fill the batch, adapters on a model in
    shards, a loss that reads heads itself of models in the machine's memory, GOLD, kept targets."""
    if not trains_in_several(run):
        return
    params, hardware, stage = run.stage_params, run.hardware, run.stage
    together = params.micro_batch * hardware.processes
    few = f"{hardware.processes} processes with micro_batch {params.micro_batch} take {together} sequences at a time"
    shared = "adapters can't be trained on a model that processes share: leave out hardware.accelerate, or lora"
    heads = (
        f"{stage} reads the models' heads where they are, and {hardware.accelerate} keeps them in the machine's memory"
    )
    gold = "estimator gold is one process's: train it in one (hardware.processes, in a rule)"
    kept = "kept teacher_targets are one process's: use `recompute` with several processes"
    reads_heads = {stage, STAGES[stage].like} & {*DENSE, "self_distillation"}
    refusals = [
        (params.batch % together, f"{few}, which does not divide batch {params.batch}: lower micro_batch"),
        (hardware.accelerate and params.lora, shared),
        (reads_heads and state_on_host(hardware), f"{heads}: name fsdp2.yaml for it (hardware.accelerate, in a rule)"),
        (getattr(params, "estimator", None) == "gold", gold),
        (getattr(params, "teacher_targets", "recompute") != "recompute", kept),
    ]
    refuse(refusals)


def state_on_host(hardware: Hardware) -> bool:
    """Whether the file that `accelerate` names, if it is there, keeps weights and optimiser in the machine's memory instead of
    the GPUs'; a StudyError where it holds no mapping."""
    path = project_root() / "params" / "accelerate" / hardware.accelerate if hardware.accelerate else None
    config = read_yaml(path) if path is not None and path.is_file() else {}
    return bool(config.get("fsdp_config", {}).get("fsdp_offload_params"))


def origins(run: Resolved, root: Path | None = None) -> dict[str, str]:
    """Where each of a run's hyperparameters comes from: a default, the profile's `stages`, one of its rules, the checkpoint's
    entry in study.yaml, or the overrides."""
    settings, plain = (load_profile(run.profile, overrides, root) for overrides in (run.overrides, None))
    nodes = all_nodes(load_study(root))
    node, goes_on = nodes[run.checkpoint], "from" in run.parents and nodes[run.parents["from"]].stage != "base"
    found = dict.fromkeys(run.params, "default")
    like = STAGES[run.stage].like or run.stage
    found |= dict.fromkeys(getattr(settings.stages, like).model_fields_set if run.params else (), "stages")
    if like != run.stage:
        found |= dict.fromkeys(getattr(settings.stages, run.stage) or (), f"stages.{run.stage}")
    for rule in settings.rules_for(run.stage, run.role, goes_on, run.params.get("method")):
        number = settings.rules.index(rule)
        match = ", ".join(f"{key} {value}" for key, value in rule.match.model_dump(exclude_none=True).items())
        found |= dict.fromkeys(rule.set, f"rule {number + 1} ({match})" if number < len(plain.rules) else "overrides")
    found |= dict.fromkeys(node.overrides, "study.yaml")
    if node.steps_of:
        found["steps"] = f"study.yaml: steps of {' and '.join(node.steps_of)}"
    if STAGES[node.stage].halved and node.labels in HALVES:
        found["steps"] += ", half of them on half of the labels"
    return {name: found[name] for name in run.params}


def weights_hash(model: str) -> str | None:
    """What tells a model released inside the package (`micro/<name>`) or made by a run (`run:<profile>/<checkpoint>`) from
    another of its name: the hash of its weights, from its record, or of the run; none for other models."""
    if made := run_of(model):
        return made.hash
    name = model.removeprefix("micro/")
    return released_record(RELEASED / name)["weights_sha256"] if name != model else None


def run_of(model: str) -> Resolved | None:
    """The run, with seed 0, that a model named `run:<profile>/<checkpoint>` comes from; none for other models."""
    if not model.startswith(RUN):
        return None
    profile, _, checkpoint = model.removeprefix(RUN).partition("/")
    return resolve(profile, checkpoint, 0)


def released_record(folder: Path) -> dict[str, Any]:
    """The record of a released base model; a StudyError where it is missing, or the weights are not those that it says."""
    if not (folder / "record.json").is_file():
        raise StudyError(f"the base model {folder.name!r} is not in {folder.parent}: make it with `make base`.")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    if file_hash(folder / "model.safetensors") != record["weights_sha256"]:
        wrong = f"the weights of base model {folder.name!r} are not those of its record"
        raise StudyError(f"{wrong}: make it again with `make base`.")
    return record


def derive_seed(*parts: str | int) -> int:
    """A 31-bit seed from names and numbers, so that no two runs share a random stream by accident."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
