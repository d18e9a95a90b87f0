"""What a solution in the prompt is worth to a model: without any, a self-teacher of it has nothing to say (paper B)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from s2d_lib.grading import grade_many
from s2d_lib.policies.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.rollouts import Rollout, sample
from s2d_lib.stages.validation import undisturbed
from s2d_lib.study import derive_seed
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
        samples: Completions of a problem, alone and with each prompt. The correct one that is shown does not count.
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

    rollouts, correct = answers(problems, samples + 1, "alone")
    solved = [i for i, row in enumerate(correct) if row.any()]
    if len(solved) < 2:
        return pd.DataFrame(columns=["problem", "alone", "own solution", "another's solution"])
    alone = [(correct[i].sum() - 1) / samples for i in solved]
    table = pd.DataFrame({"problem": [problems[i].id for i in solved], "alone": alone})
    shown = [rollouts[i * (samples + 1) + int(correct[i].argmax())].text for i in solved]
    for name, solutions in {"own solution": shown, "another's solution": [*shown[1:], shown[0]]}.items():
        asked = [
            replace(problems[i], prompt=template.format(question=problems[i].prompt, solution=solution))
            for i, solution in zip(solved, solutions, strict=True)
        ]
        table[name] = answers(asked, samples, name)[1].mean(axis=1)
    return table
