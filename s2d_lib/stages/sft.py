"""Next-token training on stored answers: teacher SFT, and teacher-sample SFT, its control (paper A).

Teacher SFT is the recipe that teacher RL is compared with. Whose answers? Paper A's SFT teachers learn from a stronger model
outside of the study (gpt-oss-120B), right or wrong: that is a checkpoint with a `teacher`, sampled once like any other or given
as a file of traces. It needs no label. Without a teacher a model learns from its own answers, of which only the right ones
(`filter`) can teach it something: no outside text, and the labels that GRPO sees, in the same form.

Teacher-sample SFT trains the student on its teacher's rollouts, right or wrong. It needs no more of a teacher than its text, so
it is a way also from one of another vocabulary (s2d_lib.stages.inputs.by_text).
"""

from dataclasses import replace

import pandas as pd
from trl import SFTConfig, SFTTrainer

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade_many
from s2d_lib.models.adapters import lora_config
from s2d_lib.models.sharing import from_first
from s2d_lib.runs import Run, file_hash
from s2d_lib.sampling import Rollout
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import StepMetrics, run_seed, run_trainer, schedule, scheduled, trainer_arguments
from s2d_lib.stages.inputs import traces_place
from s2d_lib.stages.rl import account_row, label_use, read_account, write_account


class SampleTrainer(StepMetrics, SFTTrainer):
    """TRL's SFTTrainer with a clock."""


def teacher_sft(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` on `answers_to_learn`; only completion tokens carry loss.

    Returns:
        Metrics of every optimiser step. The run keeps gradings.jsonl where it filters, and of a file of traces its hash.

    Raises:
        StudyError: Fewer answers than one optimiser step takes.
    """
    resolved, params = run.resolved, run.resolved.stage_params
    from_first(lambda: answers_to_learn(run, inputs) and None)  # the others read what it has graded
    answers = answers_to_learn(run, inputs)
    if params.filter and len(answers) < params.batch:
        raise StudyError(
            f"{resolved.checkpoint!r} has {len(answers)} correct rollouts (of {len(inputs.rollouts)}) but one optimiser step "
            f"takes {params.batch}: lower `batch` or raise teacher_rollouts.samples_per_problem."
        )
    facts = {"label_use": label_use(read_account(run.path("gradings.jsonl")))} if params.filter else {}
    if resolved.traces:
        facts["traces"] = {"sha256": file_hash(traces_place(resolved.traces)), "answers": len(inputs.rollouts)}
    return train_on_answers(run, replace(inputs, rollouts=answers), **facts)


def answers_to_learn(run: Run, inputs: Inputs) -> list[Rollout]:
    """The answers that are learned: all of them, or with `filter` those that are right.

    A run that filters keeps every grading in gradings.jsonl; where an earlier attempt has graded, that is read.
    """
    if not run.resolved.stage_params.filter:
        return inputs.rollouts
    path = run.path("gradings.jsonl")
    if not path.is_file():
        answers = {p.id: p.answer for p in inputs.problems.pool}
        texts, golds = zip(*((r.text, answers[r.problem]) for r in inputs.rollouts), strict=True)
        grades = grade_many(texts, golds, mode=inputs.problems.grading)
        graded = zip(inputs.rollouts, grades, strict=True)
        write_account(path, [account_row(0, r.problem, len(r.ids), grade.correct) for r, grade in graded])
    return [r for r, correct in zip(inputs.rollouts, read_account(path)["correct"], strict=True) if correct]


def teacher_sample_sft(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` on the stored teacher rollouts' tokens; only completion tokens carry loss. With `answers: likeliest`
    on one rollout a problem.

    Returns:
        Metrics of every optimiser step.
    """
    chosen = likeliest(inputs.rollouts) if run.resolved.stage_params.answers == "likeliest" else inputs.rollouts
    return train_on_answers(run, replace(inputs, rollouts=chosen))


def likeliest(rollouts: list[Rollout]) -> list[Rollout]:
    """Of each problem the rollout that its teacher finds likeliest, the first of equals; problems in their order."""
    best: dict[str, Rollout] = {}
    for r in rollouts:
        if r.problem not in best or r.log_prob > best[r.problem].log_prob:
            best[r.problem] = r
    return list(best.values())


def train_on_answers(run: Run, inputs: Inputs, **facts: object) -> pd.DataFrame:
    """Train on `inputs.rollouts`; `facts` join the record with the steps and tokens that training took.

    Returns:
        Metrics of every optimiser step.
    """
    params, trainer = run.resolved.stage_params, sample_trainer(run, inputs)
    order = schedule(len(inputs.rollouts), params.batch, params.steps, run_seed(run, "order"))
    tokens = sum(len(inputs.rollouts[i].ids) for i in order)
    cost = {"sampled": {"sequences": 0, "tokens": 0}, "trained_tokens": tokens, **facts}
    return run_trainer(run, inputs, trainer, f"{run.resolved.checkpoint}: loss, nats per token", lambda metrics: cost)


def sample_trainer(run: Run, inputs: Inputs) -> SampleTrainer:
    """The trainer of next-token loss on `inputs.rollouts`, before its first step.

    Raises:
        StudyError: Fewer rollouts than one optimiser step takes.
    """
    params, policy = run.resolved.stage_params, inputs.policy
    problems = inputs.problems.pool
    prompt_ids = dict(zip((p.id for p in problems), policy.prompt_ids(problems), strict=True))
    asked = [prompt_ids[r.problem] for r in inputs.rollouts]
    rows = [
        {"input_ids": [*prompt, *r.ids], "labels": [-100] * len(prompt) + list(r.ids)}
        for prompt, r in zip(asked, inputs.rollouts, strict=True)
    ]
    if len(rows) < params.batch:
        raise StudyError(
            f"{run.resolved.checkpoint!r} has {len(rows)} rollouts but one optimiser step takes {params.batch}: lower "
            "`batch` or raise teacher_rollouts.samples_per_problem."
        )
    arguments = trainer_arguments(run, params) | {"max_length": None, "packing": False}
    return SampleTrainer(
        model=policy.model,
        args=SFTConfig(**arguments, train_sampling_strategy="sequential"),
        train_dataset=scheduled(rows, params.batch, params.steps, run_seed(run, "order")),
        processing_class=policy.tokenizer,
        peft_config=lora_config(policy.model, params.lora),
    )
