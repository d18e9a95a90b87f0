"""Self-distillation: SDPO, SRPO and their controls on a label pool (paper B), and GRPO by the same trainer."""

import pandas as pd
from trl import GRPOConfig

from s2d_lib.errors import StudyError
from s2d_lib.grading import make_reward
from s2d_lib.models.adapters import lora_config
from s2d_lib.models.policy import CHAT_TEMPLATE_KWARGS, Policy
from s2d_lib.problems.base import Problem
from s2d_lib.runs import Run
from s2d_lib.stages.collapse import StopOnCollapse
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.processes import in_processes
from s2d_lib.stages.reprompt import Reprompts
from s2d_lib.stages.self_distillation_trainer import SelfDistillationTrainer
from s2d_lib.stages.sparse_rl import RecordedReward, capped, label_cost, resumed_step
from s2d_lib.stages.training import finished_metrics, run_seed, scheduled, train, trainer_arguments
from s2d_lib.study.stage_params import SELF_TAUGHT
from s2d_lib.vllm import check_syncs, vllm_arguments


@in_processes
def self_distill(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` with the stage's method on the label pool.

    Returns:
        Metrics of every optimiser step; beside GRPO's, `accuracy`, `formed` (share of well-formed answers),
        `routed/grpo` and `routed/sdpo` (shares of all valid tokens) and, where there is a self-teacher, over the tokens
        that it scored: `self_teacher/entropy`,
        `self_teacher/student_entropy`, `self_teacher/kl` (student to self-teacher; nats), `self_teacher/tokens` (how
        many), `self_teacher/mean_weight` (of SRPO, before the weights are normalised). Empty where there was nothing to
        average. The run keeps the model, the metrics and gradings.jsonl.
    """
    if (done := finished_metrics(run)) is not None:
        return done
    trainer = self_distillation_trainer(run, inputs)
    account = run.path("gradings.jsonl")

    def cost(metrics: pd.DataFrame) -> dict:
        scored = [metrics[f"self_teacher/{kind}"].sum() for kind in ("tokens", "prompt_tokens") if trainer.self_teacher]
        names = ("self_teacher_tokens", "self_teacher_prompt_tokens")
        return label_cost(account) | dict(zip(names, map(round, scored), strict=False))

    return train(run, inputs, trainer, f"{run.resolved.checkpoint}: reward", cost)


def self_distillation_trainer(run: Run, inputs: Inputs) -> SelfDistillationTrainer:
    """The stage's trainer, before its first step (of a resumed run: before its next one).

    Raises:
        StudyError: Reprompts that do not fit into the model's context; feedback is asked for and no problem has any.
    """
    params, policy, sampling = run.resolved.stage_params, inputs.policy, run.resolved.sampling
    prompts = params.per_sampling // params.group_size
    rows = [_row(policy, problem) for problem in inputs.problems.pool]
    config = GRPOConfig(
        **trainer_arguments(run, params),
        steps_per_generation=params.per_sampling // params.micro_batch // run.resolved.hardware.processes,
        num_generations=params.group_size,
        max_completion_length=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or 0,
        beta=0.0,
        scale_rewards=params.scale_rewards,
        mask_truncated_completions=params.mask_truncated,
        chat_template_kwargs=CHAT_TEMPLATE_KWARGS if policy.chat else None,
        # The losses' own ratios are to this model's log-probabilities at the time of sampling, also where vLLM sampled: for
        # what the engine computes otherwise GRPO's loss is corrected with importance_cap alone.
        vllm_importance_sampling_correction=params.importance_cap is not None,
        **capped(params.importance_cap),
        **vllm_arguments(run, policy, inputs.problems.pool),
    )
    reward = RecordedReward(make_reward(inputs.problems.grading), run.path("gradings.jsonl"), resumed_step(run))
    trainer = SelfDistillationTrainer(
        model=policy.model,
        params=params,
        reprompts=_reprompts(run, inputs) if params.method in SELF_TAUGHT else None,
        reward_funcs=reward,
        args=config,
        train_dataset=scheduled(rows, prompts, params.samplings, run_seed(run, "order")),
        processing_class=policy.tokenizer,
        peft_config=lora_config(policy.model, params.lora),
    )
    if params.length_floor is not None:
        trainer.add_callback(StopOnCollapse(params.length_floor, params.length_window))
    check_syncs(trainer, run, policy, inputs.problems.pool)
    return trainer


def _row(policy: Policy, problem: Problem) -> dict:
    asked = {"prompt": policy.prompt(problem), "question": problem.prompt, "system": problem.system}
    return asked | {"answer": problem.answer, "id": problem.id, "feedback": problem.feedback}


def _reprompts(run: Run, inputs: Inputs) -> Reprompts:
    params, pool = run.resolved.stage_params, inputs.problems.pool
    if params.feedback_reprompt is not None and not any(p.feedback for p in pool):
        raise StudyError(
            f"{run.resolved.checkpoint!r} has a feedback_reprompt but no problem of its label pool has any feedback: remove "
            "it, or give the rows of the pool's file a `feedback`."
        )
    made = reprompts_of(run, inputs)
    made.check_fit(pool)
    return made


def reprompts_of(run: Run, inputs: Inputs) -> Reprompts:
    """Who makes a run's reprompts."""
    params, new = run.resolved.stage_params, run.resolved.sampling.max_new_tokens
    return Reprompts(inputs.policy, params.reprompt, params.feedback_reprompt, params.max_reprompt_tokens, new)
