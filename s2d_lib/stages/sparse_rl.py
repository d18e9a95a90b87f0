"""Sparse RL: GRPO with a 0/1 task reward (paper A: Stage 1 on the teacher, Stage 3 and cold RL on the student)."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from s2d_lib.grading import make_reward
from s2d_lib.models.adapters import lora_config
from s2d_lib.models.policy import CHAT_TEMPLATE_KWARGS
from s2d_lib.models.sharing import before_sharding, from_first, in_shards, stand_ins
from s2d_lib.runs import Run
from s2d_lib.stages.account import account_row, label_use, read_account
from s2d_lib.stages.clock import Clocked
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.processes import in_processes
from s2d_lib.stages.training import (
    finished_metrics,
    last_whole_checkpoint,
    run_seed,
    scheduled,
    train,
    trainer_arguments,
)
from s2d_lib.vllm import check_syncs, vllm_arguments


class RecordedReward:
    """A reward function that also writes down every grading: which problem, at which step, how long, correct or not.

    The file is the run's account of label use. Of several processes the first writes what all of them have graded, while
    the others wait for it. A resumed run drops what was graded after its checkpoint and goes on.
    """

    def __init__(self, reward: Callable, path: Path, first_step: int):
        self.reward, self.path = reward, path
        self.__name__ = reward.__name__  # TRL names its metrics after it
        self.binary = getattr(reward, "binary", False)
        from_first(lambda: self._begin(first_step))

    def _begin(self, first_step: int) -> None:
        rows = self.path.read_text("utf-8").splitlines() if self.path.is_file() else []
        kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] < first_step]
        beside = self.path.with_name(f".{self.path.name}")
        beside.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")
        beside.replace(self.path)

    def __call__(self, prompts, completions, completion_ids, trainer_state, **columns) -> list[float]:
        """Rewards of one generation batch, in order; TRL's signature (1.16: `GRPOTrainer._calculate_rewards`)."""
        rewards = self.reward(prompts=prompts, completions=completions, **columns)
        graded = zip(columns["id"], completion_ids, rewards, strict=True)
        rows = [account_row(trainer_state.global_step, problem, len(ids), reward) for problem, ids, reward in graded]
        rows = gather_object(rows)
        if trainer_state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(rows)
        return rewards


class SparseTrainer(Clocked, GRPOTrainer):
    """TRL's GRPOTrainer (read from release 1.16) with a clock, the sampling's metrics at every step that shares it, and a
    reference model that is a copy of the policy as it begins.

    TRL loads the reference from the folder that the policy's configuration names: not the policy, where adapters were merged
    into that, and under FSDP2 weights that only the first process has read. Under LoRA it is the policy without adapters.
    """

    def __init__(self, *, args: GRPOConfig, **kwargs):
        beta, args.beta = args.beta, 0.0  # so that TRL loads none
        super().__init__(args=args, **kwargs)
        self.beta = args.beta = beta
        self._of_sampling: dict[str, list[float]] = {}
        if beta and not isinstance(self.model, PeftModel):
            self.ref_model = self._reference()

    def _reference(self) -> PreTrainedModel:
        shares = stand_ins(self.model, self.accelerator) if self.is_fsdp_enabled else {}
        reference = copy.deepcopy(self.model, shares).requires_grad_(False).eval()
        if not self.is_fsdp_enabled:
            return self.accelerator.prepare_model(reference, evaluation_mode=True)
        before_sharding(self.model, self.accelerator)  # in the precision of the policy that it is compared with
        return in_shards(reference, self.accelerator)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Say of a step on an earlier sampling what was said of that; its loss, divergence and clipping are its own."""
        found = self._metrics["train"]
        if "loss" in logs and "reward" in found:
            self._of_sampling = {name: list(values) for name, values in found.items()}
        elif "loss" in logs:
            found |= self._of_sampling | found
        super().log(logs, *args, **kwargs)


@in_processes
def sparse_rl(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` with GRPO on the label pool.

    Returns:
        Metrics of every optimiser step; beside TRL's, `formed` (share of well-formed answers). The run
        keeps the model, the metrics and gradings.jsonl.
    """
    if (done := finished_metrics(run)) is not None:
        return done
    trainer = sparse_trainer(run, inputs)
    account = run.path("gradings.jsonl")
    return train(run, inputs, trainer, f"{run.resolved.checkpoint}: reward", lambda metrics: label_cost(account))


def sparse_trainer(run: Run, inputs: Inputs) -> SparseTrainer:
    """The trainer of sparse RL, before its first step (of a resumed run: before its next one)."""
    params, policy = run.resolved.stage_params, inputs.policy
    prompts = params.per_sampling // params.group_size
    rows = [{"prompt": policy.prompt(p), "answer": p.answer, "id": p.id} for p in inputs.problems.pool]
    config = GRPOConfig(
        **trainer_arguments(run, params),
        steps_per_generation=params.per_sampling // params.micro_batch // run.resolved.hardware.processes,
        num_generations=params.group_size,
        max_completion_length=run.resolved.sampling.max_new_tokens,
        temperature=run.resolved.sampling.temperature,
        top_p=run.resolved.sampling.top_p,
        top_k=run.resolved.sampling.top_k or 0,
        beta=params.kl_coefficient,
        epsilon=params.epsilon_low,
        epsilon_high=params.epsilon_high,
        loss_type=params.loss_type,
        scale_rewards=params.scale_rewards,
        mask_truncated_completions=params.mask_truncated,
        chat_template_kwargs=CHAT_TEMPLATE_KWARGS if policy.chat else None,
        **capped(params.importance_cap),
        **vllm_arguments(run, policy, inputs.problems.pool),
    )
    reward = RecordedReward(make_reward(inputs.problems.grading), run.path("gradings.jsonl"), resumed_step(run))
    trainer = SparseTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=config,
        train_dataset=scheduled(rows, prompts, params.samplings, run_seed(run, "order")),
        processing_class=policy.tokenizer,
        peft_config=lora_config(policy.model, params.lora),
    )
    check_syncs(trainer, run, policy, inputs.problems.pool)
    return trainer


def capped(importance_cap: float | None) -> dict:
    """TRL's arguments for a highest weight of a token by which the loss is corrected for what vLLM computes otherwise."""
    if importance_cap is None:
        return {}
    return {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": importance_cap}


def label_cost(account: Path) -> dict:
    """What training consumed, from the account of its gradings."""
    gradings = read_account(account)
    tokens = int(gradings["tokens"].sum())
    return {
        "label_use": label_use(gradings),
        "sampled": {"sequences": len(gradings), "tokens": tokens},
        "trained_tokens": tokens,
    }


def resumed_step(run: Run) -> int:
    """The optimiser step from which an interrupted attempt goes on; 0 where there is none."""
    checkpoint = last_whole_checkpoint(run.path("trainer"))
    return int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
