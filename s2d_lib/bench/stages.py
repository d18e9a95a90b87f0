"""What an optimiser step of a stage costs, beside the same step of TRL's own trainer.

Both sides start from the released micro models and get the same prompts, hyperparameters and seed, hence the same
rollouts; a comparison whose first batches differ is refused. GRPO and teacher-sample SFT are TRL's trainers on our side
too: there the ratio is the price of our records (GRPO) or shows how well the method resolves a ratio of one (SFT).
"""

import gc
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer
from trl import DistillationTrainer, GRPOTrainer, SFTTrainer

from s2d_lib.bench.measure import peak_of, ratios
from s2d_lib.errors import StudyError
from s2d_lib.grading import make_reward
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import PlacedRun, Run
from s2d_lib.sampling import Rollout, sample
from s2d_lib.stages.clock import Clocked
from s2d_lib.stages.distillation import dense_trainer
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.sparse_rl import sparse_trainer
from s2d_lib.stages.teacher_sample_sft import sample_trainer
from s2d_lib.study import resolve

PROFILE, SEED = "micro", 0
SIDES = ("s2d", "TRL")
UNTIMED = 2  # steps at the start of a training, in which caches and memory pools fill
MEMORY_STEPS = 3
NEVER = 10**9  # for `save_steps`


class StoredCompletions(DistillationTrainer):
    """TRL's trainer and TRL's loss on stored completions, for which it has no mode; nothing else is changed."""

    def _generate_and_score_completions(self, inputs):
        self._stored = [row["completion_ids"] for row in inputs]
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, *args, **kwargs):
        return self._stored


@dataclass(frozen=True)
class Stage:
    """A stage of ours and TRL's trainer for the same step.

    Attributes:
        checkpoint: Of the study, for its hyperparameters and random streams.
        ours: Makes the stage's trainer.
        trl: TRL's trainer.
    """

    checkpoint: str
    ours: Callable[[Run, Inputs], Trainer]
    trl: type[Trainer]


STAGES = {
    "GRPO": Stage("student.grpo", sparse_trainer, GRPOTrainer),
    "forward KL": Stage("student.warm.raw_teacher", dense_trainer, StoredCompletions),
    "OPD": Stage("student.bridge.raw_teacher", dense_trainer, DistillationTrainer),
    "teacher-sample SFT": Stage("student.teacher_sample_sft.rl_teacher", sample_trainer, SFTTrainer),
}
ROLLOUTS = "teacher.rollouts.full"  # the released teacher stands in for the RL teacher: nothing need be trained first


class Observed(Clocked):
    """Beside the step's seconds, its tokens that carry loss, and the token ids of the first batch."""

    first_batch: torch.Tensor | None = None
    _tokens = 0

    def compute_loss(self, model, inputs, *args, **kwargs):
        """TRL's, after a look at its input."""
        sampled = "completion_ids" in inputs
        if self.first_batch is None:
            self.first_batch = inputs["completion_ids" if sampled else "input_ids"].clone()
        self._tokens += int((inputs["completion_mask"] if sampled else inputs["labels"] != -100).sum())
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the step's tokens."""
        if "loss" in logs:
            logs, self._tokens = logs | {"tokens": self._tokens}, 0
        super().log(logs, *args, **kwargs)


def build(name: str, side: str, folder: Path, rollouts: list[Rollout], overrides: dict) -> Trainer:
    """One side's trainer of a stage, observed, with freshly loaded models; `train()` comes next.

    Args:
        name: A key of STAGES.
        side: One of SIDES.
        folder: Empty, for what the trainer writes.
        rollouts: Of the teacher, for the stages that train on them.
        overrides: Of the profile.
    """
    stage = STAGES[name]
    run = PlacedRun(resolve(PROFILE, stage.checkpoint, SEED, overrides), place=folder)
    inputs = _inputs(run, rollouts)
    trainer = stage.ours(run, inputs)
    if side == "TRL":
        trainer = _trls(stage.trl, trainer, _inputs(run, rollouts))
    trainer.__class__ = type(f"Observed{type(trainer).__name__}", (Observed, type(trainer)), {})
    trainer.remove_callback(PrinterCallback)
    return trainer


def _trls(kind: type[Trainer], ours: Trainer, inputs: Inputs) -> Trainer:
    """TRL's trainer with the arguments and the data of ours."""
    extra = {}
    if kind is GRPOTrainer:
        extra["reward_funcs"] = make_reward(inputs.problems.grading)
    elif issubclass(kind, DistillationTrainer):
        extra["teacher_model"] = inputs.teacher.model
    return kind(
        model=inputs.policy.model,
        args=ours.args,
        train_dataset=ours.train_dataset,
        processing_class=inputs.policy.tokenizer,
        **extra,
    )


def _inputs(run: Run, rollouts: list[Rollout]) -> Inputs:
    return Inputs(released("student"), load_problems(run.resolved.problems), released("teacher"), rollouts)


def released(role: str) -> Policy:
    """A base model of the micro family."""
    base = resolve(PROFILE, role, SEED)
    return load_policy(base.model, base.hardware)


def teacher_samples(overrides: dict) -> list[Rollout]:
    """The released teacher's rollouts on the label pool, as many as the profile asks for."""
    resolved = resolve(PROFILE, ROLLOUTS, SEED, overrides)
    pool, samples = load_problems(resolved.problems).pool, resolved.stage_params.samples_per_problem
    return sample(released("teacher"), pool, samples=samples, sampling=resolved.sampling, seed=SEED)


def with_steps(overrides: dict, steps: int) -> dict:
    """The overrides with that many optimiser steps of every stage, and no checkpoints on the way."""
    changed = {key: value for key, value in overrides.items() if key != "stages"}
    stages = overrides.get("stages", {})
    trained = {resolve(PROFILE, stage.checkpoint, SEED).stage for stage in STAGES.values()}
    own = {name: stages.get(name, {}) | {"steps": steps, "save_steps": NEVER} for name in trained}
    return changed | {"stages": stages | own}


def step_seconds(rollouts: list[Rollout], rounds: int, steps: int, overrides: dict) -> pd.DataFrame:
    """Train every stage on both sides, in turn, the sides' order swapped from round to round.

    Args:
        rollouts: The teacher's.
        rounds: Trainings of each side of each stage, all from the same weights.
        steps: Timed optimiser steps of a training; UNTIMED more go before them.
        overrides: Of the profile.

    Returns:
        One row a timed step: stage, round, side, step (from 1), seconds, sampling (seconds of it), tokens (with loss).

    Raises:
        StudyError: When the two sides' first batches differ.
    """
    overrides, rows = with_steps(overrides, UNTIMED + steps), []
    turns = [(name, number) for name in STAGES for number in range(rounds)]
    for name, number in tqdm(turns, desc="stages", unit="round", leave=False):
        first = {}
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            with tempfile.TemporaryDirectory() as folder:
                trainer = build(name, side, Path(folder), rollouts, overrides)
                trainer.train()
            first[side] = trainer.first_batch
            for row in trainer.state.log_history:
                if "loss" in row and row["step"] > UNTIMED:
                    times = {"seconds": row["seconds/step"], "sampling": row["seconds/sampling"]}
                    rows.append({"stage": name, "round": number, "side": side, "step": row["step"], **times})
                    rows[-1]["tokens"] = row["tokens"]
            del trainer
            gc.collect()
        if not torch.equal(*first.values()):
            raise StudyError(f"{name}: the two sides' first batches differ, so their seconds can't be compared.")
    return pd.DataFrame(rows)


def peak_memory(rollouts: list[Rollout], overrides: dict, names: tuple[str, ...] = tuple(STAGES)) -> pd.Series:
    """MiB that training takes beyond the loaded models and data, by (stage, side), each in a process of its own.

    NaN where the system does not tell (anywhere but on Linux).
    """
    # A fork server imports once for all of its children. They start from there and not from this process, whose freed
    # memory they could use again unseen.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    keys = [(name, side) for name in names for side in SIDES]
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        jobs = [pool.submit(_peak, *key, rollouts, with_steps(overrides, MEMORY_STEPS)) for key in keys]
        peaks = [job.result() for job in tqdm(jobs, desc="stages, memory", unit="process", leave=False)]
    return pd.Series(peaks, pd.MultiIndex.from_tuples(keys, names=["stage", "side"]), name="peak_mib")


def _peak(name: str, side: str, rollouts: list[Rollout], overrides: dict) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return peak_of(lambda: build(name, side, Path(folder), rollouts, overrides).train, "cpu")


def summary(steps: pd.DataFrame, peaks: pd.Series) -> pd.DataFrame:
    """The table of the stages' costs.

    Args:
        steps: Of `step_seconds`.
        peaks: Of `peak_memory`.

    Returns:
        One row a stage and side: `seconds_step` (median over all timed steps) with its quartiles `q25` and `q75`,
        `seconds_sampling` (of a step, median), `tokens_step` (with loss, mean), `seconds_1k_tokens`, `peak_mib`, and
        `over_trl` (the side's median step over TRL's within a round, median over the rounds) with `smallest` and
        `largest`.
    """
    rows = []
    for name, part in steps.groupby("stage", sort=False):
        medians = part.groupby(["round", "side"])["seconds"].median().unstack()
        within = ratios(medians, over="TRL")
        for side in SIDES:
            own = part[part["side"] == side]
            low, middle, high = own["seconds"].quantile([0.25, 0.5, 0.75])
            rows.append(
                {
                    "stage": name,
                    "side": side,
                    "seconds_step": middle,
                    "q25": low,
                    "q75": high,
                    "seconds_sampling": own["sampling"].median(),
                    "tokens_step": own["tokens"].mean(),
                    "seconds_1k_tokens": (own["seconds"] / own["tokens"]).median() * 1000,
                    "peak_mib": peaks[name, side],
                    "over_trl": within.loc[side, "ratio"],
                    "smallest": within.loc[side, "smallest"],
                    "largest": within.loc[side, "largest"],
                }
            )
    return pd.DataFrame(rows)


def stages_cost(rounds: int = 4, steps: int = 8, overrides: dict | None = None) -> pd.DataFrame:
    """Time and peak memory of an optimiser step of every stage and of TRL's trainer: about two minutes.

    Args:
        rounds: Of both sides of a stage.
        steps: Timed optimiser steps of a side's round.
        overrides: Of the profile.

    Returns:
        See `summary`.
    """
    overrides = overrides or {}
    rollouts = teacher_samples(overrides)
    return summary(step_seconds(rollouts, rounds, steps, overrides), peak_memory(rollouts, overrides))
