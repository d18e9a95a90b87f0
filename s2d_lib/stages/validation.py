"""What a stage's training does on problems it never trains on: accuracy and, beside a teacher, how far from it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn.functional import linear
from transformers import TrainerCallback
from trl.trainer.utils import maybe_gather_lm_head_ctx

from s2d_lib.grading import grade_many
from s2d_lib.losses import linear_divergence
from s2d_lib.losses.inputs import gathered
from s2d_lib.losses.token_log_probs import token_log_probs
from s2d_lib.policies.adapters import plain
from s2d_lib.policies.policy import Policy
from s2d_lib.policies.sharing import back_into_shards, from_first
from s2d_lib.problems.base import Problem
from s2d_lib.results.bundle import read_validation, write_csv
from s2d_lib.rollouts import Rollout, completion_states, sample
from s2d_lib.rollouts.undisturbed import evaluating, undisturbed
from s2d_lib.runs import Run
from s2d_lib.stages.heads import alone, head_arguments
from s2d_lib.stages.inputs import Inputs
from s2d_lib.study import derive_seed

KINDS = {"forward_kl": 0.0, "reverse_kl": 1.0}  # divergences, by their beta


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
        own = run.resolved.validation.model_dump(include={"batch", "max_new_tokens"})
        self.sampling = run.resolved.sampling.model_copy(update=own)
        compared = run.resolved.stage in ("forward_kl", "opd") and run.resolved.params["estimator"] != "gold"
        self.teacher = inputs.teacher if compared else None
        self.rows: list[dict] = []
        self.teacher_states: list[Rollout] = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Take up the rows of an interrupted attempt, up to the step that training resumes from."""
        if self.path.is_file():
            rows = read_validation(self.path)
            self.rows = rows[rows["step"] <= state.global_step].to_dict("records")
        # Processes measure at the same steps, also after a kill between their writing: they may share the model.
        (self.rows,) = broadcast_object_list([self.rows])
        if self.teacher is not None:
            with undisturbed(), self.run.phase("validation"):
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
        policy = Policy(plain(model), self.inputs.policy.tokenizer, self.inputs.policy.chat)
        with undisturbed(), self.run.phase("validation"):
            rollouts = self._samples(policy, self.run.resolved.validation.samples, f"step {step}")
            answers = {p.id: p.answer for p in self.inputs.problems.validation}
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
                row |= self._beside_teacher(policy, "teacher_states", self.teacher_states)
                row |= self._beside_teacher(policy, "student_states", [r for r in rollouts if r.sample == 0])
            back_into_shards(model)
        self.rows.append(row)
        from_first(lambda: write_csv(pd.DataFrame(self.rows), self.path))

    def _bits(self, correct: list[bool]) -> str:
        each = self.run.resolved.validation.samples
        bits = "".join("01"[c] for c in correct)
        return "/".join(bits[i : i + each] for i in range(0, len(bits), each))

    def _samples(self, policy: Policy, samples: int, purpose: str) -> list[Rollout]:
        resolved = self.run.resolved
        seed = derive_seed(resolved.profile, resolved.checkpoint, resolved.seed, f"validation {purpose}")
        problems = self.inputs.problems.validation
        return sample(policy, problems, samples=samples, sampling=self.sampling, seed=seed, show=False)

    def _beside_teacher(self, policy: Policy, states: str, rollouts: list[Rollout]) -> dict[str, float]:
        problems = self.inputs.problems.validation
        values = pair_measures(policy, self.teacher, problems, rollouts, self.sampling.batch)
        return {f"{kind}/{states}": value for kind, value in values.items()}


@torch.no_grad()
def pair_measures(
    student: Policy, teacher: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], batch: int
) -> dict[str, float]:
    """How far a student is from its teacher at the states of some rollouts: paper A's condition C2, measured.

    Args:
        student: p_S.
        teacher: p_T, with the same vocabulary.
        problems: Whose prompts the rollouts answer.
        rollouts: Whose states, each at least one token.
        batch: Rollouts at a time.

    Returns:
        At temperature 1, means over the rollouts' tokens: `forward_kl` KL(p_T || p_S) and `reverse_kl` KL(p_S || p_T) over
        the whole vocabulary (nats); `top16_overlap`, the share of p_S's 16 most likely tokens that are among p_T's
        (arXiv 2604.13016); `implicit_reward_variance`, of log p_T / p_S on the tokens themselves (nats squared; the
        reward of OPD's policy gradient, paper A v4). And `opening`, the mean of p_S of the rollouts' first tokens: that a
        student can't begin as its teacher does is lost in a mean over tokens.
    """
    prompt_ids = dict(zip((p.id for p in problems), student.prompt_ids(problems), strict=True))
    sides = {"student": student, "teacher": teacher}
    heads = {side: head_arguments(side, policy.model) for side, policy in sides.items()}
    parts = [v for head in heads.values() for name, v in head.items() if name.endswith(("_weight", "_bias"))]
    sums, rewards, openings = dict.fromkeys((*KINDS, "top16_overlap"), 0.0), [], []
    for start in range(0, len(rollouts), batch):
        part = rollouts[start : start + batch]
        hidden = {side: _evaluated(policy, prompt_ids, part) for side, policy in sides.items()}
        tokens = torch.tensor([token for r in part for token in r.ids], device=hidden["student"].device)
        with maybe_gather_lm_head_ctx(*parts):  # of ZeRO-3; FSDP2's the losses gather themselves
            for kind, beta in KINDS.items():
                states = {f"{side}_hidden": h for side, h in hidden.items()}
                sums[kind] += (
                    linear_divergence(**states, beta=beta, **heads["student"], **heads["teacher"])
                    .per_token.sum()
                    .item()
                )
            said = {
                side: token_log_probs(h, tokens=tokens, **alone(heads[side])).log_probs for side, h in hidden.items()
            }
            sums["top16_overlap"] += _top_overlap(hidden, heads)
        rewards.append(said["teacher"] - said["student"])
        starts = np.cumsum([0, *(len(r.ids) for r in part[:-1])])
        openings.append(said["student"][starts].exp())
    reward = torch.cat(rewards)
    means = {kind: value / len(reward) for kind, value in sums.items()}
    spread = {"implicit_reward_variance": reward.var(correction=0).item(), "opening": torch.cat(openings).mean().item()}
    return means | spread


def _top_overlap(hidden: dict[str, Tensor], heads: dict[str, dict], top: int = 16) -> float:
    """Sum over tokens of the share of the student's most likely tokens that are among the teacher's."""
    # A scale or a softcap changes no order; in half precision many tokens would be as likely as others.
    weights = {side: gathered(head[f"{side}_weight"]).float() for side, head in heads.items()}
    vocab = min(map(len, weights.values()))
    shared = 0.0
    for rows in torch.arange(len(hidden["student"])).split(256):
        best = []
        for side, weight in weights.items():
            bias = heads[side][f"{side}_bias"]
            logits = linear(hidden[side][rows].float(), weight, None if bias is None else gathered(bias).float())
            best.append(logits[:, :vocab].topk(min(top, vocab)).indices)
        shared += (best[0][:, :, None] == best[1][:, None, :]).any(-1).float().mean(-1).sum().item()
    return shared


def _evaluated(policy: Policy, prompt_ids: dict[str, list[int]], rollouts: Sequence[Rollout]) -> Tensor:
    with evaluating(policy.model):
        return completion_states(policy, prompt_ids, rollouts)[0]
