"""What a solution in the prompt is worth to a model (paper B): of one wrong answer, token by token, as its self-teacher; and in
accuracy, without which a self-teacher has nothing to say."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade_many
from s2d_lib.losses import Pair, linear_divergence, token_log_probs
from s2d_lib.losses.srpo import entropy_weights, weight_sums
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.problems.base import Problem
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout, sample, undisturbed
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import run_seed
from s2d_lib.stages.self_distillation import reprompts_of
from s2d_lib.stages.states import completion_hidden, head_of
from s2d_lib.study import derive_seed, load_profile
from s2d_lib.study.problem_sets import ProblemSets
from s2d_lib.study.settings import Sampling


class SecondLook(NamedTuple):
    """One wrong answer, re-scored: the `reprompt` that the self-teacher is shown, special tokens included, and a row a token of
    the answer: `token`, `student` and `self_teacher` (probabilities of it), `entropy` of the self-teacher and `kl` (student to
    self-teacher; nats), and `weight` (SRPO's, averaging 1 over the answer)."""

    reprompt: str
    tokens: pd.DataFrame


@torch.no_grad()
def second_look(run: Run, inputs: Inputs, tries: int = 32) -> SecondLook | None:
    """The first of `tries` problems of the label pool with right and wrong answers in a group of the policy's, and one wrong
    answer; None where no group is mixed, or the run's method has no self-teacher.

    Student and self-teacher are both the policy as it is: the moving average ends with the training.
    """
    params, policy, temperature = run.resolved.stage_params, inputs.policy, run.resolved.sampling.temperature
    if params.method == "grpo":
        return None
    problems, seed = inputs.problems.pool[:tries], run_seed(run, "second look")
    size, grading = params.group_size, inputs.problems.grading
    rollouts, correct = _answers(policy, problems, size, run.resolved.sampling, grading, seed)
    mixed = np.flatnonzero(correct.any(1) & ~correct.all(1))
    if not len(mixed):
        return None
    problem, row = problems[mixed[0]], correct[mixed[0]]
    right, wrong = (rollouts[mixed[0] * size + int(which.argmax())] for which in (row, ~row))
    reprompt = reprompts_of(run, inputs).of("solution", problem.prompt, right.text, problem.system).ids
    model, (prompt,) = policy.model.eval(), policy.prompt_ids([problem])
    completion = torch.tensor([wrong.ids], device=model.device)
    hidden = []
    for before in (prompt, reprompt):
        ids = torch.tensor([before], device=model.device)
        hidden.append(completion_hidden(model, ids, torch.ones_like(ids), completion, torch.ones_like(completion)))
    head = head_of(model)
    student, teacher = (token_log_probs(h, head, completion, temperature) for h in hidden)
    kl = linear_divergence(Pair(hidden[0], head, hidden[1], head, temperature=temperature), beta=1.0)
    beta = params.weight_beta if params.method == "srpo" else 1.0
    columns = {
        "student": student.log_probs.exp(),
        "self_teacher": teacher.log_probs.exp(),
        "entropy": teacher.entropy,
        "kl": kl.per_token,
        "weight": entropy_weights(teacher.entropy, weight_sums(teacher.entropy, beta), beta),
    }
    table = pd.DataFrame({name: values[0].float().cpu().numpy() for name, values in columns.items()})
    table.insert(0, "token", [policy.tokenizer.decode([token]) for token in wrong.ids])
    return SecondLook(policy.tokenizer.decode(reprompt), table)


def given_to_base(profile: str, samples: int = 8) -> pd.DataFrame:
    """Accuracy of a profile's untrained student on the validation problems that it solves now and then: alone, shown one of its
    own correct answers to the problem as its self-teacher is, and shown its correct answer to another problem, which can't help
    but by its form.

    Args:
        profile: With self-distillation and validation problems.
        samples: Completions of a problem: first those that a solution is taken from, which count for nothing else (whoever
            is chosen for a success looks better in it than he is), then alone and with each prompt.

    Returns:
        One row a problem: `problem`, and accuracies `alone`, `own solution`, `another's solution` (shares of samples).
        Problems that no sample solves are left out.

    Raises:
        StudyError: The profile has no self-distillation, or no validation problems.
    """
    settings = load_profile(profile)
    if settings.stages.self_distillation is None or settings.problems.validation is None:
        raise StudyError(f"profile {profile!r} needs `stages.self_distillation` and `problems.validation` for this.")
    policy = load_policy(settings.roles["student"], settings.block("hardware", "base", "student"))
    read = {"source", "world", "instruction", "overlap", "evaluations", "validation"}
    sets = load_problems(ProblemSets(**settings.problems.model_dump(include=read)))
    problems, template = sets.validation, settings.stages.self_distillation.reprompt

    def answers(asked: Sequence[Problem], purpose: str) -> tuple[list[Rollout], np.ndarray]:
        return _answers(policy, asked, samples, settings.sampling, sets.grading, derive_seed(0, purpose))

    rollouts, correct = answers(problems, "solutions")
    solved = np.flatnonzero(correct.any(1))
    table = pd.DataFrame({"problem": [problems[i].id for i in solved]})
    if len(solved) < 2:  # nobody else's solution
        return table.iloc[:0].assign(**dict.fromkeys(("alone", "own solution", "another's solution"), 0.0))
    table["alone"] = answers([problems[i] for i in solved], "alone")[1].mean(axis=1)
    shown = [rollouts[i * samples + int(correct[i].argmax())].text for i in solved]
    for name, solutions in {"own solution": shown, "another's solution": [*shown[1:], shown[0]]}.items():
        asked = [
            replace(problems[i], prompt=template.format(question=problems[i].prompt, solution=solution))
            for i, solution in zip(solved, solutions, strict=True)
        ]
        table[name] = answers(asked, name)[1].mean(axis=1)
    return table


def _answers(
    policy: Policy, problems: Sequence[Problem], count: int, sampling: Sampling, grading: str, seed: int
) -> tuple[list[Rollout], np.ndarray]:
    """`count` rollouts of each problem, and which are correct: bool, (problems, count)."""
    with undisturbed():
        rollouts = sample(policy, problems, samples=count, sampling=sampling, seed=seed, show=False)
    golds = [problem.answer for problem in problems for _ in range(count)]
    grades = grade_many([r.text for r in rollouts], golds, mode=grading)
    return rollouts, np.array([grade.correct for grade in grades], dtype=bool).reshape(len(problems), count)
