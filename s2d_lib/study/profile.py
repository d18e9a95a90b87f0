"""params/<profile>.yaml: which models play the roles, on which problems, with which hyperparameters and hardware.

A profile has two layers: defaults, and rules that lay something over them for the runs that they match, in their order.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, create_model

from s2d_lib.study.page import Role, StageName
from s2d_lib.study.pretraining import Pretraining
from s2d_lib.study.problem_sets import MicroProblems, Problems
from s2d_lib.study.settings import Cluster, Evaluation, Hardware, Lengths, Logging, RoleModel, Sampling, Validation
from s2d_lib.study.stage_params import METHODS, STAGES, TRAINED, Method, SelfDistillation
from s2d_lib.study.strict import Strict, did_you_mean

Stages = create_model(
    "Stages",
    __base__=Strict,
    __doc__="Hyperparameters of every stage; of a stage that a profile leaves out it makes no checkpoints. A stage that is like "
    "another one has that one's, and here what is different.",
    **{
        name: (dict[str, object] if stage.like else stage.params | None, None)
        for name, stage in STAGES.items()
        if stage.params
    },
)
BLOCKS = {"sampling": Sampling, "hardware": Hardware, "cluster": Cluster}
"""What a rule can refine besides a stage's hyperparameters, key by key."""
Block = Literal[tuple(BLOCKS)]


def _several(one: str | list[str] | None, without: Iterable = (None,)) -> Iterable:
    return without if one is None else one if isinstance(one, list) else [one]


class Match(Strict):
    """Which runs a rule is for: those that fit all that is given, one name or one of several."""

    stage: StageName | list[StageName] | None = None
    role: Role | list[Role] | None = None  # of the model that trains, or that a run is of
    method: Method | list[Method] | None = None  # of self-distillation
    goes_on: bool | None = None  # from a trained checkpoint instead of a base model (paper A: Stage 3)

    def fits(self, **run: object) -> bool:
        """Whether it fits a run, given as its `stage`, `role`, `method` and `goes_on`."""
        return all(run[key] in _several(one) for key, one in self.model_dump(exclude_none=True).items())


class Rule(Strict):
    """What is laid over a profile's defaults for some of its runs."""

    match: Match
    # Hyperparameters of the matched stages, and `sampling`, `hardware` and `cluster`, key by key.
    set: dict[str, object] = Field(min_length=1)

    @property
    def hyperparameters(self) -> dict[str, object]:
        """What it sets of a stage."""
        return {key: value for key, value in self.set.items() if key not in BLOCKS}

    def _refusals(self):
        named = ", ".join(self.hyperparameters)
        nowhere = f"a rule that sets {named} must match a stage: name it under `match`"
        yield self.hyperparameters and not self.match.stage, nowhere
        for stage in _several(self.match.stage, ()):
            known = {*BLOCKS, *getattr(STAGES[stage].params, "model_fields", ())}
            for other in self.set.keys() - known:
                yield True, f"the rule sets {other!r}, which stage {stage} does not have; {did_you_mean(other, known)}"
        for block in BLOCKS:
            yield not isinstance(self.set.get(block, {}), dict), f"`{block}` is set key by key: give a mapping"


Settings = dict[str, str]
"""Dial -> the name of one of its values."""


def settings_text(settings: Mapping[str, str]) -> str:
    """Dials and their values as one word, `opening=0.03,labels=16`."""
    return ",".join(f"{dial}={value}" for dial, value in settings.items())


def settings_of(text: str) -> dict[str, str]:
    """The dials of `settings_text`."""
    return dict(word.split("=", 1) for word in text.split(",")) if text else {}


class Part(Strict):
    """One question to the map: routes in every cell of a grid."""

    title: str
    across: dict[str, list[str]] = Field(min_length=1)  # dial -> names of its values; cells are their product
    at: Settings = Field(default_factory=dict)  # further dials, the same in all cells
    # Route -> what is tried of it in every cell: dials, whose product are its trials.
    routes: dict[str, dict[str, list[str]]] = Field(min_length=1)

    @property
    def cells(self) -> list[Settings]:
        """Every cell's own dials."""
        return _grid(self.across)

    def trials(self, route: str) -> list[Settings]:
        """What is tried of a route."""
        return _grid(self.routes[route])

    def _refusals(self):
        trained = {route: len(self.trials(route)) for route, tried in self.routes.items() if tried}
        more = f"routes must have the same number of trials in a cell, or none: {trained}"
        yield len(set(trained.values())) > 1, more


def _grid(dials: dict[str, list[str]]) -> list[Settings]:
    return [dict(zip(dials, values, strict=True)) for values in product(*dials.values())]


class Map(Strict):
    """What can be turned, and the grids that are made of it."""

    # Dial -> name of a value -> what it lays over the profile, nested as `overrides` are.
    dials: dict[str, dict[str, dict[str, object]]]
    parts: dict[str, Part]

    def _refusals(self):
        known = ", ".join(f"{dial}: {', '.join(values)}" for dial, values in self.dials.items())
        for name, part in self.parts.items():
            turned = [part.at, *part.cells, *(trial for route in part.routes for trial in part.trials(route))]
            for dial, value in (one for settings in turned for one in settings.items()):
                other = f"part {name!r} turns {dial!r} to {value!r}, which is not declared ({known})"
                yield value not in self.dials.get(dial, {}), other


class Trials(Strict):
    """What is tried of one stage before the study, on the regime's first seed: each learning rate with each length, a run of its
    own each, since where rates decay a long run's curve does not tell how a shorter one would end."""

    checkpoint: str  # the run; where it takes the steps of several stages, those of the others are added
    # A stage or a method of self-distillation; stage_3: sparse RL that goes on from a trained checkpoint; bridge: forward_kl and
    # opd as one, the steps those of both.
    stage: Literal["stage_3", "bridge", *TRAINED, *METHODS]
    steps: list[PositiveInt] = Field(min_length=1)
    learning_rates: list[float] = Field(min_length=1)
    warmups: list[float] = Field(default_factory=list)  # shares of a bridge's steps that are forward_kl's

    def _refusals(self):
        split = (self.stage == "bridge") == bool(self.warmups) and all(0 < share < 1 for share in self.warmups)
        yield not split, "`warmups` are shares above 0 and under 1 of the steps of stage `bridge`: give both or neither"


class Regime(Strict):
    """Runs on seeds of their own, made before the study: is the setting fit for the question, and at which rates?"""

    seeds: list[int] = Field(min_length=1)
    checkpoints: list[str] = Field(default_factory=list)
    parts: list[str] = Field(default_factory=list)  # of the profile's map, made on these seeds as well
    trials: list[Trials] = Field(default_factory=list)
    # By what of its validation curve a trial counts: where it ends, or its best. Where what a method does late is a question of
    # the study, and one ends at nothing at every rate, its end can't choose between them.
    count_by: Literal["end", "best"] = "end"
    # Higher rates are tried and shown but not chosen, where what they cost is not in the validation problems.
    rates_up_to: PositiveFloat | None = None
    # Other profiles on which the same trials are made, where one rate has to serve all of them; a pair counts by its mean.
    also_on: list[str] = Field(default_factory=list)


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
    rules: list[Rule] = Field(default_factory=list)
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

    def rules_for(self, stage: str, role: str, goes_on: bool = False, method: str | None = None) -> list[Rule]:
        """The rules that fit a run, in their order. `role` is that of the model that trains or that the run is of, `goes_on`
        whether from a trained checkpoint; `method` is self_distillation's, by default the profile's own."""
        names = {stage, STAGES[stage].like}
        if "self_distillation" in names and method is None and self.stages.self_distillation:
            method = self.stages.self_distillation.method
        run = {"role": role, "method": method, "goes_on": goes_on}
        return [rule for rule in self.rules if any(rule.match.fits(stage=name, **run) for name in names)]

    def stage_settings(self, stage: str, role: str, goes_on: bool = False, method: str | None = None) -> dict[str, Any]:
        """Hyperparameters of a stage before a checkpoint's own overrides; arguments as of `rules_for`.

        Raises:
            ValueError: The profile has none for this stage.
        """
        own = getattr(self.stages, like := STAGES[stage].like or stage)
        if own is None:
            raise ValueError(f"there are no hyperparameters of stage {like!r}: add them under `stages`")
        more = (getattr(self.stages, stage) or {}) if like != stage else {}
        content = laid_over(stage, own.model_dump(), more | ({"method": method} if method else {}))
        for rule in self.rules_for(stage, role, goes_on, method):
            content = laid_over(stage, content, rule.hyperparameters)
        return content

    def block(self, name: Block, stage: str, role: str) -> Sampling | Hardware | Cluster:
        """How the runs of a stage sample that are of a role's model, where they compute, or what a scheduler is asked for."""
        content = getattr(self, name).model_dump()
        for rule in self.rules_for(stage, role):
            content |= rule.set.get(name, {})
        return BLOCKS[name].model_validate(content)

    def _refusals(self):
        for rule in self.rules:  # what one sets does not fit is said by the model that it is laid over
            match = rule.match
            several = (_several(match.stage, STAGES), _several(match.role, self.roles), _several(match.method))
            for stage, role, method in product(*several):
                for name in rule.set.keys() & BLOCKS:
                    self.block(name, stage, role)
                if rule.hyperparameters and getattr(self.stages, STAGES[stage].like or stage):
                    content = self.stage_settings(stage, role, bool(match.goes_on), method)
                    STAGES[stage].params.model_validate(content)
        apart = "`validation` and `problems.validation` belong together: give both or neither"
        yield (self.validation is None) != (self.problems.validation is None), apart
        unread = f"`pretraining` is of micro problems, not of {self.problems.source}: leave it out"
        yield self.pretraining and not isinstance(self.problems, MicroProblems), unread
        tuned = "regime.seeds must not be seeds of the study: what is chosen on them would be tuned to it"
        yield self.regime and set(self.seeds) & set(self.regime.seeds), tuned
        known = self.problems.evaluations
        for meant, name in self.stands_for.items():
            none = f"stands_for.{meant} names {name!r}, which is no evaluation set ({', '.join(known)})"
            yield name not in known, none
        twice = "stands_for gives one evaluation set two meanings, and its problems would count twice"
        yield len(set(self.stands_for.values())) < len(self.stands_for), twice


def laid_over(stage: str, below: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a stage with changes laid over them. Where these choose another method of self-distillation, options
    that it does not read stay behind; those that the changes themselves ask for do not, and are refused."""
    content = below | changes
    params = STAGES[stage].params
    unread = params.unread(content) if issubclass(params, SelfDistillation) else {}
    return {name: value for name, value in content.items() if name in changes or name not in unread}
