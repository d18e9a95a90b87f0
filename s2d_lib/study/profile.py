"""params/<profile>.yaml: which models play the roles, on which problems, with which hyperparameters and hardware."""

from typing import Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, create_model, model_validator

from s2d_lib.study.map import Map
from s2d_lib.study.page import Role, Stage
from s2d_lib.study.pretraining import Pretraining
from s2d_lib.study.problem_sets import MicroProblems, Problems
from s2d_lib.study.self_distillation_params import Method, laid_over
from s2d_lib.study.settings import Cluster, Evaluation, Hardware, Lengths, Logging, RoleModel, Sampling, Validation
from s2d_lib.study.stages import STAGE_PARAMS, Stages
from s2d_lib.study.strict import Strict

TrainedStage = Literal["sparse_rl", "teacher_sft", "forward_kl", "opd", "teacher_sample_sft", "self_distillation"]


class Trials(Strict):
    """What is tried of one stage before the study, on the regime's first seed: each learning rate with each length.

    Every pair is a run of its own: where rates decay, a long run's curve does not tell how a shorter one would end.
    """

    checkpoint: (
        str  # the run they are tried on; where it takes the steps of several stages, those of the others are added
    )
    stage: (
        TrainedStage | Literal["stage_3", "bridge"] | Method
    )  # bridge: forward_kl and opd as one, the steps those of both
    steps: list[PositiveInt] = Field(min_length=1)
    learning_rates: list[float] = Field(min_length=1)
    warmups: list[float] = Field(default_factory=list)  # shares of a bridge's steps that are forward_kl's

    @model_validator(mode="after")
    def _a_bridge_is_split(self):
        if (self.stage == "bridge") != bool(self.warmups) or not all(0 < share < 1 for share in self.warmups):
            raise ValueError(
                "`warmups` are shares above 0 and under 1 of the steps of stage `bridge`: give both or neither"
            )
        return self


class Regime(Strict):
    """Runs on seeds of their own, made before the study: is the setting fit for the question, and at which rates?"""

    seeds: list[int] = Field(min_length=1)
    checkpoints: list[str] = Field(default_factory=list)
    parts: list[str] = Field(default_factory=list)  # of the profile's map, made on these seeds as well
    trials: list[Trials] = Field(default_factory=list)
    # By what of its validation curve a trial counts: where it ends, or the mean of the whole. Where what a method does late
    # is a question of the study, and one ends at nothing at every rate, its end can't choose between them.
    count_by: Literal["end", "mean"] = "end"
    # Higher rates are tried and shown but not chosen, where what they cost is not in the validation problems.
    rates_up_to: PositiveFloat | None = None
    # Other profiles on which the same trials are made, where one rate has to serve all of them; a pair counts by its mean.
    also_on: list[str] = Field(default_factory=list)


class Refined(Strict):
    """What differs of `sampling`, `hardware` and `cluster`, key by key."""

    sampling: dict[str, object] = Field(default_factory=dict)
    hardware: dict[str, object] = Field(default_factory=dict)
    cluster: dict[str, object] = Field(default_factory=dict)


RefinedRole = create_model(
    "RefinedRole",
    __base__=Refined,
    __doc__="What differs for a role's model: of the three blocks in all its runs, of the stages that train it.",
    **{stage: (dict[str, object], Field(default_factory=dict)) for stage in get_args(TrainedStage)},
)


class Profile(Strict):
    """params/<profile>.yaml."""

    about: str = ""
    seeds: list[int] = Field(min_length=1)
    roles: dict[Role, RoleModel]
    problems: Problems
    sampling: Sampling
    evaluation: Evaluation
    validation: Validation | None = None
    hardware: Hardware = Hardware()
    logging: Logging = "none"  # a viewer's files of a training's metrics, in the run's folder; no run's hash holds it
    stages: Stages
    # Refines `sampling`, `hardware` and `cluster` for the runs of a stage, base models' and teacher rollouts' among them.
    by_stage: dict[Stage, Refined] = Field(default_factory=dict)
    # Refines `stages` for the model that trains, and after `by_stage` the three for the one that a run is of.
    by_role: dict[Role, RefinedRole] = Field(default_factory=dict)
    by_method: dict[Method, dict[str, object]] = Field(
        default_factory=dict
    )  # refines self_distillation, before by_role
    # Refines sparse_rl and self_distillation where they go on from a trained checkpoint (paper A: Stage 3).
    stage_3: dict[str, object] = Field(default_factory=dict)
    pretraining: Pretraining | None = None  # only of the micro family; read by notebook 10
    regime: Regime | None = None
    tables: list[str]  # which of the study's tables this profile makes
    map: Map | None = None
    # What the papers evaluate on -> the evaluation set that stands for it here. Only claims read it, so no run's hash
    # holds it: naming a set afterwards makes no run stale.
    stands_for: dict[str, str] = Field(default_factory=dict)
    # A profile whose results hold this one's base models at further decodings, for the rows at their best temperature, where
    # more decodings here would make every run stale. Only tables and figures read it, likewise.
    untrained_results: str | None = None
    lengths: Lengths | None = None  # only the planner reads it, likewise
    cluster: Cluster = Cluster()  # only what a scheduler is asked for, likewise

    def stage_settings(self, stage: str, role: str, goes_on: bool = False, method: str | None = None) -> dict:
        """Hyperparameters of a stage before a checkpoint's own overrides.

        Args:
            stage: Which.
            role: Of the model that trains.
            goes_on: Whether it goes on from a trained checkpoint instead of a base model.
            method: Of self_distillation; the profile's own by default.

        Raises:
            ValueError: The profile has none for this stage.
        """
        own = getattr(self.stages, stage)
        if own is None:
            raise ValueError(f"there are no hyperparameters of stage {stage!r}: add them under `stages`")
        of_role = getattr(self.by_role.get(role, RefinedRole()), stage, {})
        refined = laid_over(stage, own.model_dump(), of_role)
        if stage == "self_distillation":
            method = method or refined["method"]
            refined = laid_over(stage, refined, {"method": method} | self.by_method.get(method, {}))
            refined |= {name: of_role[name] for name in refined.keys() & of_role.keys() - {"method"}}
        return refined | (self.stage_3 if goes_on and stage in ("sparse_rl", "self_distillation") else {})

    def hardware_of(self, stage: str, role: str) -> Hardware:
        """Where the runs of a stage compute that are of a role's model.

        Raises:
            ValueError: What refines it does not fit it.
        """
        return Hardware.model_validate(self._refined("hardware", stage, role))

    def cluster_of(self, stage: str, role: str) -> Cluster:
        """What a scheduler is asked for, likewise."""
        return Cluster.model_validate(self._refined("cluster", stage, role))

    def sampling_of(self, stage: str, role: str) -> Sampling:
        """How the runs of a stage sample that are of a role's model, likewise."""
        return Sampling.model_validate(self._refined("sampling", stage, role))

    def _refined(self, block: Literal["sampling", "hardware", "cluster"], stage: str, role: str) -> dict:
        refinements = (self.by_stage.get(stage, Refined()), self.by_role.get(role, RefinedRole()))
        return getattr(self, block).model_dump() | getattr(refinements[0], block) | getattr(refinements[1], block)

    @model_validator(mode="after")
    def _refinements_fit_their_stages(self):
        for role, refined in self.by_role.items():
            for stage in refined.model_fields_set - set(Refined.model_fields):
                STAGE_PARAMS[stage].model_validate(self.stage_settings(stage, role))
        type(self.stages.sparse_rl).model_validate(self.stage_settings("sparse_rl", "student", goes_on=True))
        for method in self.by_method:
            STAGE_PARAMS["self_distillation"].model_validate(
                self.stage_settings("self_distillation", "student", method=method)
            )
        return self

    @model_validator(mode="after")
    def _refinements_fit_their_blocks(self):
        for stage in (*self.by_stage, "base"):
            for role in self.roles:
                self.sampling_of(stage, role)
                self.hardware_of(stage, role)
                self.cluster_of(stage, role)
        return self

    @model_validator(mode="after")
    def _validation_has_problems(self):
        if (self.validation is None) != (self.problems.validation is None):
            raise ValueError("`validation` and `problems.validation` belong together: give both or neither")
        return self

    @model_validator(mode="after")
    def _pretraining_has_a_world(self):
        if self.pretraining and not isinstance(self.problems, MicroProblems):
            raise ValueError(f"`pretraining` is of micro problems, not of {self.problems.source}: leave it out")
        return self

    @model_validator(mode="after")
    def _regime_on_its_own_seeds(self):
        if self.regime and set(self.seeds) & set(self.regime.seeds):
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
