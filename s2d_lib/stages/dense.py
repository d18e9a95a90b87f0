"""The dense bridge: matching a teacher's next-token distributions (paper A: Stage 2a forward KL, Stage 2b OPD).

One thin subclass of TRL's DistillationTrainer with two choices: whose states (stored teacher rollouts, or the
student's own rollouts) and which divergence.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from trl import DistillationConfig, DistillationTrainer

from s2d_lib.errors import StudyError
from s2d_lib.losses import Head, Pair, TokenLoss, estimator
from s2d_lib.models.adapters import plain
from s2d_lib.models.sharing import in_shards
from s2d_lib.runs import Run
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import StepMetrics, run_trainer, sampling_arguments, trained, trainer_arguments
from s2d_lib.stages.states import by_length, completion_hidden, head_of, inside_forward
from s2d_lib.stages.stored_teacher import TeacherTargets, kept_targets

CARRIED = ("rollout", "problem", "weight")  # columns of numbers that follow a row into its batch


def distill(
    run: Run, inputs: Inputs, spent: Mapping = MappingProxyType({}), **options: Callable | Mapping
) -> pd.DataFrame:
    """Train `inputs.policy` towards `inputs.teacher`, on teacher or student states. A method may say what it has `spent` before,
    as `s2d_lib.stages.rl.label_cost` does, and has the options of `dense_trainer`.

    Returns:
        Metrics of every optimiser step (divergence in nats per token, the student's entropy).
    """
    params = run.resolved.stage_params

    def cost(metrics: pd.DataFrame) -> dict:
        tokens = int((metrics["completions/mean_length"] * params.batch).round().sum())
        fresh, earlier = params.states == "student", Counter(spent.get("sampled", {}))
        sampled = {"sequences": params.batch * params.steps if fresh else 0, "tokens": tokens if fresh else 0}
        sampled = {kind: number + earlier[kind] for kind, number in sampled.items()}
        return {**spent, "sampled": sampled, "trained_tokens": tokens}

    return run_trainer(run, inputs, dense_trainer(run, inputs, **options), cost)


def dense_trainer(
    run: Run,
    inputs: Inputs,
    divergence: Callable[..., TokenLoss] | None = None,
    weights: Mapping[str, float] | None = None,
) -> "DenseTrainer":
    """The trainer of a dense stage, before its first step.

    A method may bring its own `divergence`, from a Pair and the `tokens` (B, T) of its completions to a TokenLoss, in place of
    the estimator that the run's parameters name; or `weights`, by which all tokens of a problem's rollouts count, by its id.
    Raises a StudyError where the disk has no room for kept targets, or a method's divergence would not be asked.
    """
    params, temperature = run.resolved.stage_params, run.resolved.sampling.temperature
    if divergence and params.estimator != "full":
        raise StudyError(f"{run.resolved.checkpoint!r} brings a divergence of its own: leave its `estimator` at full.")
    common = trainer_arguments(run)
    if params.estimator == "gold":
        from s2d_lib.stages.gold import GoldTrainer, span_loss  # TRL's experimental loss: imported where it is used

        loss = span_loss(inputs.policy, inputs.teacher, temperature, beta=params.beta, **common)
        asked = inputs.teacher.prompt_ids(inputs.problems.pool)
        kind = partial(GoldTrainer, teacher=inputs.teacher, prompts=asked, span_loss=loss)
    else:
        targets = None if params.teacher_targets == "recompute" else kept_targets(run, inputs)
        # Whose states, whose top tokens
        options = {"top_k": params.top_k, "top_k_of": params.states} if params.top_k else {}
        divergence = divergence or estimator(params.estimator, beta=params.beta, **options)
        teacher = inputs.teacher.model if targets is None else None
        kind = partial(DenseTrainer, teacher_model=teacher, divergence=divergence, targets=targets)
    args = DistillationConfig(**common, **sampling_arguments(run, inputs), beta=params.beta)
    rows = _rows(run, inputs, weights or {})
    data = trained(run, inputs, rows, params.batch // params.group_size, copies=params.group_size)
    return kind(args=args, **data)


def _rows(run: Run, inputs: Inputs, weights: Mapping[str, float]) -> list[dict]:
    """What one pass over the data is: a row a problem, or a row a stored teacher rollout."""
    rows = {p.id: {"prompt": inputs.policy.prompt(p)} for p in inputs.problems.pool}
    rows = {name: row | ({"weight": weights[name]} if weights else {}) for name, row in rows.items()}
    if run.resolved.params["states"] == "student":
        return [row | {"problem": i} for i, row in enumerate(rows.values())]
    stored = enumerate(inputs.rollouts)
    return [rows[r.problem] | {"completion_ids": list(r.ids), "rollout": i} for i, r in stored]


class DenseTrainer(StepMetrics, DistillationTrainer):
    """TRL's DistillationTrainer with the losses of s2d_lib.losses and, on request, stored completions: rows with a column
    `completion_ids` are not sampled but taken as they are (teacher rollouts)."""

    def __init__(self, *args: Any, divergence, targets: TeacherTargets | None = None, **kwargs: Any):
        """`divergence` is an estimator of s2d_lib.losses with its options set.

        With `targets` the teacher is not asked: rows need a `rollout` column, their place among the stored rollouts.
        """
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled and self.teacher_model is not None:
            self.teacher_model = in_shards(self.teacher_model, self.accelerator)
        self.divergence, self.targets = divergence, targets
        self._stored: list[list[int]] | None = None

    def _generate_and_score_completions(self, inputs):
        self._stored = [row["completion_ids"] for row in inputs] if "completion_ids" in inputs[0] else None
        batch = super()._generate_and_score_completions(inputs)
        # As tensors they follow their rows when TRL shuffles and splits the batch
        return batch | {name: torch.tensor([row[name] for row in inputs]) for name in CARRIED if name in inputs[0]}

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        return self._stored if self._stored is not None else super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """A micro-batch's part of the optimiser step's mean over tokens, inside the wrapper's forward pass.

        Logged with it, over all processes: the student's entropy, and the share of tokens on which student and teacher agree.
        """
        student = self.accelerator.unwrap_model(model)
        loss, *sums = inside_forward(model, student, lambda: self.loss_of(student, inputs))
        entropy, agreed, tokens = self.accelerator.reduce(torch.stack(sums), reduction="sum")
        found = self._metrics["train"]
        found["entropy"].append((entropy / tokens.clamp(min=1)).item())
        if self.divergence is not None and tokens:
            found["argmax_agreement"].append(agreed.item() / tokens.item())
        return loss

    def loss_of(self, student, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss of a micro-batch, entropy (nats) and agreements summed over its tokens, and their number.

        The loss is a sum over the tokens divided by their number in the whole optimiser step. As data-parallel training averages
        gradients, a process divides by its share of that number.
        """
        total = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        parts = [self.part_loss(student, part, total) for part in by_length(inputs)]
        return tuple(sum(values) for values in zip(*parts, strict=True))

    def part_loss(self, student, inputs: dict[str, Tensor], total: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same of some rows: `prompt_ids` and `prompt_mask` (B, P), `completion_ids` and `completion_mask` (B, T)."""
        student, mask = plain(student), inputs["completion_mask"]
        batch = [inputs[f"{part}_{kind}"] for part in ("prompt", "completion") for kind in ("ids", "mask")]
        # accelerate's autocast sits on the models' own forward, which no call of a model here goes through.
        with self.accelerator.autocast():
            hidden = completion_hidden(student, *batch)
            if self.targets is not None:
                teacher_hidden, teacher = self.targets.of(inputs["rollout"], mask)
            else:
                teacher_hidden, teacher = self.ask_teacher(batch)
        weights = inputs["weight"][:, None].expand_as(mask) if "weight" in inputs else None
        options = {"temperature": self.temperature, "mask": mask, "normalizer": total, "weights": weights}
        pair = Pair(hidden, head_of(student), teacher_hidden, teacher, **options)
        result = self.divergence(pair, tokens=inputs["completion_ids"])
        return result.loss, result.entropy.sum(), result.agreement.float().sum(), mask.float().sum()

    @torch.no_grad()
    def ask_teacher(self, batch: list[Tensor]) -> tuple[Tensor, Head]:
        """The teacher's hidden states (B, T, H) at a batch's completions, computed, and its head."""
        self.teacher_model.eval()
        teacher = self.accelerator.unwrap_model(self.teacher_model)
        # Through the teacher's own wrapper, so that sharded parameters are there during the forward pass.
        return inside_forward(self.teacher_model, teacher, lambda: completion_hidden(teacher, *batch)), head_of(teacher)
