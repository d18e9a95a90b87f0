"""params/study.yaml: every checkpoint of the papers once, and the tables made of them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from s2d_lib.study.strict import Strict

Stage = Literal[
    "base",
    "teacher_rollouts",
    "sparse_rl",
    "teacher_sft",
    "forward_kl",
    "opd",
    "teacher_sample_sft",
    "self_distillation",
]
Role = Literal["student", "teacher", "large_teacher", "small_teacher", "split_teacher", "outside"]


class Checkpoint(Strict):
    """One named node of the study, free of any profile."""

    stage: Stage
    role: Role | None = None  # of a base checkpoint: which of the profile's models it is
    from_: str | None = Field(None, alias="from")  # the checkpoint whose weights training starts from
    # The checkpoint that supplies the dense signal or the rollouts. Teacher SFT has one, or learns from its own answers.
    teacher: str | None = None
    labels: str | None = None  # the label pool whose problems (or only prompts) are used
    # The optimiser steps of these stages in sum instead of the stage's own: keeps a one-stage control at the same
    # number of updates as the two-stage bridge it is compared with.
    steps_of: list[Stage] | None = None
    overrides: dict[str, object] = Field(default_factory=dict)  # of the stage's hyperparameters
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
            "self_distillation": {"from_", "labels"},
        }[self.stage]
        given = {name for name in ("role", "from_", "teacher", "labels") if getattr(self, name) is not None}
        if given != needs and not (self.stage == "teacher_sft" and given == needs | {"teacher"}):
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
