"""PACED (arXiv 2603.11178): forward KL on stored teacher rollouts, each weighted by p (1 - p) of the student's pass rate.

Pass rates are those of the student as it begins, from samples that are graded: unlike the plain warmup it uses labels. Weights
have mean 1 over the pool, so that steps are as large.
"""

from pydantic import Field

from s2d_lib.errors import StudyError
from s2d_lib.study.stage_params import Distillation, like


class Paced(Distillation):
    """Forward KL with problems weighted by the student's pass rate."""

    pass_rate_samples: int = Field(16, ge=2)  # of a problem


STAGE = like("forward_kl", Paced, graded=True)
CHECKPOINTS = {
    "student.warm.paced": {"stage": "paced", "from": "student", "teacher": "teacher.rl", "labels": "full"},
    "student.bridge.paced": {"stage": "opd", "from": "student.warm.paced", "teacher": "teacher.rl", "labels": "full"},
}


def train(run, inputs):
    """Train `inputs.policy` towards `inputs.teacher` on stored rollouts of problems at the edge of what it can do.

    Raises a StudyError where it solves none of them, or all.
    """
    from s2d_lib.stages.dense import distill
    from s2d_lib.stages.rl import label_cost, read_account

    account = run.path("gradings.jsonl")
    if not account.is_file():  # an interrupted run's weights stay those of its student as it began
        grade_samples(run, inputs, account)
    return distill(run, inputs, weights=edge_weights(read_account(account)), spent=label_cost(account))


def grade_samples(run, inputs, account):
    """Sample the student on every problem of the pool, and keep what was graded."""
    from s2d_lib.grading import grade_many
    from s2d_lib.models.sharing import from_first
    from s2d_lib.sampling import sample
    from s2d_lib.stages.common import run_seed
    from s2d_lib.stages.rl import account_row, write_account

    problems, each = inputs.problems, run.resolved.stage_params.pass_rate_samples
    seed, golds = run_seed(run, "pass rates"), {p.id: p.answer for p in problems.pool}
    said = sample(inputs.policy, problems.pool, samples=each, sampling=run.resolved.sampling, seed=seed)
    grades = grade_many([r.text for r in said], [golds[r.problem] for r in said], mode=problems.grading)
    rows = [account_row(0, r.problem, len(r.ids), g.correct) for r, g in zip(said, grades, strict=True)]
    from_first(lambda: write_account(account, rows))


def edge_weights(graded):
    """p (1 - p) of every problem of an account, divided by their mean."""
    rates = graded.groupby("problem")["correct"].mean()
    weights = rates * (1 - rates)
    if not weights.any():
        raise StudyError("the student solves none of the problems sometimes: paced has nothing to weight them by.")
    return (weights / weights.mean()).to_dict()
