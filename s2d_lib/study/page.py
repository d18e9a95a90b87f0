"""params/study.yaml: every checkpoint of the papers once, and the tables made of them; the nodes of the study's graph."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from s2d_lib.study.settings import RoleModel
from s2d_lib.study.stage_params import STAGES
from s2d_lib.study.strict import Strict

StageName = Literal[tuple(STAGES)]
Role = Literal["student", "teacher", "large_teacher", "small_teacher", "split_teacher", "outside"]


class Checkpoint(Strict):
    """One named node of the study, free of any profile."""

    stage: StageName
    role: Role | None = None  # of a base checkpoint: which of the profile's models it is
    from_: str | None = Field(None, alias="from")  # the checkpoint whose weights training starts from
    # The checkpoint that supplies the dense signal or the rollouts. Teacher SFT has one, or learns from its own answers.
    teacher: str | None = None
    labels: str | None = None  # the label pool whose problems (or only prompts) are used
    # The optimiser steps of these stages in sum instead of the stage's own: keeps a one-stage control at the same
    # number of updates as the two-stage bridge it is compared with.
    steps_of: list[StageName] | None = None
    overrides: dict[str, object] = Field(default_factory=dict)  # of the stage's hyperparameters
    about: str = ""

    def _refusals(self):
        stage = STAGES[self.stage]
        given = {name for name in ("role", "from", "teacher", "labels") if self.model_dump(by_alias=True)[name]}
        needs, found = (", ".join(sorted(names)) or "nothing" for names in (stage.needs, given))
        fits = stage.needs <= given <= stage.needs | stage.may_have
        yield not fits, f"stage {self.stage!r} needs exactly {needs}, given {found}"
        yield self.overrides and stage.params is None, "a base checkpoint has no hyperparameters to override"
        none = f"stage {self.stage!r} takes no optimiser steps, so it can't have `steps_of`"
        yield self.steps_of and "steps" not in getattr(stage.params, "model_fields", ()), none


class Table(Strict):
    """A table or figure: which checkpoints are its rows, in order."""

    title: str
    rows: list[str]
    reference: str | None = None  # the row that the others' differences are taken against

    def _refusals(self):
        yield self.reference not in (None, *self.rows), f"reference {self.reference!r} is not one of the rows"


class Study(Strict):
    """params/study.yaml: every checkpoint once, and the tables made of them."""

    checkpoints: dict[Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_.]*$")], Checkpoint]
    tables: dict[str, Table]


def rollouts_name(teacher: str, labels: str) -> str:
    """Name of the run that holds a teacher's rollouts on a label pool, sampled once for all that train on them."""
    return f"{teacher}.rollouts.{labels}"


def all_nodes(study: Study) -> dict[str, Checkpoint]:
    """Every node by its name: the study's checkpoints, and a run for every teacher and pool that some stage needs rollouts of."""
    nodes = dict(study.checkpoints)
    for node in study.checkpoints.values():
        if teacher := rollouts_of(node):
            rollouts = Checkpoint(stage="teacher_rollouts", teacher=teacher, labels=node.labels)
            nodes[rollouts_name(teacher, node.labels)] = rollouts
    return nodes


def rollouts_of(node: Checkpoint) -> str | None:
    """Whose stored rollouts a checkpoint trains on: its teacher's, without one its own; None if it uses none."""
    stored = STAGES[node.stage].stored or node.overrides.get("states") == "teacher"
    return (node.teacher or node.from_) if stored else None


def parents_of(node: Checkpoint) -> dict[str, str]:
    """The runs a checkpoint reads, by what it reads them for."""
    parents = {"from": node.from_, "teacher": node.teacher}
    if teacher := rollouts_of(node):
        parents["rollouts"] = rollouts_name(teacher, node.labels)
    return {kind: name for kind, name in parents.items() if name}


def traces_of(name: str, nodes: Mapping[str, Checkpoint], roles: Mapping[str, RoleModel]) -> str | None:
    """The file that holds the answers of a checkpoint's teacher, where that role is a file in this profile."""
    teacher = nodes.get(nodes[name].teacher)
    spec = roles.get(teacher.role) if teacher else None
    return spec.traces if spec else None


def parents_in(name: str, nodes: Mapping[str, Checkpoint], roles: Mapping[str, RoleModel]) -> dict[str, str]:
    """`parents_of` in a profile: a teacher that is a file of traces is read by the stage itself and has no runs."""
    parents = parents_of(nodes[name])
    return {"from": parents["from"]} if "from" in parents and traces_of(name, nodes, roles) else parents
