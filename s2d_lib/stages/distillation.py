"""The dense bridge: matching a teacher's next-token distributions (paper A: Stage 2a forward KL, Stage 2b OPD).

One thin subclass of TRL's DistillationTrainer with two choices: whose states (stored teacher rollouts, or the
student's own rollouts) and which divergence.
"""

import pandas as pd
import torch
from datasets import Dataset
from trl import DistillationConfig, DistillationTrainer

from s2d_lib.errors import StudyError
from s2d_lib.losses import estimator
from s2d_lib.policies.policy import CHAT_TEMPLATE_KWARGS
from s2d_lib.runs import Run
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.training import finished_metrics, run_seed, schedule, train, trainer_arguments


class DenseTrainer(DistillationTrainer):
    """TRL's DistillationTrainer (read from release 1.16) with s2d's loss and, on request, stored completions.

    Overridden hooks, each checked by a test to be still called:
        `_generate_and_score_completions`, `_generate_single_turn`: rows with a `completion_ids` column are not sampled
        but taken as they are (teacher rollouts). `_compute_loss`: the divergence straight from hidden states.
    """

    def __init__(self, *args, divergence, **kwargs):
        """`divergence` is an estimator of s2d_lib.losses with beta and its other options set."""
        super().__init__(*args, **kwargs)
        self.divergence = divergence
        self._stored: list[list[int]] | None = None

    def _generate_and_score_completions(self, inputs):
        self._stored = [row["completion_ids"] for row in inputs] if "completion_ids" in inputs[0] else None
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, has_tool_images=False):
        if self._stored is not None:
            return self._stored
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, has_tool_images)

    def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        kept = inputs["completion_ids"].size(1)
        self.teacher_model.eval()
        unwrapped_teacher = self.accelerator.unwrap_model(self.teacher_model)
        # accelerate's autocast sits on the models' own forward, which neither of these two calls goes through.
        with self.accelerator.autocast():
            student_hidden = self._get_last_hidden_state(unwrapped_student, ids, attention, kept)
            with torch.no_grad():
                # Through the teacher's own wrapper, so that sharded parameters are there during the forward pass.
                teacher_hidden = self._forward_redirection(
                    self.teacher_model,
                    unwrapped_teacher,
                    self._get_last_hidden_state,
                    unwrapped_teacher,
                    ids,
                    attention,
                    kept,
                )
        student_head, teacher_head = (
            unwrapped_student.get_output_embeddings(),
            unwrapped_teacher.get_output_embeddings(),
        )
        result = self.divergence(
            student_hidden,
            student_head.weight,
            teacher_hidden,
            teacher_head.weight,
            temperature=self.temperature,
            mask=inputs["completion_mask"],
            normalizer=num_items_in_batch,
            student_bias=student_head.bias,
            teacher_bias=teacher_head.bias,
            **_head_arguments("student", unwrapped_student.config.get_text_config()),
            **_head_arguments("teacher", unwrapped_teacher.config.get_text_config()),
            tokens=inputs["completion_ids"],
        )
        mode = "train" if self.model.training else "eval"
        if result.n_tokens > 0:
            self._metrics[mode]["argmax_agreement"].append((result.agreement_sum / result.n_tokens).item())
        return result.loss, result.entropy_sum, result.n_tokens


def _head_arguments(side: str, config) -> dict:
    """How a model turns its head's output into logits, under the names that the models TRL supports use for it."""
    scale = next(
        (
            v
            for n in ("logit_scale", "output_multiplier", "lm_head_multiplier")
            if (v := getattr(config, n, None)) is not None
        ),
        None,
    )
    scaling = getattr(config, "logits_scaling", None)
    if scale is None and scaling is not None:  # Granite divides by it, HyperCLOVA X multiplies
        scale = scaling if config.model_type == "hyperclovax" else 1 / scaling
    return {
        f"{side}_logit_scale": 1.0 if scale is None else scale,
        f"{side}_softcap": getattr(config, "final_logit_softcapping", None),
    }


def distill(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` towards `inputs.teacher`, on teacher or student states.

    Returns:
        Metrics of every optimiser step (divergence in nats per token, the student's entropy). The run keeps the model
        and the metrics.
    """
    if (done := finished_metrics(run)) is not None:
        return done
    params, policy, sampling = run.resolved.stage_params, inputs.policy, run.resolved.sampling
    rows = _rows(run, inputs)
    if len(rows) < params.batch:
        raise StudyError(
            f"{run.resolved.checkpoint!r} has {len(rows)} rows to train on but one optimiser step takes {params.batch}: "
            "lower `batch` or enlarge the pool or its rollouts."
        )
    config = DistillationConfig(
        **trainer_arguments(run, params),
        beta=params.beta,
        max_completion_length=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        chat_template_kwargs=CHAT_TEMPLATE_KWARGS if policy.chat else None,
    )
    options = {"top_k": params.top_k} if params.top_k else {}
    trainer = DenseTrainer(
        model=policy.model,
        teacher_model=inputs.teacher.model,
        args=config,
        train_dataset=Dataset.from_list(schedule(rows, params.batch, params.steps, run_seed(run, "order"))),
        processing_class=policy.tokenizer,
        divergence=estimator(params.estimator, beta=params.beta, **options),
    )

    def cost(metrics: pd.DataFrame) -> dict:
        tokens = int((metrics["completions/mean_length"] * params.batch).round().sum())
        fresh = params.states == "student"
        sampled = {"sequences": params.batch * params.steps if fresh else 0, "tokens": tokens if fresh else 0}
        return {"sampled": sampled, "trained_tokens": tokens}

    return train(run, policy, trainer, f"{run.resolved.checkpoint}: divergence, nats per token", cost)


def _rows(run: Run, inputs: Inputs) -> list[dict]:
    """What one pass over the data is: a row a problem, or a row a stored teacher rollout."""
    policy = inputs.policy
    if run.resolved.params["states"] == "student":
        return [{"prompt": policy.prompt(p.prompt)} for p in inputs.problems.pool]
    prompts = {p.id: p.prompt for p in inputs.problems.pool}
    return [{"prompt": policy.prompt(prompts[r.problem]), "completion_ids": list(r.ids)} for r in inputs.rollouts]
