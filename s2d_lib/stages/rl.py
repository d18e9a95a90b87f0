"""Sparse RL: GRPO with a 0/1 task reward (paper A: Stage 1 on the teacher, Stage 3 and cold RL on the student).

Every grading is one use of a label, and a line of the run's account of them, gradings.jsonl.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from s2d_lib.grading import CorrectnessReward
from s2d_lib.models.sharing import before_sharding, from_first, in_shards, stand_ins
from s2d_lib.runs import Run
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import StepMetrics, resumed_step, run_trainer, sampling_arguments, trained, trainer_arguments


def account_row(step: int, problem: str, tokens: int, correct: float) -> str:
    """One grading as a line of the account: the optimiser step that it was made for (0 for all of them where answers are graded
    before training), the problem's id, the completion's length, and 1 or 0."""
    return json.dumps({"step": step, "problem": problem, "tokens": tokens, "correct": int(correct)}) + "\n"


def write_account(path: Path, rows: list[str]) -> None:
    """Write an account's lines so that the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}")
    beside.write_text("".join(rows), encoding="utf-8")
    beside.replace(path)


def read_account(path: Path) -> pd.DataFrame:
    """All gradings in their order: step, problem, tokens, correct."""
    return pd.read_json(path, lines=True)


def label_cost(account: Path) -> dict:
    """What training on graded rollouts consumed, from their account: `label_use` (how often each problem's answer was used, and
    how many gradings that makes), `sampled` and `trained_tokens`."""
    gradings = read_account(account)
    tokens, used = int(gradings["tokens"].sum()), gradings.groupby("problem", sort=True).size()
    use = {"problems": {str(name): int(times) for name, times in used.items()}, "gradings": len(gradings)}
    sampled = {"sequences": len(gradings), "tokens": tokens}
    return {"label_use": use, "sampled": sampled, "trained_tokens": tokens}


class RecordedReward:
    """A reward function that also writes down every grading: which problem, at which step, how long, correct or not.

    Of several processes the first writes what all of them have graded, while the others wait for it. A resumed run drops what
    was graded after its checkpoint and goes on.
    """

    def __init__(self, reward: Callable, path: Path, first_step: int):
        self.reward, self.path = reward, path
        self.__name__ = reward.__name__  # TRL names its metrics after it
        from_first(lambda: self._begin(first_step))

    def _begin(self, first_step: int) -> None:
        rows = self.path.read_text("utf-8").splitlines() if self.path.is_file() else []
        kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] < first_step]
        write_account(self.path, [f"{row}\n" for row in kept])

    def __call__(self, prompts, completions, completion_ids, trainer_state, **columns) -> list[float]:
        """Rewards of one generation batch, in order; as TRL calls reward functions."""
        rewards = self.reward(prompts=prompts, completions=completions, **columns)
        graded = zip(columns["id"], completion_ids, rewards, strict=True)
        rows = [account_row(trainer_state.global_step, problem, len(ids), reward) for problem, ids, reward in graded]
        rows = gather_object(rows)
        if trainer_state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(rows)
        return rewards


class SparseTrainer(StepMetrics, GRPOTrainer):
    """TRL's GRPOTrainer with a reference model that is a copy of the policy as it begins.

    TRL (release 1.16) loads the reference from the folder that the policy's configuration names: not the policy, where adapters
    were merged into that, and under FSDP2 weights that only the first process has read. Under LoRA it is the policy without
    adapters.
    """

    def __init__(self, *, args: GRPOConfig, **kwargs):
        beta, args.beta = args.beta, 0.0  # so that TRL loads none
        super().__init__(args=args, **kwargs)
        self.beta = args.beta = beta
        if beta and not isinstance(self.model, PeftModel):
            self.ref_model = self._reference()

    def _reference(self) -> PreTrainedModel:
        shares = stand_ins(self.model, self.accelerator) if self.is_fsdp_enabled else {}
        reference = copy.deepcopy(self.model, shares).requires_grad_(False).eval()
        if not self.is_fsdp_enabled:
            return self.accelerator.prepare_model(reference, evaluation_mode=True)
        before_sharding(self.model, self.accelerator)  # in the precision of the policy that it is compared with
        return in_shards(reference, self.accelerator)


def sparse_rl(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` with GRPO on the label pool.

    Returns:
        Metrics of every optimiser step; beside TRL's, `formed` (share of well-formed answers). The run keeps gradings.jsonl.
    """
    account = run.path("gradings.jsonl")
    return run_trainer(run, inputs, sparse_trainer(run, inputs), lambda metrics: label_cost(account))


def sparse_trainer(run: Run, inputs: Inputs) -> SparseTrainer:
    """The trainer of sparse RL, before its first step (of a resumed run: before its next one)."""
    params = run.resolved.stage_params
    rows = [{"prompt": inputs.policy.prompt(p), "answer": p.answer, "id": p.id} for p in inputs.problems.pool]
    own = {"beta": params.kl_coefficient, "epsilon": params.epsilon_low, "epsilon_high": params.epsilon_high}
    args = GRPOConfig(**group_arguments(run, inputs), **own, loss_type=params.loss_type)
    return SparseTrainer(args=args, **group_data(run, inputs, rows))


def group_arguments(run: Run, inputs: Inputs) -> dict:
    """TRL's arguments for training on groups of rollouts, each sampled at once for `steps_per_sampling` optimiser steps."""
    params = run.resolved.stage_params
    arguments = {
        "steps_per_generation": params.per_sampling // params.micro_batch // run.resolved.hardware.processes,
        "num_generations": params.group_size,
        "scale_rewards": params.scale_rewards,
        "mask_truncated_completions": params.mask_truncated,
    }
    if params.importance_cap is not None:  # a token's highest weight that makes up for what vLLM computes otherwise
        arguments["vllm_importance_sampling_mode"] = "token_truncate"
        arguments["vllm_importance_sampling_clip_max"] = params.importance_cap
    return trainer_arguments(run) | sampling_arguments(run, inputs) | arguments


def group_data(run: Run, inputs: Inputs, rows: list[dict]) -> dict:
    """What is trained, on which rows in which order, and by which reward."""
    params, reward = run.resolved.stage_params, CorrectnessReward(inputs.problems.grading)
    recorded = RecordedReward(reward, run.path("gradings.jsonl"), resumed_step(run))
    data = trained(run, inputs, rows, params.per_sampling // params.group_size, params.samplings)
    return {"reward_funcs": recorded, **data}
