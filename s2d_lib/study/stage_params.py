"""The stages: the hyperparameters of each, and all else that the study must know of one before it can run.

A new stage is an entry in STAGES, its hyperparameters and the function that trains it (docs/how_to_add_a_method.md); or a method,
a file of its own that has all three (s2d_lib.study.methods).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from string import Formatter
from typing import Any, Literal, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_serializer

from s2d_lib.study.settings import Lora
from s2d_lib.study.strict import Strict, unless


class Training(Strict):
    """What every training stage has."""

    # Optimiser steps. Stages that use labels take half of them on a half of the pool `full` (see s2d_lib.study.resolve).
    steps: PositiveInt
    learning_rate: PositiveFloat
    batch: PositiveInt  # sequences in one optimiser step
    micro_batch: PositiveInt  # sequences in one forward-backward pass; must divide `batch`
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    max_grad_norm: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 0.0
    save_steps: PositiveInt = 50  # a killed run resumes from the last of these
    # Problems whose prompt is longer are left out of the pool, with a word on how many; null: none is.
    max_prompt_tokens: PositiveInt | None = unless(None)
    lora: Lora | None = unless(None)  # null: all weights are trained

    def _refusals(self):
        if hasattr(self, "group_size"):
            yield self.batch % self.group_size, f"group_size {self.group_size} does not divide batch {self.batch}"
        yield self.batch % self.micro_batch, f"micro_batch {self.micro_batch} does not divide batch {self.batch}"


class TeacherSFT(Training):
    """Next-token training of a teacher on answers: an outside model's, or its own."""

    filter: bool = False  # learn only answers that are right by the labels, which uses them; else all, on prompts alone


class TeacherSampleSFT(Training):
    """Next-token training on a teacher's stored answers, right or wrong."""

    # Which of them: all samples, or of each problem the one that the teacher finds likeliest, the best guess at its mode
    # (sequence-level distillation; Kim and Rush, arXiv 1606.07947, search it with a beam).
    answers: Literal["all", "likeliest"] = unless("all")


class GroupRelative(Training):
    """Training on groups of rollouts of one prompt, each compared with the others."""

    group_size: int  # rollouts of one prompt; `batch` counts rollouts
    epsilon_low: PositiveFloat = 0.2
    epsilon_high: PositiveFloat = 0.28  # asymmetric clip
    scale_rewards: Literal["group", "batch", "none"] = "group"
    # Optimiser steps that share one sampling of rollouts, each of which is used in one of them (paper B's GRPO: 4).
    steps_per_sampling: PositiveInt = 1
    # Highest weight of a token by which GRPO's loss is corrected for vLLM's probabilities of what it sampled being others than
    # the model's own (truncated importance sampling). null: the stage's own way, which is TRL's in sparse_rl, and no correction
    # in self_distillation.
    importance_cap: PositiveFloat | None = unless(None)
    mask_truncated: bool = True  # rollouts cut off by the length limit carry no gradient

    def _refusals(self):
        yield self.group_size < 2, f"a group needs 2 rollouts or more to be compared, given {self.group_size}"
        yield from super()._refusals()
        between = f"steps_per_sampling {self.steps_per_sampling} does not divide save_steps {self.save_steps}"
        yield self.save_steps % self.steps_per_sampling, f"{between}, and a killed run can only resume where it samples"

    @property
    def per_sampling(self) -> int:
        """Rollouts sampled at a time."""
        return self.batch * self.steps_per_sampling

    @property
    def samplings(self) -> int:
        """How often rollouts are sampled; what the last time samples for steps that are not taken is left over."""
        return -(-self.steps // self.steps_per_sampling)


class SparseRL(GroupRelative):
    """GRPO with a 0/1 task reward (paper A: Stage 1, Stage 3 and cold RL)."""

    steps_per_sampling: PositiveInt = unless(1)  # as everywhere in GroupRelative
    kl_coefficient: NonNegativeFloat = 0.0  # of the divergence from the model that the stage begins with
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = "dapo"  # not bnpo: its mean is over a micro-batch, not the batch


class Distillation(Training):
    """Dense matching of a teacher's next-token distributions (paper A: Stages 2a and 2b)."""

    states: Literal["teacher", "student"]  # whose rollouts supply the states
    beta: float = Field(ge=0, le=1)  # 0 forward KL, 1 reverse KL, between: generalised JSD
    # gold is for a teacher of another vocabulary (s2d_lib.stages.gold); the others compare one.
    estimator: Literal["full", "topk_tail", "sampled_token", "gold"] = "full"
    # Only for topk_tail: tokens kept apart from the tail bucket, the most likely ones of the model whose states they are.
    top_k: PositiveInt | None = None
    # The student's own rollouts of one prompt in one optimiser step; `batch` counts rollouts.
    group_size: PositiveInt = unless(1)
    # What the teacher says of stored rollouts: computed in every epoch, or once and kept.
    teacher_targets: Literal["recompute", "hidden_states"] = "recompute"

    def _refusals(self):
        yield from super()._refusals()
        stored, by = self.states == "teacher", self.estimator
        yield (by == "topk_tail") != (self.top_k is not None), "`top_k` belongs to estimator topk_tail, and to no other"
        prompts = "`group_size` is of the student's own rollouts: stored ones say how many a prompt has"
        yield self.group_size > 1 and stored, prompts
        kept = f"teacher_targets {self.teacher_targets} are kept of stored rollouts: they need states teacher"
        yield self.teacher_targets != "recompute" and not stored, kept
        reverse = "estimator sampled_token is reverse KL on the student's own samples: states student, beta 1"
        yield by == "sampled_token" and (stored or self.beta != 1), reverse
        # Of two vocabularies it compares only what both have, whose masses differ: no KL, which would fall below 0
        between = "estimator gold is a JSD on the student's own samples: states student, beta between 0 and 1"
        yield by == "gold" and (stored or self.beta in (0, 1)), between


class TeacherRollouts(Strict):
    """Sampling the teacher once, for every stage that trains on its rollouts."""

    samples_per_problem: PositiveInt


TRLS_REPROMPT = "{question}\nCorrect solution:\n\n{solution}\n\n\n\nCorrectly solve the original question.\n"
"""What TRL 1.16's SDPOTrainer shows its self-teacher by default."""

Method = Literal["grpo", "sdpo", "srpo", "advantage_mix"]
METHODS = get_args(Method)
SELF_TAUGHT = ("sdpo", "srpo", "advantage_mix")
READ_BY = {
    **dict.fromkeys(
        ("epsilon_low", "epsilon_high", "scale_rewards", "importance_cap"), ("grpo", "srpo", "advantage_mix")
    ),
    **dict.fromkeys(("ema_rate", "reprompt", "feedback_reprompt", "max_reprompt_tokens"), SELF_TAUGHT),
    **dict.fromkeys(("beta", "top_k", "ratio_clamp"), ("sdpo", "srpo")),
    **dict.fromkeys(("dynamic_weighting", "weight_beta"), ("srpo",)),
    "sdpo_on": ("sdpo",),
    "mix": ("advantage_mix",),
}
"""Option -> the methods that read it; all other options are read by every method."""


class SelfDistillation(GroupRelative):
    """SDPO, SRPO and their controls (paper B), and GRPO by the same trainer; the loss is the mean over the routed tokens of an
    optimiser batch. An option that the method does not read is refused, and is not in the dump."""

    method: Method
    sdpo_on: Literal["all", "failed", "correct"] = "all"  # which of the rollouts with a self-teacher SDPO learns from
    threshold: float | None = None  # a rollout is correct from this reward on; not needed for rewards of 0 and 1

    beta: float = Field(0.5, ge=0, le=1)  # of the divergence: 0 forward KL, 1 reverse KL, between: generalised JSD
    top_k: PositiveInt | None = 100  # the student's most likely tokens, all others one bucket; null: whole vocabulary
    ratio_clamp: PositiveFloat | None = 2.0  # highest importance ratio; null: no importance sampling
    dynamic_weighting: bool = True  # entropy-aware weights of SRPO's SDPO tokens
    weight_beta: NonNegativeFloat = 1.0  # per nat of the self-teacher's entropy
    mix: float = Field(0.9, ge=0, le=1)  # of GRPO's advantage; the rest is the self-teacher's

    ema_rate: float = Field(0.05, ge=0, le=1)  # at which the self-teacher's weights follow the student's
    reprompt: str = TRLS_REPROMPT  # what the self-teacher is shown of a correct sibling
    feedback_reprompt: str | None = None  # of the problem's feedback, where no sibling is correct; null: nothing
    # Longer reprompts lose the beginning of their solution; null: as many tokens as the model's context leaves.
    max_reprompt_tokens: PositiveInt | None = None

    # Training stops when the completions of the last `length_window` steps are shorter than this many tokens on average.
    length_floor: PositiveFloat | None = None
    length_window: PositiveInt = 10

    @classmethod
    def unread(cls, content: dict[str, Any]) -> dict[str, str]:
        """Options that nothing reads beside the others in `content`: name -> why."""
        method = content.get("method")
        others = {name: readers for name, readers in READ_BY.items() if method not in readers}
        found = {name: f"method {method} (only by {', '.join(readers)})" for name, readers in others.items()}
        if method == "srpo" and not content.get("dynamic_weighting", True):
            found["weight_beta"] = "srpo without dynamic_weighting"
        if content.get("length_floor") is None:
            found["length_window"] = "a run without length_floor"
        return found

    def _refusals(self):
        yield from super()._refusals()
        for name, why in self.unread(dict(self)).items():
            yield name in self.model_fields_set, f"`{name}` is not read by {why}: leave it out"
        for template, shown in ((self.reprompt, "solution"), (self.feedback_reprompt, "feedback")):
            wanted = ["question", shown]
            wrong = f"a reprompt has the placeholders {{question}} and {{{shown}}}, each once, no others, and other braces twice"
            yield template is not None and sorted(_placeholders(template)) != sorted(wanted), wrong

    @model_serializer(mode="wrap")
    def _only_what_is_read(self, handler) -> dict[str, Any]:
        content = handler(self)
        return {name: value for name, value in content.items() if name not in self.unread(content)}


def _placeholders(template: str) -> list[str]:
    """Of a template for `str.format`; none of what is no template."""
    try:
        return [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        return []


@dataclass(frozen=True)
class Stage:
    """What the study knows of a stage."""

    needs: frozenset[str]  # what a checkpoint of it says in study.yaml: `role`, `from`, `teacher`, `labels`
    params: type[Strict] | None = None  # the type of its hyperparameters; a base model has none
    # What trains it: a function from a run and its inputs to metrics, or the name of one as `module:function` of s2d_lib.stages.
    train: str | Callable | None = None
    notebook: str = "45_any_stage.ipynb"  # that runs it
    may_have: frozenset[str] = frozenset()  # what a checkpoint may say besides
    stored: bool = False  # it trains on a teacher's stored rollouts, whatever its hyperparameters say
    next_token: bool = False  # it learns sampled tokens and never runs a teacher
    graded: bool = False  # it grades answers against labels; else it uses the prompts of a label pool alone
    # Every optimiser step trains on completions that it samples, whatever its hyperparameters say
    samples: bool = False
    halved: bool = False  # it takes half of its steps on a half of the labels
    # The stage whose hyperparameters in a profile are its own too, where that says nothing else
    like: str | None = None
    code: str | None = None  # SHA-256 of its file, where that lies outside of the package: it is part of a run's hash


ALONE, TAUGHT = frozenset({"from", "labels"}), frozenset({"from", "teacher", "labels"})
STAGES: dict[str, Stage] = {
    "base": Stage(frozenset({"role"}), notebook="50_evaluate.ipynb"),
    "teacher_rollouts": Stage(frozenset({"teacher", "labels"}), TeacherRollouts, notebook="30_forward_kl_warmup.ipynb"),
    "sparse_rl": Stage(ALONE, SparseRL, "rl:sparse_rl", "20_sparse_rl.ipynb", graded=True, samples=True, halved=True),
    "teacher_sft": Stage(
        ALONE,
        TeacherSFT,
        "sft:learn_answers",
        "21_teacher_sft.ipynb",
        may_have=frozenset({"teacher"}),
        stored=True,
        next_token=True,
        halved=True,
    ),
    "forward_kl": Stage(TAUGHT, Distillation, "dense:distill", "30_forward_kl_warmup.ipynb", stored=True),
    "opd": Stage(TAUGHT, Distillation, "dense:distill", "31_opd.ipynb"),
    "teacher_sample_sft": Stage(
        TAUGHT,
        TeacherSampleSFT,
        "sft:learn_answers",
        "32_teacher_sample_sft.ipynb",
        stored=True,
        next_token=True,
    ),
    "self_distillation": Stage(
        ALONE,
        SelfDistillation,
        "self_distillation:self_distill",
        "40_self_distillation.ipynb",
        graded=True,
        samples=True,
        halved=True,
    ),
}
"""Every stage by its name."""


def like(stage: str, params: type[Strict], **changes: object) -> Stage:
    """A stage like another one but for these changes: what a profile says of that one counts for it too. `params` are the other's
    with more."""
    given = {"notebook": Stage.notebook, "train": None} | changes
    return replace(STAGES[stage], params=params, like=stage, **given)


from s2d_lib.study.methods import join  # noqa: E402 (what a method's file imports from here is there by now)

join(STAGES)
TRAINED = tuple(name for name, stage in STAGES.items() if stage.params and issubclass(stage.params, Training))
"""Names of the stages that train."""
DENSE = tuple(name for name, stage in STAGES.items() if stage.params and issubclass(stage.params, Distillation))
"""Those that match a teacher's distributions."""
