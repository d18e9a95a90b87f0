"""What a solution in the prompt is worth to a model: without any, a self-teacher of it has nothing to say (paper B)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade_many
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.problems.base import Problem
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import Rollout, sample, undisturbed
from s2d_lib.study import derive_seed, load_profile
from s2d_lib.study.load import did_you_mean
from s2d_lib.study.problem_sets import ProblemSets
from s2d_lib.study.settings import Sampling


def given_a_solution(
    policy: Policy,
    problems: Sequence[Problem],
    template: str,
    sampling: Sampling,
    grading: str,
    samples: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of a model on problems that it solves now and then: alone, shown one of its own correct answers to the
    problem as a self-teacher is, and shown its correct answer to another problem, which can't help but by its form.

    Args:
        policy: Who answers; it is not trained.
        problems: Which it tries; those that no sample solves drop out.
        template: How a solution is shown, with `{question}` and `{solution}`.
        sampling: Length limit, temperature and batch.
        grading: How answers are compared.
        samples: Completions of a problem: first those that a solution is taken from, which count for nothing else (whoever
            is chosen for a success looks better in it than he is), then alone and with each prompt.
        seed: Of the random streams.

    Returns:
        One row a problem: `problem`, and accuracies `alone`, `own solution`, `another's solution` (shares of samples).
        Empty when no problem is solved.
    """

    def answers(asked: Sequence[Problem], count: int, purpose: str) -> tuple[list[Rollout], np.ndarray]:
        own = derive_seed(seed, purpose)
        with undisturbed():
            rollouts = sample(policy, asked, samples=count, sampling=sampling, seed=own, about=purpose, show=False)
        golds = [problem.answer for problem in asked for _ in range(count)]
        grades = grade_many([r.text for r in rollouts], golds, mode=grading)
        return rollouts, np.array([grade.correct for grade in grades]).reshape(len(asked), count)

    rollouts, correct = answers(problems, samples, "solutions")
    solved = [i for i, row in enumerate(correct) if row.any()]
    if len(solved) < 2:
        return pd.DataFrame(columns=["problem", "alone", "own solution", "another's solution"])
    table = pd.DataFrame({"problem": [problems[i].id for i in solved]})
    table["alone"] = answers([problems[i] for i in solved], samples, "alone")[1].mean(axis=1)
    shown = [rollouts[i * samples + int(correct[i].argmax())].text for i in solved]
    for name, solutions in {"own solution": shown, "another's solution": [*shown[1:], shown[0]]}.items():
        asked = [
            replace(problems[i], prompt=template.format(question=problems[i].prompt, solution=solution))
            for i, solution in zip(solved, solutions, strict=True)
        ]
        table[name] = answers(asked, samples, name)[1].mean(axis=1)
    return table


def given_to_base(profile: str, role: str = "student", samples: int = 8) -> pd.DataFrame:
    """The same of a profile's base model on its validation problems, with the reprompt that its self-teacher gets.

    Raises:
        StudyError: The profile has no self-distillation, no validation problems, or no such role.
    """
    settings = load_profile(profile)
    if settings.stages.self_distillation is None or settings.problems.validation is None:
        raise StudyError(f"profile {profile!r} needs `stages.self_distillation` and `problems.validation` for this.")
    if role not in settings.roles:
        raise StudyError(f"profile {profile!r} has no role {role!r}; {did_you_mean(role, settings.roles)}")
    policy = load_policy(settings.roles[role], settings.block("hardware", "base", role))
    given = settings.problems.model_dump(
        include={"source", "world", "instruction", "overlap", "evaluations", "validation"}
    )
    problems = load_problems(ProblemSets(**given))
    template = settings.stages.self_distillation.reprompt
    return given_a_solution(policy, problems.validation, template, settings.sampling, problems.grading, samples)
