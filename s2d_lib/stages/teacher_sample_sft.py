"""Teacher-sample SFT: hard-label next-token training on the teacher's rollouts, right or wrong (paper A's control).

It needs no more of a teacher than its text, so it is a way also from one of another vocabulary (s2d_lib.sampling.by_text).
"""

from dataclasses import replace

import pandas as pd
from trl import SFTConfig, SFTTrainer

from s2d_lib.errors import StudyError
from s2d_lib.models.adapters import lora_config
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout
from s2d_lib.stages.clock import Clocked
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.processes import in_processes
from s2d_lib.stages.training import finished_metrics, run_seed, schedule, scheduled, train, trainer_arguments


class SampleTrainer(Clocked, SFTTrainer):
    """TRL's SFTTrainer with a clock.

    Attributes:
        trained_tokens: That carry loss in all steps together.
    """

    trained_tokens: int


@in_processes
def teacher_sample_sft(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` on the stored teacher rollouts' tokens; only completion tokens carry loss. With `answers: likeliest`
    on one rollout a problem.

    Returns:
        Metrics of every optimiser step. The run keeps the model and the metrics.
    """
    if (done := finished_metrics(run)) is not None:
        return done
    if run.resolved.stage_params.answers == "likeliest":
        inputs = replace(inputs, rollouts=likeliest(inputs.rollouts))
    return train_on_samples(run, inputs, sample_trainer(run, inputs))


def likeliest(rollouts: list[Rollout]) -> list[Rollout]:
    """Of each problem the rollout that its teacher finds likeliest, the first of equals; problems in their order."""
    best: dict[str, Rollout] = {}
    for r in rollouts:
        if r.problem not in best or r.log_prob > best[r.problem].log_prob:
            best[r.problem] = r
    return list(best.values())


def train_on_samples(run: Run, inputs: Inputs, trainer: SampleTrainer, **facts: object) -> pd.DataFrame:
    """Train on stored tokens; `facts` join the record with the steps and tokens that training took.

    Returns:
        Metrics of every optimiser step.
    """
    cost = {"sampled": {"sequences": 0, "tokens": 0}, "trained_tokens": trainer.trained_tokens, **facts}
    return train(run, inputs, trainer, f"{run.resolved.checkpoint}: loss, nats per token", lambda metrics: cost)


def sample_trainer(run: Run, inputs: Inputs) -> SampleTrainer:
    """The trainer of next-token loss on `inputs.rollouts`, before its first step.

    Raises:
        StudyError: Fewer rollouts than one optimiser step takes.
    """
    params, policy = run.resolved.stage_params, inputs.policy
    problems = inputs.problems.pool
    prompt_ids = dict(zip((p.id for p in problems), policy.prompt_ids(problems), strict=True))
    rows = [
        {
            "input_ids": [*prompt_ids[r.problem], *r.ids],
            "labels": [-100] * len(prompt_ids[r.problem]) + list(r.ids),
        }
        for r in inputs.rollouts
    ]
    if len(rows) < params.batch:
        raise StudyError(
            f"{run.resolved.checkpoint!r} has {len(rows)} rollouts but one optimiser step takes {params.batch}: lower "
            "`batch` or raise teacher_rollouts.samples_per_problem."
        )
    order = params.batch, params.steps, run_seed(run, "order")
    config = SFTConfig(
        **trainer_arguments(run, params), max_length=None, packing=False, train_sampling_strategy="sequential"
    )
    trainer = SampleTrainer(
        model=policy.model,
        args=config,
        train_dataset=scheduled(rows, *order),
        processing_class=policy.tokenizer,
        peft_config=lora_config(policy.model, params.lora),
    )
    trainer.trained_tokens = sum(len(inputs.rollouts[i].ids) for i in schedule(len(rows), *order))
    return trainer
