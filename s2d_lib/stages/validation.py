"""What a stage's training does on problems it never trains on: accuracy and, beside a teacher, how far from it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import TrainerCallback

from s2d_lib.grading import grade_many
from s2d_lib.losses import Pair, kl_divergence
from s2d_lib.models.adapters import plain
from s2d_lib.models.policy import Policy
from s2d_lib.models.sharing import back_into_shards, from_first
from s2d_lib.problems.base import Problem
from s2d_lib.results.bundle import read_table, write_csv
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout, completion_states, evaluating, sample, undisturbed
from s2d_lib.stages import Inputs
from s2d_lib.stages.states import head_of
from s2d_lib.study import derive_seed
from s2d_lib.study.stage_params import DENSE


class Validation(TrainerCallback):
    """Before the first optimiser step, after every so many and after the last, writes a row to validation.csv.

    `step`; `accuracy`, the mean correctness of the samples; `length`, their mean length in tokens; `formed`, the share of
    them with a well-formed answer; `correct`, their grades, problems in the set's order (`0110/1111` for two problems and
    four samples); and in a dense stage what `pair_measures` finds at the `teacher_states` (one rollout of the teacher a
    problem, sampled before training) and the `student_states` (one of the trained model's samples a problem), as
    `reverse_kl/student_states`.

    It leaves no trace in training: the random streams go on as if nothing had been sampled.
    """

    def __init__(self, run: Run, inputs: Inputs):
        self.run, self.inputs, self.path = run, inputs, run.path("validation.csv")
        own = run.resolved.validation.model_dump(include={"batch", "max_new_tokens", "temperature", "top_p"})
        self.sampling = run.resolved.sampling.model_copy(update=own)
        compared = run.resolved.stage in DENSE and run.resolved.params["estimator"] != "gold"
        self.teacher = inputs.teacher if compared else None
        self.rows: list[dict] = []
        self.teacher_states: list[Rollout] = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Take up the rows of an interrupted attempt, up to the step that training resumes from."""
        if self.path.is_file():
            rows = read_table(self.path)
            self.rows = rows[rows["step"] <= state.global_step].to_dict("records")
        # Processes measure at the same steps, also after a kill between their writing: they may share the model.
        (self.rows,) = broadcast_object_list([self.rows])
        if self.teacher is not None:
            with undisturbed():
                self.teacher_states = self._samples(self.teacher, 1, "teacher states")

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Measure; at a step's beginning, where its clock does not run yet."""
        if state.global_step % self.run.resolved.validation.every == 0:
            self._measure(state.global_step, model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Measure what training has come to."""
        self._measure(state.global_step, model)

    def _measure(self, step: int, model) -> None:
        if self.rows and self.rows[-1]["step"] == step:
            return
        problems = self.inputs.problems.validation
        policy = Policy(plain(model), self.inputs.policy.tokenizer, self.inputs.policy.chat)
        with undisturbed():
            rollouts = self._samples(policy, self.run.resolved.validation.samples, f"step {step}")
            answers = {p.id: p.answer for p in problems}
            golds = [answers[r.problem] for r in rollouts]
            grades = grade_many([r.text for r in rollouts], golds, mode=self.inputs.problems.grading)
            row = {
                "step": step,
                "accuracy": float(np.mean([g.correct for g in grades])),
                "length": float(np.mean([len(r.ids) for r in rollouts])),
                "formed": float(np.mean([g.formed for g in grades])),
                "correct": self._bits([g.correct for g in grades]),
            }
            if self.teacher is not None:
                own = [r for r in rollouts if r.sample == 0]
                for states, some in (("teacher_states", self.teacher_states), ("student_states", own)):
                    found = pair_measures(policy, self.teacher, problems, some, self.sampling.batch)
                    row |= {f"{kind}/{states}": value for kind, value in found.items()}
            back_into_shards(model)
        self.rows.append(row)
        from_first(lambda: write_csv(pd.DataFrame(self.rows), self.path))

    def _bits(self, correct: list[bool]) -> str:
        each = self.run.resolved.validation.samples
        bits = "".join("01"[c] for c in correct)
        return "/".join(bits[i : i + each] for i in range(0, len(bits), each))

    def _samples(self, policy: Policy, samples: int, purpose: str) -> list[Rollout]:
        resolved, problems = self.run.resolved, self.inputs.problems.validation
        seed = derive_seed(resolved.profile, resolved.checkpoint, resolved.seed, f"validation {purpose}")
        return sample(policy, problems, samples=samples, sampling=self.sampling, seed=seed, show=False)


def pair_measures(
    student: Policy, teacher: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], batch: int
) -> dict[str, float]:
    """How far a student is from its teacher at the states of some rollouts: paper A's condition C2, measured.

    Arguments are those of `token_measures`, and of what it finds the means over the rollouts' tokens are returned: `forward_kl`,
    `reverse_kl` and `top16_overlap`. `implicit_reward_variance`, of log p_T / p_S on the tokens themselves (nats squared; the
    reward of OPD's policy gradient, paper A v4). And `opening`, the mean of p_S of the rollouts' first tokens: that a student
    can't begin as its teacher does is lost in a mean over tokens.
    """
    found = token_measures(student, teacher, problems, rollouts, batch)
    means = {kind: found[kind].mean().item() for kind in ("forward_kl", "reverse_kl", "top16_overlap")}
    reward = (found["teacher"] - found["student"]).var(correction=0).item()
    opening = found["student"][first_tokens(rollouts)].exp().mean().item()
    return means | {"implicit_reward_variance": reward, "opening": opening}


def first_tokens(rollouts: Sequence[Rollout]) -> np.ndarray:
    """The places of the rollouts' first tokens in what `token_measures` returns."""
    return np.cumsum([0, *(len(r.ids) for r in rollouts[:-1])])


TOP = 16
SUPPORT = 0.99


@torch.no_grad()
def token_measures(
    student: Policy, teacher: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], batch: int
) -> dict[str, Tensor]:
    """What a student and its teacher say at every token of some rollouts, at temperature 1.

    Args:
        student: p_S.
        teacher: p_T, with the same vocabulary.
        problems: Whose prompts the rollouts answer.
        rollouts: Whose states, each at least one token.
        batch: Rollouts at a time.

    Returns:
        One value a token, (tokens,), one rollout after the other: `student` and `teacher`, log p_S and log p_T of the token
        itself; `forward_kl` KL(p_T || p_S) and `reverse_kl` KL(p_S || p_T) over the whole vocabulary (nats); `top16_overlap`,
        the share of p_S's 16 most likely tokens that are among p_T's (arXiv 2604.13016); `student_mass`, the sum of p_S over
        the teacher's support, which is the fewest of p_T's most likely tokens that hold 99 % of it, and at most 16; and
        `teacher_mass`, the sum of p_T over the student's support.
    """
    prompt_ids = dict(zip((p.id for p in problems), student.prompt_ids(problems), strict=True))
    heads = head_of(student.model), head_of(teacher.model)
    found = []
    for start in range(0, len(rollouts), batch):
        some = rollouts[start : start + batch]
        states = []
        for policy in (student, teacher):
            with evaluating(policy.model):
                states.append(completion_states(policy, prompt_ids, some)[0])
        tokens = torch.tensor([token for r in some for token in r.ids], device=states[0].device)
        pair = Pair(states[0], heads[0], states[1], heads[1])
        found += [_of_chunk(pair, part, tokens[part]) for part in pair.kept.chunks()]
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def _of_chunk(pair: Pair, part: slice, tokens: Tensor) -> dict[str, Tensor]:
    log_s, log_t = pair.student.log_probs(pair.student_hidden[part]), pair.teacher.log_probs(pair.teacher_hidden[part])
    top_s, top_t = (log_p.topk(min(TOP, log_p.shape[-1])) for log_p in (log_s, log_t))

    def mass(of: Tensor, top: torch.return_types.topk) -> Tensor:
        held = top.values.exp()
        return (of.gather(-1, top.indices).exp() * (held.cumsum(-1) - held < SUPPORT)).sum(-1)

    return {
        "student": log_s.gather(-1, tokens[:, None])[:, 0],
        "teacher": log_t.gather(-1, tokens[:, None])[:, 0],
        "forward_kl": kl_divergence(log_t, log_s),
        "reverse_kl": kl_divergence(log_s, log_t),
        "top16_overlap": (top_s.indices[:, :, None] == top_t.indices[:, None, :]).any(-1).float().mean(-1),
        "student_mass": mass(log_s, top_t),
        "teacher_mass": mass(log_t, top_s),
    }
