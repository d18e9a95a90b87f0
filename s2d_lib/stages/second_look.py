"""What a self-teacher sees and says of one wrong answer: its reprompt, and the weight of every token."""

from dataclasses import dataclass

import pandas as pd
import torch

from s2d_lib.grading import grade_many
from s2d_lib.losses import Pair, linear_divergence, token_log_probs
from s2d_lib.losses.srpo import entropy_weights, weight_sums
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.runs import Run
from s2d_lib.sampling import sample, undisturbed
from s2d_lib.stages.heads import head_of
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.self_distillation import reprompts_of
from s2d_lib.stages.self_teacher import completion_hidden
from s2d_lib.stages.training import run_seed


@dataclass(frozen=True)
class SecondLook:
    """One wrong answer, re-scored.

    Attributes:
        problem: The problem.
        reprompt: What the self-teacher is shown, special tokens included.
        tokens: A row a token of the wrong answer: `token`, `student` and `self_teacher` (probabilities of it), `entropy` of
            the self-teacher and `kl` (student to self-teacher; nats), and `weight` (SRPO's, averaging 1 over the answer).
    """

    problem: Problem
    reprompt: str
    tokens: pd.DataFrame


def second_look(run: Run, inputs: Inputs, tries: int = 32) -> SecondLook | None:
    """The first problem of the label pool with right and wrong answers in a group of the policy's, and one wrong answer.

    Student and self-teacher are both the policy as it is: the moving average ends with the training.

    Args:
        run: Whose reprompts and sampling.
        inputs: Whose policy.
        tries: Problems that are sampled in search of such a group.

    Returns:
        None where no group is mixed, or the run's method has no self-teacher.
    """
    params = run.resolved.stage_params
    if params.method == "grpo":
        return None
    problems, size = inputs.problems.pool[:tries], params.group_size
    seed = run_seed(run, "second look")
    with undisturbed():
        rollouts = sample(inputs.policy, problems, samples=size, sampling=run.resolved.sampling, seed=seed, show=False)
    golds = [problem.answer for problem in problems for _ in range(size)]
    grades = grade_many([r.text for r in rollouts], golds, mode=inputs.problems.grading)
    for i, problem in enumerate(problems):
        group = list(zip(rollouts, grades, strict=True))[i * size : (i + 1) * size]
        right = [rollout for rollout, grade in group if grade.correct]
        wrong = [rollout for rollout, grade in group if not grade.correct]
        if right and wrong:
            ids = reprompts_of(run, inputs).of_solution(problem.prompt, right[0].text, problem.system).ids
            beta = params.weight_beta if params.method == "srpo" else 1.0
            table = rescored(inputs.policy, problem, ids, list(wrong[0].ids), run.resolved.sampling.temperature, beta)
            return SecondLook(problem, inputs.policy.tokenizer.decode(ids), table)
    return None


@torch.no_grad()
def rescored(
    policy: Policy, problem: Problem, reprompt: list[int], answer: list[int], temperature: float, weight_beta: float
) -> pd.DataFrame:
    """The table of `SecondLook` for the token ids of an answer behind the problem's prompt and behind a reprompt."""
    model, (prompt,) = policy.model.eval(), policy.prompt_ids([problem])
    completion = torch.tensor([answer], device=model.device)
    hidden = []
    for before in (prompt, reprompt):
        ids = torch.tensor([before], device=model.device)
        hidden.append(completion_hidden(model, ids, torch.ones_like(ids), completion, torch.ones_like(completion)))
    head = head_of(model)
    student, teacher = (token_log_probs(h, head, completion, temperature) for h in hidden)
    kl = linear_divergence(Pair(hidden[0], head, hidden[1], head, temperature=temperature), beta=1.0)
    sums = weight_sums(teacher.entropy, weight_beta)
    columns = {
        "student": student.log_probs.exp(),
        "self_teacher": teacher.log_probs.exp(),
        "entropy": teacher.entropy,
        "kl": kl.per_token,
        "weight": entropy_weights(teacher.entropy, sums, weight_beta),
    }
    table = pd.DataFrame({name: values[0].float().cpu().numpy() for name, values in columns.items()})
    table.insert(0, "token", [policy.tokenizer.decode([token]) for token in answer])
    return table
