"""The hyperparameters of every stage but self-distillation, which has a file of its own."""

from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from s2d_lib.study.lora import Lora
from s2d_lib.study.strict import Strict


class Training(Strict):
    """What every training stage has."""

    # Optimiser steps. Stages that use labels take half of them on a half of the pool `full` (see s2d_lib.study.resolve).
    steps: PositiveInt
    learning_rate: float = Field(gt=0)
    batch: PositiveInt  # sequences in one optimiser step
    micro_batch: PositiveInt  # sequences in one forward-backward pass; must divide `batch`
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    save_steps: PositiveInt = 50  # a killed run resumes from the last of these
    # Problems whose prompt is longer are left out of the pool, with a word on how many; null: none is.
    max_prompt_tokens: PositiveInt | None = Field(None, exclude_if=lambda value: value is None)
    # null: all weights are trained. Then it is not in the dump either, so that runs made before it was there keep their hash.
    lora: Lora | None = Field(None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self):
        if self.batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch {self.batch}")
        return self


class TeacherSFT(Training):
    """Next-token training of a teacher on answers: an outside model's, or its own."""

    filter: bool = (
        False  # learn only answers that the labels say are right, which uses labels; else all, on prompts alone
    )


class TeacherSampleSFT(Training):
    """Next-token training on a teacher's stored answers, right or wrong."""

    # Which of them: all samples, or of each problem the one that the teacher finds likeliest, the best guess at its mode
    # (sequence-level distillation; Kim and Rush, arXiv 1606.07947, search it with a beam).
    answers: Literal["all", "likeliest"] = Field("all", exclude_if=lambda value: value == "all")


class GroupRelative(Training):
    """Training on groups of rollouts of one prompt, each compared with the others."""

    group_size: int  # rollouts of one prompt; `batch` counts rollouts
    epsilon_low: float = Field(0.2, gt=0)
    epsilon_high: float = Field(0.28, gt=0)  # asymmetric clip
    scale_rewards: Literal["group", "batch", "none"] = "group"
    # Optimiser steps that share one sampling of rollouts, each of which is used in one of them (paper B's GRPO: 4).
    steps_per_sampling: PositiveInt = 1
    # Highest weight of a token by which GRPO's loss is corrected for vLLM's probabilities of what it sampled being others than
    # the model's own (truncated importance sampling). null: the stage's own way, which is TRL's in sparse_rl, and no correction
    # in self_distillation.
    importance_cap: float | None = Field(None, gt=0, exclude_if=lambda value: value is None)
    mask_truncated: bool = True  # rollouts cut off by the length limit carry no gradient

    @field_validator("group_size")
    @classmethod
    def _someone_to_compare_with(cls, size: int) -> int:
        if size < 2:
            raise ValueError("a group needs 2 rollouts or more, or there is nobody to compare a rollout with")
        return size

    @model_validator(mode="after")
    def _whole_groups(self):
        if self.batch % self.group_size:
            raise ValueError(f"group_size {self.group_size} does not divide batch {self.batch}")
        return self

    @model_validator(mode="after")
    def _saved_where_rollouts_are_sampled(self):
        if self.save_steps % self.steps_per_sampling:
            raise ValueError(
                f"steps_per_sampling {self.steps_per_sampling} does not divide save_steps {self.save_steps}: a killed run "
                "can only resume where rollouts are sampled"
            )
        return self

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

    # As everywhere in GroupRelative, and not in the dump where it is 1.
    steps_per_sampling: PositiveInt = Field(1, exclude_if=lambda value: value == 1)
    kl_coefficient: float = Field(0.0, ge=0)  # of the divergence from the model that the stage begins with
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
    group_size: PositiveInt = Field(1, exclude_if=lambda value: value == 1)
    # What the teacher says of stored rollouts: computed in every epoch, or once and kept.
    teacher_targets: Literal["recompute", "hidden_states"] = "recompute"

    @model_validator(mode="after")
    def _options_only_where_read(self):
        if (self.estimator == "topk_tail") != (self.top_k is not None):
            raise ValueError("`top_k` belongs to estimator topk_tail, and to no other")
        if self.group_size > 1 and self.states == "teacher":
            raise ValueError("`group_size` is of the student's own rollouts: stored ones say how many a prompt has")
        if self.batch % self.group_size:
            raise ValueError(f"group_size {self.group_size} does not divide batch {self.batch}")
        if self.teacher_targets != "recompute" and self.states != "teacher":
            raise ValueError(
                f"teacher_targets {self.teacher_targets} are kept of stored rollouts: they need states teacher"
            )
        if self.estimator == "sampled_token" and (self.states != "student" or self.beta != 1):
            raise ValueError(
                "estimator sampled_token is reverse KL on the student's own samples: states student, beta 1"
            )
        if self.estimator == "gold" and (self.states != "student" or self.beta in (0, 1)):
            # Of two vocabularies it compares only what both have, whose masses differ: no KL, which would fall below 0
            raise ValueError(
                "estimator gold is a JSD on the student's own samples: states student, beta between 0 and 1"
            )
        return self


class TeacherRollouts(Strict):
    """Sampling the teacher once, for every stage that trains on its rollouts."""

    samples_per_problem: PositiveInt
