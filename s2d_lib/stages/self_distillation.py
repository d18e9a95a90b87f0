"""Self-distillation: SDPO, SRPO and their controls on a label pool (paper B), and GRPO by the same trainer, on TRL's GRPOTrainer.

The formulas are in s2d_lib.losses.srpo.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from s2d_lib.errors import StudyError
from s2d_lib.losses import Head, Pair, linear_divergence, token_log_probs
from s2d_lib.losses.srpo import (
    Routes,
    WeightSums,
    clamped_ratio,
    clipped_policy_loss,
    entropy_weights,
    merge_weight_sums,
    mixed_advantages,
    route,
    self_distillation,
    srpo_objective,
    weight_sums,
)
from s2d_lib.models.adapters import plain
from s2d_lib.models.sharing import before_sharding
from s2d_lib.runs import Run
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import StepMetrics, run_trainer
from s2d_lib.stages.rl import group_arguments, group_data, label_cost
from s2d_lib.stages.self_teacher import Reprompt, Reprompts, SelfTeacher
from s2d_lib.stages.states import completion_hidden, head_of, inside_forward, padded
from s2d_lib.study.stage_params import SELF_TAUGHT, SelfDistillation


def self_distill(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` with the stage's method on the label pool.

    Returns:
        Metrics of every optimiser step; beside GRPO's, `accuracy`, `routed/grpo` and `routed/sdpo` (shares of all valid tokens)
        and, where there is a self-teacher, over the tokens that it scored: `self_teacher/entropy`,
        `self_teacher/student_entropy`, `self_teacher/kl` (student to self-teacher; nats), `self_teacher/tokens` (how many),
        `self_teacher/mean_weight` (of SRPO, before the weights are normalised). Empty where there was nothing to average. The
        run keeps gradings.jsonl.
    """
    account = run.path("gradings.jsonl")
    return run_trainer(run, inputs, self_distillation_trainer(run, inputs), lambda metrics: label_cost(account))


def self_distillation_trainer(run: Run, inputs: Inputs) -> "SelfDistillationTrainer":
    """The stage's trainer, before its first step (of a resumed run: before its next one).

    Raises:
        StudyError: Reprompts that do not fit into the model's context; feedback is asked for and no problem has any.
    """
    params, policy, pool = run.resolved.stage_params, inputs.policy, inputs.problems.pool
    taught = params.method in SELF_TAUGHT
    if taught and params.feedback_reprompt is not None and not any(p.feedback for p in pool):
        raise StudyError(
            f"{run.resolved.checkpoint!r} has a feedback_reprompt but no problem of its label pool has any feedback: remove "
            "it, or give the rows of the pool's file a `feedback`."
        )
    reprompts = reprompts_of(run, inputs) if taught else None
    if taught:
        reprompts.check_fit(pool)
    columns = {"question": "prompt", "system": "system", "answer": "answer", "id": "id", "feedback": "feedback"}
    rows = [{"prompt": policy.prompt(p)} | {name: getattr(p, own) for name, own in columns.items()} for p in pool]
    # The losses' own ratios are to this model's log-probabilities at the time of sampling, also where vLLM sampled: for what
    # the engine computes otherwise GRPO's loss is corrected with importance_cap alone.
    corrected = {"vllm_importance_sampling_correction": params.importance_cap is not None}
    trainer = SelfDistillationTrainer(
        params=params,
        reprompts=reprompts,
        args=GRPOConfig(**group_arguments(run, inputs), **corrected, beta=0.0),
        **group_data(run, inputs, rows),
    )
    if params.length_floor is not None:
        trainer.add_callback(StopOnCollapse(params.length_floor, params.length_window))
    return trainer


def reprompts_of(run: Run, inputs: Inputs) -> Reprompts:
    """Who makes a run's reprompts."""
    params, new = run.resolved.stage_params, run.resolved.sampling.max_new_tokens
    return Reprompts(inputs.policy, params.reprompt, params.feedback_reprompt, params.max_reprompt_tokens, new)


class StopOnCollapse(TrainerCallback):
    """Ends training when the last `window` steps' completions are shorter than `floor` tokens on average: self-distillation may
    shrink them to nothing, and stays there. Called before the step's checkpoint would be saved, so that those before it stay."""

    def __init__(self, floor: float, window: int):
        self.floor, self.window = floor, window

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Look at the last steps; of a resumed run also at those before the interruption."""
        name = "completions/mean_length"
        lengths = [row[name] for row in state.log_history[-self.window :] if name in row]
        if name in (logs or {}) and len(lengths) == self.window and np.mean(lengths) < self.floor:
            raise StudyError(
                f"completions have collapsed to {np.mean(lengths):.1f} tokens on average over the {self.window} steps up to "
                f"step {state.global_step}, under the floor of {self.floor:g}: lower the learning rate or the floor; the "
                f"checkpoints before this step are in {args.output_dir}."
            )


class SelfDistillationTrainer(StepMetrics, GRPOTrainer):
    """TRL's GRPOTrainer with routed losses over one denominator and a self-teacher.

    Why not `trl.experimental.sdpo.SDPOTrainer`: it is a second copy of GRPOTrainer's sampling and rewards, takes means of
    rollouts' means (so that a step's loss depends on how it is cut, and rollouts without a self-teacher dilute it), picks
    the first correct sibling, has no routing and no weights, and cuts reprompts at the question. Everything here but the
    self-teacher's forward pass would have to be overridden there too; and GRPOTrainer is not experimental.

    Rows need `prompt`, whatever the reward function reads, `question` (the problem's text) where there is a self-teacher,
    and may have `feedback` and `system` (texts, empty for none). Rollouts are sampled for whole optimiser steps, each is used
    once, and there is no KL penalty: `num_iterations` 1, `beta` 0.
    """

    def __init__(
        self, *, model, params: SelfDistillation, reward_funcs: Callable, reprompts: Reprompts | None = None, **kwargs
    ):
        """`reprompts` is needed by methods with a self-teacher; `reward_funcs` is one function; all else are GRPOTrainer's."""

        def remembered(completions, **given) -> list[float]:
            self._graded = completions, reward_funcs(completions=completions, **given)
            return self._graded[1]

        remembered.__name__ = reward_funcs.__name__  # TRL names its metrics after it
        super().__init__(model=model, reward_funcs=remembered, **kwargs)
        self.params, self.reprompts, self.self_teacher = params, reprompts, None
        if params.method in SELF_TAUGHT:
            if self.is_fsdp_enabled:
                before_sharding(self.model, self.accelerator)  # in the precision of the policy that it is compared with
                self.self_teacher = SelfTeacher(self.model, params.ema_rate, self.accelerator)
            else:
                self.self_teacher = SelfTeacher(self.model, params.ema_rate)
                self.self_teacher.model.to(self.accelerator.device)
            self.add_callback(self.self_teacher)
        self._tally: dict[str, Tensor] = {}

    # What each rollout learns from: once a generation batch

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        completions, rewards = self._graded
        rewards = self.accelerator.gather(torch.tensor(rewards, dtype=torch.float32, device=self.accelerator.device))
        feedback = gather_object([row.get("feedback") or "" for row in inputs])
        routes = self._route(rewards, feedback)
        first = self.accelerator.process_index * len(inputs)
        for name in ("grpo", "sdpo", "scored"):
            batch[name] = getattr(routes, name)[first : first + len(inputs)]
        self._metrics["train"]["accuracy"].append(routes.correct.float().mean().item())
        if self.self_teacher is not None:
            texts = gather_object(
                [text if isinstance(text, str) else text[-1]["content"] or "" for text in completions]
            )
            rows = self._reprompts(inputs, texts, feedback, routes, first)
            prompts = padded(rows, self.processing_class.pad_token_id, "left", self.accelerator.device)
            batch["teacher_prompt_ids"], batch["teacher_prompt_mask"] = prompts
        return batch

    def _route(self, rewards: Tensor, feedback: list[str]) -> Routes:
        params, told = self.params, None
        if params.feedback_reprompt is not None:
            told = torch.tensor([bool(text.strip()) for text in feedback], device=rewards.device)
        options = {"threshold": params.threshold, "feedback": told, "method": params.method, "sdpo_on": params.sdpo_on}
        return route(rewards, self.num_generations, **options)

    def _reprompts(
        self, inputs: list[dict], texts: list[str], feedback: list[str], routes: Routes, first: int
    ) -> list[list[int]]:
        """Token ids of what the self-teacher is shown of each of this process's rollouts; empty for who is not scored."""
        shown, scored, siblings = [], routes.scored.tolist(), routes.sibling.tolist()
        for i, row in enumerate(inputs, start=first):
            kind, text = ("solution", texts[siblings[i]]) if siblings[i] >= 0 else ("feedback", feedback[i])
            asked = row["question"], text, row.get("system", "")
            shown.append(self.reprompts.of(kind, *asked) if scored[i] else Reprompt([], False))
        self._add("self_teacher/cut_reprompts", sum(one.cut for one in shown), sum(bool(one.ids) for one in shown))
        return [one.ids for one in shown]

    # The loss of a micro-batch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The micro-batch's part of the step's objective, inside the wrapper's forward pass."""
        first = self._step % self.args.steps_per_generation
        if first % self.args.gradient_accumulation_steps == 0:
            self._begin_step(self._buffered_inputs[first : first + self.args.gradient_accumulation_steps])
        unwrapped = self.accelerator.unwrap_model(model)
        return inside_forward(model, unwrapped, lambda: self.loss_of(plain(unwrapped), inputs))

    def _begin_step(self, micro_batches: list[dict]) -> None:
        """Score an optimiser step's micro-batches and count its tokens and weights, over all processes."""
        sums, tokens = [], 0
        for batch in micro_batches:
            valid = batch["completion_mask"] != 0
            grpo, sdpo, scored = (batch[name][:, None] & valid for name in ("grpo", "sdpo", "scored"))
            batch |= {"grpo_mask": grpo, "sdpo_mask": sdpo, "scored_mask": scored}
            tokens = tokens + (grpo | sdpo).sum()
            self._add("routed/grpo", grpo.sum(), valid.sum())
            self._add("routed/sdpo", sdpo.sum(), valid.sum())
            if self.self_teacher is not None:
                self._score(batch)
            if self.params.method == "srpo" and self.params.dynamic_weighting:
                sums.append(weight_sums(batch["scores"].entropy, self.params.weight_beta))
        self._denominator = self.accelerator.reduce(tokens, reduction="sum").item()
        self._weight_sums = None
        if sums:
            here = merge_weight_sums(sums)
            self._weight_sums = merge_weight_sums([WeightSums(*map(self.accelerator.gather, here))])
            mean = self._weight_sums.log_total.exp() / self._weight_sums.count
            self._add("self_teacher/mean_weight", mean, 1)

    def _score(self, batch: dict) -> None:
        with self.accelerator.autocast():
            batch["scores"] = self.self_teacher.score(batch, batch["scored_mask"], self.temperature)
        n = len(batch["scores"].entropy)
        # Totals, not means: the shares of all micro-batches and processes add up to 1
        share = 1 / self.args.gradient_accumulation_steps / self.accelerator.num_processes
        self._add("self_teacher/tokens", n, share)
        rows = batch["scored_mask"].any(1)
        self._add("self_teacher/prompt_tokens", batch["teacher_prompt_mask"][rows].sum(), share)
        self._add("self_teacher/entropy", batch["scores"].entropy.sum(), n)

    def loss_of(self, model, inputs: dict) -> Tensor:
        """The routed losses of a micro-batch, over the denominator of the whole optimiser step."""
        prompt, completion = ((inputs[f"{part}_ids"], inputs[f"{part}_mask"]) for part in ("prompt", "completion"))
        with self.accelerator.autocast():
            hidden = completion_hidden(model, *prompt, *completion)
        # Whole heads: which of the losses want them depends on a process's own rollouts
        student_head, teacher_head = head_of(model).gathered(), None
        if self.self_teacher is not None:
            teacher_head = head_of(self.self_teacher.model).gathered()
        heads, grpo, sdpo = (student_head, teacher_head), inputs["grpo_mask"], inputs["sdpo_mask"]
        student = self._readings(heads, hidden, inputs, grpo)
        sampled = inputs.get("old_per_token_logps")
        sampled = student.log_probs.detach() if sampled is None else torch.where(grpo, sampled, 0.0)
        advantages = inputs["advantages"]
        if self.params.method == "advantage_mix":
            opinion = torch.zeros_like(sampled).masked_scatter(inputs["scored_mask"], inputs["scores"].log_probs)
            advantages = mixed_advantages(advantages, opinion, sampled, inputs["scored_mask"], self.params.mix)
        clip = self.params.epsilon_low, self.params.epsilon_high
        policy_loss = clipped_policy_loss(student.log_probs, advantages, sampled, *clip)
        policy_loss = policy_loss * inputs.get("importance_sampling_ratio", 1.0)  # of vLLM's, with importance_cap
        distilled = self._distilled(heads, hidden, inputs) if sdpo.any() else 0.0
        self._measure(heads, hidden, inputs, student.entropy)
        inputs.pop("scores", None)  # as large as hidden states: not to be held while the next batch is sampled
        return srpo_objective(policy_loss, grpo, distilled, self._denominator, self.accelerator.num_processes)

    def _distilled(self, heads: tuple[Head, Head | None], hidden: Tensor, inputs: dict) -> Tensor:
        """Weighted sum of the divergences over the SDPO-routed tokens, which are the scored ones."""
        params, mask, scores = self.params, inputs["sdpo_mask"], inputs["scores"]
        weights = torch.ones_like(scores.entropy)
        if self._weight_sums is not None:
            weights = entropy_weights(scores.entropy, self._weight_sums, params.weight_beta)
        if "old_per_token_logps" in inputs and params.ratio_clamp is not None:
            with torch.no_grad():
                now = self._readings(heads, hidden, inputs, mask).log_probs
            weights = weights * clamped_ratio(now[mask], inputs["old_per_token_logps"][mask], params.ratio_clamp)
        options = {"temperature": self.temperature, "weights": weights, "normalizer": 1}
        pair = Pair(hidden[mask], heads[0], scores.hidden, heads[1], **options)
        return self_distillation(pair, params.beta, params.top_k).loss

    def _readings(self, heads: tuple[Head, Head | None], hidden: Tensor, inputs: dict, mask: Tensor):
        return token_log_probs(hidden, heads[0], inputs["completion_ids"], self.temperature, mask=mask)

    # What is logged: means over all tokens of an optimiser step, however it is cut into micro-batches and processes

    @torch.no_grad()
    def _measure(self, heads: tuple[Head, Head | None], hidden: Tensor, inputs: dict, entropy: Tensor) -> None:
        """Add up the student's entropy, over all valid tokens and over scored ones, and its KL to the self-teacher there;
        `entropy` (B, T) is known of the GRPO-routed tokens."""
        scored, total = inputs["scored_mask"], entropy.sum()
        rest = (inputs["completion_mask"] != 0) & ~inputs["grpo_mask"]
        if self.self_teacher is not None:
            pair = Pair(hidden[scored], heads[0], inputs["scores"].hidden, heads[1], temperature=self.temperature)
            kl = linear_divergence(pair, beta=1.0)
            self._add("self_teacher/kl", kl.per_token.sum(), scored.sum())
            self._add("self_teacher/student_entropy", kl.entropy.sum(), scored.sum())
            rest, total = rest & ~scored, total + kl.entropy[rest[scored]].sum()
        if rest.any():
            total = total + self._readings(heads, hidden, inputs, rest).entropy.sum()
        self._add("entropy", total, inputs["completion_mask"].sum())

    def _add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add a sum and the number of its parts to what is averaged; all processes have to add the same names."""
        pair = torch.stack([torch.as_tensor(value).detach().double().cpu() for value in (total, count)])
        self._tally[name] = self._tally.get(name, 0) + pair

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the step's exact means to what TRL logs (NaN where nothing was counted)."""
        if "loss" in logs:
            names = sorted(self._tally)
            totals = torch.stack([self._tally[name] for name in names]).to(self.accelerator.device)
            totals = self.accelerator.reduce(totals, reduction="sum").cpu()
            logs = logs | {name: (total / count).item() for name, (total, count) in zip(names, totals, strict=True)}
            self._tally = {}
        super().log(logs, *args, **kwargs)
