"""What may stand in params/*.yaml. Every model forbids unknown keys, so a misspelt parameter never passes silently."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Strict(BaseModel):
    """Base of all parameter models: unknown keys are errors, values can't be changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- study.yaml -------------------------------------------------------------------------------------------------------

Stage = Literal["base", "teacher_rollouts", "sparse_rl", "teacher_sft", "forward_kl", "opd", "teacher_sample_sft"]
Role = Literal["student", "teacher", "large_teacher"]


class Checkpoint(Strict):
    """One named node of the study, free of any profile."""

    stage: Stage
    role: Role | None = None  # of a base checkpoint: which of the profile's models it is
    from_: str | None = Field(None, alias="from")  # the checkpoint whose weights training starts from
    teacher: str | None = None  # the checkpoint that supplies the dense signal or the rollouts
    labels: str | None = None  # the label pool whose problems (or only prompts) are used
    # The optimiser steps of these stages in sum instead of the stage's own: keeps a one-stage control at the same
    # number of updates as the two-stage bridge it is compared with.
    steps_of: list[Stage] | None = None
    overrides: dict[str, object] = {}  # of the stage's hyperparameters
    about: str = ""

    @model_validator(mode="after")
    def _fits_its_stage(self):
        needs = {
            "base": {"role"},
            "teacher_rollouts": {"teacher", "labels"},
            "sparse_rl": {"from_", "labels"},
            "teacher_sft": {"from_", "labels"},
            "forward_kl": {"from_", "teacher", "labels"},
            "opd": {"from_", "teacher", "labels"},
            "teacher_sample_sft": {"from_", "teacher", "labels"},
        }[self.stage]
        given = {name for name in ("role", "from_", "teacher", "labels") if getattr(self, name) is not None}
        if given != needs:
            say = lambda names: ", ".join(sorted(n.rstrip("_") for n in names)) or "nothing"  # noqa: E731
            raise ValueError(f"stage {self.stage!r} needs exactly {say(needs)}, given {say(given)}")
        if self.overrides and self.stage == "base":
            raise ValueError("a base checkpoint has no hyperparameters to override")
        if self.steps_of and self.stage in ("base", "teacher_rollouts"):
            raise ValueError(f"stage {self.stage!r} takes no optimiser steps, so it can't have `steps_of`")
        return self


class Table(Strict):
    """A table or figure: which checkpoints are its rows, in order."""

    title: str
    rows: list[str]
    reference: str | None = None  # the row that the others' differences are taken against

    @model_validator(mode="after")
    def _reference_is_a_row(self):
        if self.reference is not None and self.reference not in self.rows:
            raise ValueError(f"reference {self.reference!r} is not one of the rows")
        return self


class Study(Strict):
    """params/study.yaml: every checkpoint once, and the tables made of them."""

    checkpoints: dict[Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_.]*$")], Checkpoint]
    tables: dict[str, Table]


# --- <profile>.yaml: problems -----------------------------------------------------------------------------------------

HALVES = ("1H", "2H")
"""Label pools that every profile has: the random halves of its pool `full`."""


class WorldSpec(Strict):
    """The facts behind function-chain problems (see s2d_lib.problems.function_chains.World)."""

    functions: PositiveInt
    values: PositiveInt
    zipf: float = Field(ge=0)
    seed: int = Field(ge=0)


class ProblemSource(Strict):
    """What every problem source has."""

    pools: dict[str, Strict]
    halves_seed: int = Field(0, ge=0)  # of the split of the pool `full` into the random halves 1H and 2H

    @model_validator(mode="after")
    def _halves_are_made_not_declared(self):
        for name in HALVES:
            if name in self.pools:
                raise ValueError(f"the pool name {name} is kept for a half of `full`, which needs no entry: rename it")
        return self


class ChainSet(Strict):
    """A set of function-chain problems."""

    count: PositiveInt
    lengths: list[PositiveInt] = Field(min_length=1)
    rare: bool = False  # draw all functions equally often instead of by their frequency in the corpus
    seed: int = Field(ge=0)


class FunctionChains(ProblemSource):
    """Problem source of the micro family."""

    source: Literal["function_chains"]
    world: WorldSpec
    pools: dict[str, ChainSet]
    evaluations: dict[str, ChainSet]


class CompetitionSet(Strict):
    """Competition-math problems by dataset name."""

    dataset: str  # a key of s2d_lib.problems.competition
    path: str | None = None  # local parquet, json or jsonl file, relative to the project; none: the dataset's Hub id
    limit: PositiveInt | None = None  # a seeded subset of this size
    seed: int = Field(0, ge=0)


class CompetitionMath(ProblemSource):
    """Problem source of the real profiles."""

    source: Literal["competition_math"]
    pools: dict[str, CompetitionSet]
    evaluations: dict[str, CompetitionSet]
    instruction: str = ""  # appended to every prompt
    overlap: Literal["refuse", "remove"] = "refuse"  # pool problems that (nearly) stand in an evaluation set


Problems = Annotated[FunctionChains | CompetitionMath, Field(discriminator="source")]

# --- <profile>.yaml: models, sampling, hardware -----------------------------------------------------------------------


class RoleModel(Strict):
    """Which model plays a role."""

    model: str  # Hub id, local directory, or `micro/<name>` for the models released in the package
    gguf_file: str | None = None  # name of the GGUF file when `model` is a directory that holds one
    chat: bool = False  # wrap prompts into the tokenizer's chat template
    eos_token: str | None = None  # what ends a turn, where the model's own setting is not it
    pad_token: str | None = None


class Sampling(Strict):
    """How policies are sampled, in training and evaluation alike unless evaluation says otherwise."""

    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: PositiveInt
    batch: PositiveInt = 64  # sequences sampled at a time outside the trainers


class Evaluation(Strict):
    """avg@k: `samples` independent samples for every problem."""

    samples: PositiveInt = 16
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)


class Hardware(Strict):
    """Where a run computes."""

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; trained weights stay float32
    threads: PositiveInt = 1  # torch threads of one run; run jobs side by side rather than raising it
    gradient_checkpointing: bool = False


# --- <profile>.yaml: stages -------------------------------------------------------------------------------------------


class Training(Strict):
    """What every training stage has."""

    steps: PositiveInt  # optimiser steps
    learning_rate: float = Field(gt=0)
    batch: PositiveInt  # sequences in one optimiser step
    micro_batch: PositiveInt  # sequences in one forward-backward pass; must divide `batch`
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    save_steps: PositiveInt = 50  # a killed run resumes from the last of these

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self):
        if self.batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch {self.batch}")
        return self


class SparseRL(Training):
    """GRPO with a 0/1 task reward (paper A: Stage 1, Stage 3 and cold RL)."""

    group_size: int = Field(ge=2)  # rollouts of one prompt; `batch` counts rollouts
    epsilon_low: float = Field(0.2, gt=0)
    epsilon_high: float = Field(0.28, gt=0)  # asymmetric clip
    kl_coefficient: float = Field(0.0, ge=0)
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = "dapo"  # not bnpo: its mean is over a micro-batch, not the batch
    scale_rewards: Literal["group", "batch", "none"] = "group"
    mask_truncated: bool = True  # rollouts cut off by the length limit carry no gradient

    @model_validator(mode="after")
    def _whole_groups(self):
        if self.batch % self.group_size:
            raise ValueError(f"group_size {self.group_size} does not divide batch {self.batch}")
        return self


class Distillation(Training):
    """Dense matching of a teacher's next-token distributions (paper A: Stages 2a and 2b)."""

    states: Literal["teacher", "student"]  # whose rollouts supply the states
    beta: float = Field(ge=0, le=1)  # 0 forward KL, 1 reverse KL, between: generalised JSD
    estimator: Literal["full", "topk_tail", "sampled_token"] = "full"
    # Only for topk_tail: tokens kept apart from the tail bucket, the most likely ones of the model whose states they are.
    top_k: PositiveInt | None = None
    # What the teacher says of stored rollouts: computed in every epoch, or once and kept, exactly or as its top tokens.
    teacher_targets: Literal["recompute", "hidden_states", "top_k"] = "recompute"

    @model_validator(mode="after")
    def _options_only_where_read(self):
        if (self.estimator == "topk_tail") != (self.top_k is not None):
            raise ValueError("`top_k` belongs to estimator topk_tail, and to no other")
        if self.teacher_targets != "recompute" and self.states != "teacher":
            raise ValueError(
                f"teacher_targets {self.teacher_targets} are kept of stored rollouts: they need states teacher"
            )
        if self.teacher_targets == "top_k" and (self.estimator != "topk_tail" or self.beta != 0):
            raise ValueError("teacher_targets top_k know no more than forward KL needs: estimator topk_tail, beta 0")
        if self.estimator == "sampled_token" and (self.states != "student" or self.beta != 1):
            raise ValueError(
                "estimator sampled_token is reverse KL on the student's own samples: states student, beta 1"
            )
        return self


class TeacherRollouts(Strict):
    """Sampling the teacher once, for every stage that trains on its rollouts."""

    samples_per_problem: PositiveInt


class Stages(Strict):
    """Hyperparameters of every stage."""

    sparse_rl: SparseRL
    teacher_sft: Training
    forward_kl: Distillation
    opd: Distillation
    teacher_sample_sft: Training
    teacher_rollouts: TeacherRollouts


class CorpusMix(Strict):
    """Shares of the documents of a mixed-quality corpus."""

    guess: float = Field(ge=0)  # an answer out of the air
    sloppy: float = Field(ge=0)  # worked, each step slips with chance `slip`
    right: float = Field(ge=0)  # worked, correct


class Corpus(Strict):
    """What micro base models are pretrained on."""

    mix: CorpusMix
    slip: float = Field(ge=0, le=1)
    lengths: list[PositiveInt] = Field(min_length=1)


class MicroModel(Strict):
    """Architecture and pretraining of one micro base model (Qwen3, head size 32)."""

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    mlp: PositiveInt
    init: float = Field(gt=0)  # standard deviation of the initial weights
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: float = Field(gt=0)  # the peak of a one-cycle schedule
    seed: int = Field(ge=0)


class Pretraining(Strict):
    """How notebook 10 makes the micro family's base models."""

    corpus: Corpus
    models: dict[str, MicroModel]


class Trials(Strict):
    """Learning rates tried for one stage before the study, each on the regime's first seed."""

    checkpoint: str  # the run they are tried on
    stage: Stage
    learning_rates: list[float] = Field(min_length=2)


class Regime(Strict):
    """Runs on seeds of their own, made before the study: is the setting fit for the question, and at which rates?"""

    seeds: list[int] = Field(min_length=1)
    checkpoints: list[str]
    trials: list[Trials] = []


TrainedStage = Literal["sparse_rl", "teacher_sft", "forward_kl", "opd", "teacher_sample_sft"]


class Profile(Strict):
    """params/<profile>.yaml."""

    about: str = ""
    seeds: list[int] = Field(min_length=1)
    roles: dict[Role, RoleModel]
    problems: Problems
    sampling: Sampling
    evaluation: Evaluation
    hardware: Hardware = Hardware()
    stages: Stages
    by_role: dict[Role, dict[TrainedStage, dict[str, object]]] = {}  # refines `stages` for the model that trains
    pretraining: Pretraining | None = None  # only of the micro family; read by notebook 10
    regime: Regime | None = None
    tables: list[str]  # which of the study's tables this profile makes
    # What the papers evaluate on -> the evaluation set that stands for it here. Only claims read it, so no run's hash
    # holds it: naming a set afterwards makes no run stale.
    stands_for: dict[str, str] = {}

    def stage_settings(self, stage: str, role: str) -> dict:
        """Hyperparameters of a stage for the role that trains, before a checkpoint's own overrides."""
        return getattr(self.stages, stage).model_dump() | self.by_role.get(role, {}).get(stage, {})

    @model_validator(mode="after")
    def _refinements_fit_their_stages(self):
        for role, stages in self.by_role.items():
            for stage in stages:
                type(getattr(self.stages, stage)).model_validate(self.stage_settings(stage, role))
        return self

    @model_validator(mode="after")
    def _regime_on_its_own_seeds(self):
        if self.regime and set(self.regime.seeds) & set(self.seeds):
            raise ValueError("regime.seeds must not be seeds of the study: what is chosen on them would be tuned to it")
        return self

    @model_validator(mode="after")
    def _stand_ins_are_evaluation_sets(self):
        known = self.problems.evaluations
        for meant, name in self.stands_for.items():
            if name not in known:
                raise ValueError(f"stands_for.{meant} names {name!r}, which is no evaluation set ({', '.join(known)})")
        if len(set(self.stands_for.values())) < len(self.stands_for):
            raise ValueError("stands_for gives one evaluation set two meanings, and its problems would count twice")
        return self
