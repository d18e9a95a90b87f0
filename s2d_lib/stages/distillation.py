"""The dense bridge: matching a teacher's next-token distributions (paper A: Stage 2a forward KL, Stage 2b OPD).

One thin subclass of TRL's DistillationTrainer with two choices: whose states (stored teacher rollouts, or the
student's own rollouts) and which divergence.
"""

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from trl import DistillationConfig, DistillationTrainer
from trl.trainer.utils import maybe_gather_lm_head_ctx

from s2d_lib.errors import StudyError
from s2d_lib.losses import Head, Pair, TokenLoss, estimator
from s2d_lib.models.adapters import lora_config
from s2d_lib.models.policy import CHAT_TEMPLATE_KWARGS
from s2d_lib.models.sharing import in_shards
from s2d_lib.runs import Run
from s2d_lib.stages.clock import Clocked
from s2d_lib.stages.heads import head_of
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.parts import by_length
from s2d_lib.stages.processes import in_processes
from s2d_lib.stages.redirection import Redirection
from s2d_lib.stages.teacher_targets import TeacherTargets, kept_targets
from s2d_lib.stages.training import finished_metrics, run_seed, scheduled, train, trainer_arguments
from s2d_lib.study.problem_sets import LabelBudget
from s2d_lib.study.stage_params import Distillation
from s2d_lib.vllm import check_syncs, vllm_arguments


class DenseTrainer(Clocked, DistillationTrainer):
    """TRL's DistillationTrainer (read from release 1.16) with s2d's loss and, on request, stored completions.

    Overridden hooks, each checked by a test to be still called:
        `_generate_and_score_completions`, `_generate_single_turn`: rows with a `completion_ids` column are not sampled
        but taken as they are (teacher rollouts).
        `_compute_loss`: the divergence straight from hidden states; `compute_loss`: beside TRL's, our own metric.
    """

    def __init__(self, *args, divergence, targets: TeacherTargets | None = None, **kwargs):
        """`divergence` is an estimator of s2d_lib.losses with its options set.

        With `targets` the teacher is not asked: rows need a `rollout` column, their place among the stored rollouts.
        """
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled and self.teacher_model is not None:
            self.teacher_model = in_shards(self.teacher_model, self.accelerator)
        self._forward_redirection = Redirection()
        self.divergence = divergence
        self.targets = targets
        self._stored: list[list[int]] | None = None

    def _generate_and_score_completions(self, inputs):
        self._stored = [row["completion_ids"] for row in inputs] if "completion_ids" in inputs[0] else None
        batch = super()._generate_and_score_completions(inputs)
        if self.targets is not None:  # as a tensor it follows its row when TRL shuffles and splits the batch
            batch["rollout"] = torch.tensor([row["rollout"] for row in inputs])
        return batch

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, has_tool_images=False):
        if self._stored is not None:
            return self._stored
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, has_tool_images)

    def compute_loss(self, *args, **kwargs):
        """TRL's, and the share of tokens on which student and teacher agree, over all processes."""
        loss = super().compute_loss(*args, **kwargs)
        agreement, tokens = self.accelerator.reduce(self._agreed, reduction="sum").tolist()
        if tokens > 0:
            self._metrics["train" if self.model.training else "eval"]["argmax_agreement"].append(agreement / tokens)
        return loss

    def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
        if num_items_in_batch is None:
            num_items_in_batch = inputs["completion_mask"].sum().clamp(min=1)
        parts = [self.part_loss(unwrapped_student, part, num_items_in_batch) for part in by_length(inputs)]
        loss, entropy, agreement, tokens = (sum(values) for values in zip(*parts, strict=True))
        self._agreed = torch.stack([agreement.float(), tokens.float()])
        return loss, entropy, tokens

    def part_loss(self, unwrapped_student, inputs, num_items_in_batch):
        """Loss, entropy, agreements and tokens of some rows of a batch; those of its parts add up to the batch's."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        kept = inputs["completion_ids"].size(1)
        # accelerate's autocast sits on the models' own forward, which no call of a model here goes through.
        with self.accelerator.autocast():
            student_hidden = self._get_last_hidden_state(unwrapped_student, ids, attention, kept)
            if self.targets is not None:
                teacher_hidden, teacher = self.targets.of(inputs["rollout"], inputs["completion_mask"])
            else:
                teacher_hidden, teacher = self.ask_teacher(ids, attention, kept)
        student, mask = head_of(unwrapped_student), inputs["completion_mask"]
        # Of ZeRO-3; FSDP2's the loss gathers itself
        with maybe_gather_lm_head_ctx(student.weight, student.bias, teacher.weight, teacher.bias):
            options = {"temperature": self.temperature, "mask": mask, "normalizer": num_items_in_batch}
            pair = Pair(student_hidden, student, teacher_hidden, teacher, **options)
            result = self.divergence(pair, tokens=inputs["completion_ids"])
        return result.loss, result.entropy.sum(), result.agreement.sum(), mask.sum()

    @torch.no_grad()
    def ask_teacher(self, ids: torch.Tensor, attention: torch.Tensor, kept: int) -> tuple[torch.Tensor, Head]:
        """The teacher's hidden states (B, kept, H), computed, and its head.

        Args:
            ids: (B, L) prompts and completions.
            attention: (B, L), 0 where padded.
            kept: How many positions the completions take at the end.
        """
        self.teacher_model.eval()
        teacher = self.accelerator.unwrap_model(self.teacher_model)
        # Through the teacher's own wrapper, so that sharded parameters are there during the forward pass.
        hidden = self._forward_redirection(
            self.teacher_model, teacher, self._get_last_hidden_state, teacher, ids, attention, kept
        )
        return hidden, head_of(teacher)


@in_processes
def distill(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` towards `inputs.teacher`, on teacher or student states.

    Returns:
        Metrics of every optimiser step (divergence in nats per token, the student's entropy). The run keeps the model
        and the metrics.
    """
    if (done := finished_metrics(run)) is not None:
        return done
    trainer = dense_trainer(run, inputs)
    params = run.resolved.stage_params

    def cost(metrics: pd.DataFrame) -> dict:
        tokens = int((metrics["completions/mean_length"] * params.batch).round().sum())
        fresh = params.states == "student"
        sampled = {"sequences": params.batch * params.steps if fresh else 0, "tokens": tokens if fresh else 0}
        return {"sampled": sampled, "trained_tokens": tokens}

    return train(run, inputs, trainer, f"{run.resolved.checkpoint}: divergence, nats per token", cost)


def dense_trainer(run: Run, inputs: Inputs) -> DenseTrainer:
    """The trainer of a dense stage, before its first step.

    Raises:
        StudyError: Fewer rows than one optimiser step takes, or no room on the disk for kept teacher targets.
    """
    params, policy, sampling = run.resolved.stage_params, inputs.policy, run.resolved.sampling
    rows = _rows(run, inputs)
    if len(rows) * params.group_size < params.batch and not isinstance(run.resolved.problems.pool, LabelBudget):
        raise StudyError(
            f"{run.resolved.checkpoint!r} has {len(rows)} rows to train on but one optimiser step takes {params.batch}: "
            "lower `batch` or enlarge the pool or its rollouts."
        )
    common = trainer_arguments(run, params)
    with run.phase("loading"):
        targets = None if params.teacher_targets == "recompute" else kept_targets(run, inputs)
    if params.estimator == "gold":
        from s2d_lib.stages.gold import GoldTrainer, span_loss  # they build on this file

        asked = inputs.teacher.prompt_ids(inputs.problems.pool)
        loss = span_loss(policy, inputs.teacher, sampling.temperature, beta=params.beta, **common)
        kind = partial(GoldTrainer, teacher=inputs.teacher, prompts=asked, span_loss=loss)
    else:
        model = inputs.teacher.model if targets is None else None
        kind = partial(DenseTrainer, teacher_model=model, divergence=_divergence(params), targets=targets)
    config = DistillationConfig(
        **common,
        beta=params.beta,
        max_completion_length=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or 0,
        chat_template_kwargs=CHAT_TEMPLATE_KWARGS if policy.chat else None,
        **vllm_arguments(run, policy, inputs.problems.pool),
    )
    prompts = params.batch // params.group_size
    trainer = kind(
        model=policy.model,
        args=config,
        train_dataset=scheduled(rows, prompts, params.steps, run_seed(run, "order"), copies=params.group_size),
        processing_class=policy.tokenizer,
        peft_config=lora_config(policy.model, params.lora),
    )
    check_syncs(trainer, run, policy, inputs.problems.pool)
    return trainer


def _divergence(params: Distillation) -> Callable[..., TokenLoss]:
    # Whose states, whose top tokens
    options = {"top_k": params.top_k, "top_k_of": params.states} if params.top_k else {}
    return estimator(params.estimator, beta=params.beta, **options)


def _rows(run: Run, inputs: Inputs) -> list[dict]:
    """What one pass over the data is: a row a problem, or a row a stored teacher rollout."""
    policy = inputs.policy
    if run.resolved.params["states"] == "student":
        return [{"prompt": policy.prompt(p), "problem": i} for i, p in enumerate(inputs.problems.pool)]
    prompts = {p.id: policy.prompt(p) for p in inputs.problems.pool}
    return [
        {"prompt": prompts[r.problem], "completion_ids": list(r.ids), "rollout": i}
        for i, r in enumerate(inputs.rollouts)
    ]
