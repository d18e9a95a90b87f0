"""The hyperparameters of self-distillation (paper B): one stage, four methods, and what each of them reads."""

from string import Formatter
from typing import Any, Literal, get_args

from pydantic import Field, PositiveInt, field_validator, model_serializer, model_validator

from s2d_lib.study.stage_params import GroupRelative

TRLS_REPROMPT = "{question}\nCorrect solution:\n\n{solution}\n\n\n\nCorrectly solve the original question.\n"
"""What TRL 1.16's SDPOTrainer shows its self-teacher by default."""

Method = Literal["grpo", "sdpo", "srpo", "advantage_mix"]
METHODS = get_args(Method)
POLICY_GRADIENT = ("grpo", "srpo", "advantage_mix")
SELF_TAUGHT = ("sdpo", "srpo", "advantage_mix")
DIVERGENCE = ("sdpo", "srpo")
READ_BY = {
    **dict.fromkeys(("epsilon_low", "epsilon_high", "scale_rewards", "importance_cap"), POLICY_GRADIENT),
    **dict.fromkeys(("ema_rate", "reprompt", "feedback_reprompt", "max_reprompt_tokens"), SELF_TAUGHT),
    **dict.fromkeys(("beta", "top_k", "ratio_clamp"), DIVERGENCE),
    **dict.fromkeys(("dynamic_weighting", "weight_beta"), ("srpo",)),
    "sdpo_on": ("sdpo",),
    "mix": ("advantage_mix",),
}
"""Option -> the methods that read it; all other options are read by every method."""


class SelfDistillation(GroupRelative):
    """SDPO, SRPO and their controls (paper B), and GRPO by the same trainer.

    An option that the method does not read is refused, and is not in the dump. The loss is always the sum over the routed
    tokens of an optimiser batch divided by their number.
    """

    method: Method
    sdpo_on: Literal["all", "failed", "correct"] = "all"  # which of the rollouts with a self-teacher SDPO learns from
    threshold: float | None = None  # a rollout is correct from this reward on; not needed for rewards of 0 and 1

    beta: float = Field(0.5, ge=0, le=1)  # of the divergence: 0 forward KL, 1 reverse KL, between: generalised JSD
    top_k: PositiveInt | None = 100  # the student's most likely tokens, all others one bucket; null: whole vocabulary
    ratio_clamp: float | None = Field(2.0, gt=0)  # highest importance ratio; null: no importance sampling
    dynamic_weighting: bool = True  # entropy-aware weights of SRPO's SDPO tokens
    weight_beta: float = Field(1.0, ge=0)  # per nat of the self-teacher's entropy
    mix: float = Field(0.9, ge=0, le=1)  # of GRPO's advantage; the rest is the self-teacher's

    ema_rate: float = Field(0.05, ge=0, le=1)  # at which the self-teacher's weights follow the student's
    reprompt: str = TRLS_REPROMPT  # what the self-teacher is shown of a correct sibling
    feedback_reprompt: str | None = None  # of the problem's feedback, where no sibling is correct; null: nothing
    # Longer reprompts lose the beginning of their solution; null: as many tokens as the model's context leaves.
    max_reprompt_tokens: PositiveInt | None = None

    # Training stops when the completions of the last `length_window` steps are shorter than this many tokens on average.
    length_floor: float | None = Field(None, gt=0)
    length_window: PositiveInt = 10

    @classmethod
    def unread(cls, content: dict[str, Any]) -> dict[str, str]:
        """Options that nothing reads beside the others in `content`: name -> why."""
        method = content.get("method")
        found = {
            name: f"method {method} (only by {', '.join(readers)})"
            for name, readers in READ_BY.items()
            if method not in readers
        }
        if method == "srpo" and not content.get("dynamic_weighting", True):
            found["weight_beta"] = "srpo without dynamic_weighting"
        if content.get("length_floor") is None:
            found["length_window"] = "a run without length_floor"
        return found

    @field_validator("reprompt")
    @classmethod
    def _shows_question_and_solution(cls, template: str) -> str:
        return _with_placeholders(template, {"question", "solution"})

    @field_validator("feedback_reprompt")
    @classmethod
    def _shows_question_and_feedback(cls, template: str | None) -> str | None:
        return template if template is None else _with_placeholders(template, {"question", "feedback"})

    @model_validator(mode="after")
    def _options_only_where_read(self):
        content = {name: getattr(self, name) for name in self.__class__.model_fields}
        for name, why in self.unread(content).items():
            if name in self.model_fields_set:
                raise ValueError(f"`{name}` is not read by {why}: leave it out")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_read(self, handler) -> dict[str, Any]:
        content = handler(self)
        return {name: value for name, value in content.items() if name not in self.unread(content)}


def _with_placeholders(template: str, needed: set[str]) -> str:
    """The template, after a look at whether it has each of the placeholders once and no others."""
    shown = " and ".join(f"{{{name}}}" for name in sorted(needed, reverse=True))
    try:
        found = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"not a template ({error}): a brace that is meant as one is written twice") from None
    if sorted(found) != sorted(needed):
        raise ValueError(f"a reprompt has the placeholders {shown}, each once and no others")
    return template


def laid_over(stage: str, below: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a stage with changes laid over them.

    Where the changes choose another method of self-distillation, options that it does not read stay behind; those that
    the changes themselves ask for do not, and are refused.
    """
    content = below | changes
    if stage != "self_distillation":
        return content
    unread = SelfDistillation.unread(content)
    return {name: value for name, value in content.items() if name in changes or name not in unread}
