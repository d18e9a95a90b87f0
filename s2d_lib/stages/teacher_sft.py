"""Teacher SFT: next-token training on answers to the pool's problems, the recipe that teacher RL is compared with (paper A).

Whose answers? Paper A's SFT teachers learn from a stronger model outside of the study (gpt-oss-120B), right or wrong: that is a
checkpoint with a `teacher`, sampled once like any other or given as a file of traces. It needs no label. Without a teacher a
model learns from its own answers, of which only the right ones (`filter`) can teach it something: no outside text, and the
labels that GRPO sees, in the same form.
"""

from dataclasses import replace

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade_many
from s2d_lib.models.sharing import from_first
from s2d_lib.runs import Run, file_hash
from s2d_lib.sampling import Rollout, traces_place
from s2d_lib.stages.account import account_row, label_use, read_account
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.processes import in_processes
from s2d_lib.stages.teacher_sample_sft import sample_trainer, train_on_samples
from s2d_lib.stages.training import finished_metrics


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
        beside = path.with_name(f".{path.name}")
        beside.write_text(
            "".join(account_row(0, r.problem, len(r.ids), grade.correct) for r, grade in graded), encoding="utf-8"
        )
        beside.replace(path)
    return [r for r, correct in zip(inputs.rollouts, read_account(path)["correct"], strict=True) if correct]


@in_processes
def teacher_sft(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` on `answers_to_learn`; only completion tokens carry loss.

    Returns:
        Metrics of every optimiser step. The run keeps the model and the metrics, where it filters gradings.jsonl, and of a file
        of traces its hash.

    Raises:
        StudyError: Fewer answers than one optimiser step takes.
    """
    if (done := finished_metrics(run)) is not None:
        return done
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
    return train_on_samples(run, inputs, sample_trainer(run, replace(inputs, rollouts=answers)), **facts)
