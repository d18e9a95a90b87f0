"""One trainer for GRPO, SDPO, SRPO and Advantage Mix (paper B), on TRL's GRPOTrainer."""

import math
import time
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOTrainer

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
from s2d_lib.stages.clock import Clocked
from s2d_lib.stages.heads import head_of
from s2d_lib.stages.redirection import Redirection
from s2d_lib.stages.reprompt import Reprompts, padded
from s2d_lib.stages.self_distillation_refusals import (
    refuse_mixed_groups,
    refuse_split_groups,
    refuse_unclear,
    refuse_unscored,
    refuse_what_says_too_little,
)
from s2d_lib.stages.self_teacher import FollowPolicy, SelfTeacher, completion_hidden
from s2d_lib.stages.tally import Tally
from s2d_lib.study.stage_params import SELF_TAUGHT, SelfDistillation

MEASURED = 4096  # tokens; all of a micro profile's step


def thinned(mask: Tensor, limit: int) -> tuple[Tensor, float]:
    """At most `limit` of a mask's places, spread evenly over them, and how many places each of these stands for."""
    places = mask.flatten().nonzero().squeeze(1)
    if len(places) <= limit:
        return mask, 1.0
    kept = places[torch.arange(limit, device=places.device) * len(places) // limit]
    some = torch.zeros_like(mask).flatten().index_fill_(0, kept, True)
    return some.view_as(mask), len(places) / limit


class SelfDistillationTrainer(Clocked, GRPOTrainer):
    """TRL's GRPOTrainer (read from release 1.16) with routed losses over one denominator and a self-teacher.

    Why not `trl.experimental.sdpo.SDPOTrainer`: it is a second copy of GRPOTrainer's sampling and rewards, takes means of
    rollouts' means (so that a step's loss depends on how it is cut, and rollouts without a self-teacher dilute it), picks
    the first correct sibling, has no routing and no weights, and cuts reprompts at the question. Everything here but the
    self-teacher's forward pass would have to be overridden there too; and GRPOTrainer is not experimental.

    Overridden hooks, each checked by a test to be still called:
        `_calculate_rewards`: remembers completions and rewards of the generation batch, which TRL does not hand on.
        `_generate_and_score_completions`: routes them over all processes and writes reprompts.
        `_prepare_inputs`: before an optimiser step's first micro-batch, lets the self-teacher score all of them, and counts
        the step's denominator and weights over micro-batches and processes.
        `compute_loss`, `_compute_loss`: the losses, straight from hidden states, inside the wrapper's forward pass.
        `_get_grad_norm`: whether the step's gradients are finite.
        `_save_optimizer_and_scheduler`, `_load_optimizer_and_scheduler`: the self-teacher's weights beside them.

    Rows need `prompt`, whatever the reward function reads, `question` (the problem's text) where there is a self-teacher,
    and may have `feedback` and `system` (texts, empty for none).
    """

    def __init__(self, *, model, params: SelfDistillation, reprompts: Reprompts | None = None, **kwargs):
        """`reprompts` is needed by methods with a self-teacher; all else are GRPOTrainer's arguments.

        Raises:
            StudyError: Rewards that need not be 0 or 1, with no threshold; no reprompts, or rows without `question`, for a
                self-teacher; sampling more often than once an optimiser step, which would split groups; reuse of rollouts; a
                KL penalty; models that DeepSpeed shares.
        """
        self.params, self.reprompts = params, reprompts
        super().__init__(model=model, **kwargs)
        args = self.args
        refuse_what_says_too_little(params, self.reward_funcs, reprompts, self.train_dataset)
        refuse_split_groups(args.steps_per_generation, args.gradient_accumulation_steps)
        if self.num_iterations != 1 or self.beta != 0:
            raise StudyError(
                "self-distillation uses each rollout once, without a KL penalty: num_iterations 1, beta 0."
            )
        if self.is_deepspeed_enabled:
            raise StudyError("self-distillation reads the models' heads itself: share them by FSDP2, not by DeepSpeed.")
        self.self_teacher, self.gradients_are_finite = None, True
        if params.method in SELF_TAUGHT:
            if self.is_fsdp_enabled:
                before_sharding(self.model, self.accelerator)  # in the precision of the policy that it is compared with
                self.self_teacher = SelfTeacher(self.model, params.ema_rate, self.accelerator)
            else:
                self.self_teacher = SelfTeacher(self.model, params.ema_rate)
                self.self_teacher.model.to(self.accelerator.device)
            self.add_callback(FollowPolicy(self))
        self._forward_redirection = Redirection()
        self._tally, self._scoring = Tally(), 0.0
        self._of_sampling: dict[str, list[float]] = {}

    # What each rollout learns from: once a generation batch

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._completions = [c if isinstance(c, str) else c[-1]["content"] or "" for c in completions]
        refuse_unscored(rewards)
        self._rewards = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        return rewards

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        refuse_mixed_groups(self._of_all([str(row["prompt"]) for row in inputs]), self.num_generations)
        feedback = self._of_all([row.get("feedback") or "" for row in inputs])
        routes = self._route(feedback)
        first = self.accelerator.process_index * len(inputs)
        for name in ("grpo", "sdpo", "scored"):
            batch[name] = getattr(routes, name)[first : first + len(inputs)]
        self._metrics["train"]["accuracy"].append(routes.correct.float().mean().item())
        if self.self_teacher is not None:
            began = time.perf_counter()
            asked = [(row["question"], row.get("system", "")) for row in inputs]
            batch |= self._reprompted(asked, feedback, routes, first)
            self._scoring += time.perf_counter() - began
        self._of_sampling = {name: list(values) for name, values in self._metrics["train"].items()}
        return batch

    def _route(self, feedback: list[str]) -> Routes:
        params, rewards = self.params, self._rewards
        refuse_unclear(rewards, params.threshold)
        told = None
        if params.feedback_reprompt is not None:
            told = torch.tensor([bool(text.strip()) for text in feedback], device=rewards.device)
        options = {"threshold": params.threshold, "feedback": told, "method": params.method, "sdpo_on": params.sdpo_on}
        return route(rewards, self.num_generations, **options)

    def _reprompted(
        self, asked: list[tuple[str, str]], feedback: list[str], routes: Routes, first: int
    ) -> dict[str, Tensor]:
        """`teacher_prompt_ids` and `teacher_prompt_mask` (B, P), padded on the left; empty rows for who is not scored."""
        completions, rows, cut = self._of_all(self._completions), [], 0
        scored, siblings = routes.scored.tolist(), routes.sibling.tolist()
        for i, (question, system) in enumerate(asked, start=first):
            ids = []
            if scored[i]:
                if siblings[i] >= 0:
                    ids, was_cut = self.reprompts.of_solution(question, completions[siblings[i]], system)
                else:
                    ids, was_cut = self.reprompts.of_feedback(question, feedback[i], system)
                cut += was_cut
            rows.append(ids)
        self._tally.add("self_teacher/cut_reprompts", cut, sum(map(bool, rows)))
        ids, mask = padded(rows, self._tokenizer.pad_token_id, self.accelerator.device)
        return {"teacher_prompt_ids": ids, "teacher_prompt_mask": mask}

    def _of_all(self, texts: list[str]) -> list[str]:
        """The texts of all processes, in the order of the gathered rewards."""
        return gather_object(texts) if self.accelerator.num_processes > 1 else texts

    # What a token counts: once an optimiser step

    def _prepare_inputs(self, generation_batch):
        inputs = super()._prepare_inputs(generation_batch)
        first = self._step % self.args.steps_per_generation
        if first % self.args.gradient_accumulation_steps == 0:
            self._begin_step(self._buffered_inputs[first : first + self.args.gradient_accumulation_steps])
        return inputs

    def _begin_step(self, micro_batches: list[dict]) -> None:
        """Score an optimiser step's micro-batches and count its tokens and weights, over all processes."""
        if "reward" not in self._metrics["train"]:  # a later step on the same sampling
            self._metrics["train"] |= {name: list(values) for name, values in self._of_sampling.items()}
        sums, tokens = [], 0
        for batch in micro_batches:
            valid = batch["completion_mask"] != 0
            grpo, sdpo, scored = (batch[name][:, None] & valid for name in ("grpo", "sdpo", "scored"))
            batch |= {"grpo_mask": grpo, "sdpo_mask": sdpo, "scored_mask": scored}
            tokens = tokens + (grpo | sdpo).sum()
            self._tally.add("routed/grpo", grpo.sum(), valid.sum())
            self._tally.add("routed/sdpo", sdpo.sum(), valid.sum())
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
            self._tally.add("self_teacher/mean_weight", mean, 1)

    def _score(self, batch: dict) -> None:
        began = time.perf_counter()
        with self.accelerator.autocast():
            batch["scores"] = self.self_teacher.score(batch, batch["scored_mask"], self.temperature)
        n = len(batch["scores"].entropy)
        # Totals, not means: the shares of all micro-batches and processes add up to 1
        share = 1 / self.args.gradient_accumulation_steps / self.accelerator.num_processes
        self._tally.add("self_teacher/tokens", n, share)
        rows = batch["scored_mask"].any(1)
        self._tally.add("self_teacher/prompt_tokens", batch["teacher_prompt_mask"][rows].sum(), share)
        self._tally.add("self_teacher/entropy", batch["scores"].entropy.sum(), n)
        self._scoring += time.perf_counter() - began

    # The loss of a micro-batch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The micro-batch's part of the step's objective, through the wrapper's forward so that DDP joins gradients."""
        unwrapped = self.accelerator.unwrap_model(model)
        return self._forward_redirection(model, unwrapped, self._compute_loss, unwrapped, inputs)

    def _compute_loss(self, model, inputs):
        model = plain(model)
        prompt, completion = ((inputs[f"{part}_ids"], inputs[f"{part}_mask"]) for part in ("prompt", "completion"))
        with self.accelerator.autocast():
            hidden = completion_hidden(model, *prompt, *completion)
        heads, grpo, sdpo = self._heads(model), inputs["grpo_mask"], inputs["sdpo_mask"]
        student = self._readings(heads, hidden, inputs, grpo)
        sampled = inputs.get("old_per_token_logps")
        sampled = student.log_probs.detach() if sampled is None else torch.where(grpo, sampled, 0.0)
        advantages = inputs["advantages"]
        if self.params.method == "advantage_mix":
            opinion = torch.zeros_like(sampled).masked_scatter(inputs["scored_mask"], inputs["scores"].log_probs)
            advantages = mixed_advantages(advantages, opinion, sampled, inputs["scored_mask"], self.params.mix)
        clip = self.params.epsilon_low, self.params.epsilon_high
        policy_loss = clipped_policy_loss(student.log_probs, advantages, sampled, *clip)
        policy_loss = policy_loss * inputs.get(
            "importance_sampling_ratio", 1.0
        )  # of vLLM's samples, with importance_cap
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

    @torch.no_grad()
    def _measure(self, heads: tuple[Head, Head | None], hidden: Tensor, inputs: dict, entropy: Tensor) -> None:
        """Tally the student's entropy, over all valid tokens and over scored ones, and its KL to the self-teacher there.

        `entropy` (B, T) is known of the GRPO-routed tokens. Of the others, which are projected to the vocabulary only for
        this, MEASURED a step and process stand for all.
        """
        grpo, scored = inputs["grpo_mask"], inputs["scored_mask"]
        rest, total = (inputs["completion_mask"] != 0) & ~grpo, entropy.sum()
        limit = max(1, MEASURED // self.args.gradient_accumulation_steps)
        if self.self_teacher is not None:
            (student, teacher), (some, each) = heads, thinned(scored, limit)
            teacher_hidden = inputs["scores"].hidden[some[scored]]
            pair = Pair(hidden[some], student, teacher_hidden, teacher, temperature=self.temperature)
            kl = linear_divergence(pair, beta=1.0)
            self._tally.add("self_teacher/kl", kl.per_token.sum() * each, scored.sum())
            self._tally.add("self_teacher/student_entropy", kl.entropy.sum() * each, scored.sum())
            rest, total = rest & ~scored, total + kl.entropy[rest[some]].sum() * each
        if rest.any():
            some, each = thinned(rest, limit)
            total = total + self._readings(heads, hidden, inputs, some).entropy.sum() * each
        self._tally.add("entropy", total, inputs["completion_mask"].sum())

    def _readings(self, heads: tuple[Head, Head | None], hidden: Tensor, inputs: dict, mask: Tensor):
        return token_log_probs(hidden, heads[0], inputs["completion_ids"], self.temperature, mask=mask)

    def _heads(self, model) -> tuple[Head, Head | None]:
        """The student's and the self-teacher's, whole: which of the losses want them depends on a process's own rollouts."""
        student = head_of(model).gathered()
        return student, None if self.self_teacher is None else head_of(self.self_teacher.model).gathered()

    # What is logged and kept

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the step's exact means to what TRL logs, and the seconds that the self-teacher took."""
        if "loss" in logs:
            logs = logs | self._tally.means(self._sum_over_processes)
            if self.self_teacher is not None:
                logs["seconds/self_teacher"], self._scoring = self._scoring, 0.0
        super().log(logs, *args, **kwargs)

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum").cpu()

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.gradients_are_finite = math.isfinite(norm)
        return norm

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.self_teacher is not None:
            self.self_teacher.save(Path(output_dir), writes=self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.self_teacher is not None and checkpoint is not None:
            self.self_teacher.load(Path(checkpoint))
