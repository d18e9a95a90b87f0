"""Next-token training on stored answers: teacher SFT, and teacher-sample SFT, its control (paper A).

Teacher SFT is the recipe that teacher RL is compared with. Whose answers? Paper A's SFT teachers learn from a stronger model
outside of the study (gpt-oss-120B), right or wrong: that is a checkpoint with a `teacher`, sampled once like any other or given
as a file of traces. It needs no label. Without a teacher a model learns from its own answers, of which only the right ones
(`filter`) can teach it something: no outside text, and the labels that GRPO sees, in the same form.

Teacher-sample SFT trains the student on its teacher's rollouts, right or wrong. It needs no more of a teacher than its text, so
it is a way also from one of another vocabulary (s2d_lib.stages.inputs.by_text).
"""

from pathlib import Path

import pandas as pd
from trl import SFTConfig, SFTTrainer

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade_many
from s2d_lib.models.sharing import from_first
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import StepMetrics, run_seed, run_trainer, schedule, trained, trainer_arguments
from s2d_lib.stages.rl import account_row, label_cost, read_account, write_account


class SampleTrainer(StepMetrics, SFTTrainer):
    """TRL's SFTTrainer with a clock."""


def learn_answers(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` on `answers_to_learn`; only completion tokens carry loss.

    Returns:
        Metrics of every optimiser step. Where the run filters it keeps gradings.jsonl.
    """
    params, trainer, answers = run.resolved.stage_params, sample_trainer(run, inputs), answers_to_learn(run, inputs)
    order = schedule(len(answers), params.batch, params.steps, run_seed(run, "order"))
    cost = {"sampled": {"sequences": 0, "tokens": 0}, "trained_tokens": sum(len(answers[i].ids) for i in order)}
    if (account := run.path("gradings.jsonl")).is_file():
        cost["label_use"] = label_cost(account)["label_use"]
    return run_trainer(run, inputs, trainer, lambda metrics: cost)


def answers_to_learn(run: Run, inputs: Inputs) -> list[Rollout]:
    """The answers that are learned: all of them, with `filter` those that are right, or with `answers: likeliest` of each problem
    the one that its teacher finds likeliest.

    A run that filters keeps every grading in gradings.jsonl; where an earlier attempt has graded, that is read.
    """
    params, path = run.resolved.stage_params, run.path("gradings.jsonl")
    if getattr(params, "answers", "all") == "likeliest":
        return likeliest(inputs.rollouts)
    if not getattr(params, "filter", False):
        return inputs.rollouts
    from_first(lambda: path.is_file() or _grade(inputs, path))
    return [r for r, correct in zip(inputs.rollouts, read_account(path)["correct"], strict=True) if correct]


def _grade(inputs: Inputs, path: Path) -> None:
    answers = {p.id: p.answer for p in inputs.problems.pool}
    texts, golds = zip(*((r.text, answers[r.problem]) for r in inputs.rollouts), strict=True)
    graded = zip(inputs.rollouts, grade_many(texts, golds, mode=inputs.problems.grading), strict=True)
    write_account(path, [account_row(0, r.problem, len(r.ids), grade.correct) for r, grade in graded])


def likeliest(rollouts: list[Rollout]) -> list[Rollout]:
    """Of each problem the rollout that its teacher finds likeliest, the first of equals; problems in their order."""
    best: dict[str, Rollout] = {}
    for r in rollouts:
        if r.problem not in best or r.log_prob > best[r.problem].log_prob:
            best[r.problem] = r
    return list(best.values())


def sample_trainer(run: Run, inputs: Inputs) -> SampleTrainer:
    """The trainer of next-token loss, before its first step.

    Raises:
        StudyError: Fewer answers than one optimiser step takes.
    """
    params, answers = run.resolved.stage_params, answers_to_learn(run, inputs)
    if len(answers) < params.batch:
        raise StudyError(
            f"{run.resolved.checkpoint!r} has {len(answers)} answers to learn (of {len(inputs.rollouts)}) but one optimiser step "
            f"takes {params.batch}: lower `batch` or raise teacher_rollouts.samples_per_problem."
        )
    problems = inputs.problems.pool
    prompts = dict(zip((p.id for p in problems), inputs.policy.prompt_ids(problems), strict=True))
    rows = [
        {"input_ids": [*prompts[r.problem], *r.ids], "labels": [-100] * len(prompts[r.problem]) + list(r.ids)}
        for r in answers
    ]
    arguments = trainer_arguments(run) | {"max_length": None, "packing": False}
    args = SFTConfig(**arguments, train_sampling_strategy="sequential")
    return SampleTrainer(args=args, **trained(run, inputs, rows, params.batch))
