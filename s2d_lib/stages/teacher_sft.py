"""Teacher SFT: a teacher trained on its own verified answers, the recipe that teacher RL is compared with (paper A).

The papers do not say on what their SFT teachers were trained, and DAPO-Math-17K holds answers, no solutions. So the
teacher's own rollouts are graded against the labels and the correct ones are kept: SFT sees the labels that GRPO sees, in
the same form (right or wrong), and no outside text.
"""

from dataclasses import replace

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade_many
from s2d_lib.policies.sharing import from_first
from s2d_lib.rollouts import Rollout
from s2d_lib.runs import Run
from s2d_lib.stages.account import account_row, label_use, read_account
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.processes import in_processes
from s2d_lib.stages.teacher_sample_sft import sample_trainer, train_on_samples
from s2d_lib.stages.training import finished_metrics


def verified_rollouts(run: Run, inputs: Inputs) -> list[Rollout]:
    """The stored rollouts whose answers are right.

    The run keeps every grading in gradings.jsonl; where an earlier attempt has graded, that is read.
    """
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
    """Train `inputs.policy` on those of its own stored rollouts that are correct; only completion tokens carry loss.

    Returns:
        Metrics of every optimiser step. The run keeps the model, the metrics and gradings.jsonl.

    Raises:
        StudyError: Fewer correct rollouts than one optimiser step takes.
    """
    if (done := finished_metrics(run)) is not None:
        return done
    from_first(lambda: verified_rollouts(run, inputs) and None)  # the others read what it has graded
    verified, batch = verified_rollouts(run, inputs), run.resolved.stage_params.batch
    if len(verified) < batch:
        raise StudyError(
            f"{run.resolved.checkpoint!r} has {len(verified)} correct rollouts (of {len(inputs.rollouts)}) but one "
            f"optimiser step takes {batch}: lower `batch` or raise teacher_rollouts.samples_per_problem."
        )
    trainer = sample_trainer(run, replace(inputs, rollouts=verified))
    return train_on_samples(run, inputs, trainer, label_use=label_use(read_account(run.path("gradings.jsonl"))))
