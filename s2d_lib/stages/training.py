"""What all training stages share: the order of the data, TRL's arguments, resuming, and what is kept of a run."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback

from s2d_lib.errors import StudyError
from s2d_lib.models.sharing import before_sharding, from_first
from s2d_lib.runs import Run
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.live import PROGRESS, WORKER, LiveCurve, WriteProgress
from s2d_lib.stages.saving import keep_model
from s2d_lib.stages.trackers import Tracker
from s2d_lib.stages.validation import Validation
from s2d_lib.study import derive_seed
from s2d_lib.study.stage_params import Training


def run_seed(run: Run, purpose: str) -> int:
    """Seed of one random stream of a run: no two checkpoints, seeds or purposes share one.

    Runs of one checkpoint and seed that differ only in parameters do, on purpose: common random numbers make learning
    rates comparable.
    """
    resolved = run.resolved
    return derive_seed(resolved.profile, resolved.checkpoint, resolved.seed, purpose)


def schedule(items: int, per_step: int, steps: int, seed: int) -> list[int]:
    """Which items every optimiser step takes, in order: fresh permutations of all, one after the other.

    Laid out beforehand, so that a resumed run sees the same order and the record knows every use of a problem.

    Args:
        items: How many there are.
        per_step: How many a step takes.
        steps: Optimiser steps.
        seed: Of the permutations.

    Returns:
        `per_step * steps` indices; none comes n + 1 times before all came n times.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < per_step * steps:
        order += rng.permutation(items).tolist()
    return order[: per_step * steps]


def scheduled(rows: list[dict], per_step: int, steps: int, seed: int, copies: int = 1) -> Dataset:
    """The rows of every optimiser step by `schedule`, each so many times: an index over one pass, which alone is held."""
    order = schedule(len(rows), per_step, steps, seed)
    return Dataset.from_list(rows).select([row for row in order for _ in range(copies)])


def trainer_arguments(run: Run, params: Training) -> dict[str, Any]:
    """The arguments that every TRL config gets."""
    hardware = run.resolved.hardware
    return {
        "output_dir": str(run.path("trainer")),
        "max_steps": params.steps,
        "learning_rate": params.learning_rate,
        # Plain "constant" has no warmup: transformers would not read warmup_steps.
        "lr_scheduler_type": "constant_with_warmup" if params.schedule == "constant" else params.schedule,
        "warmup_steps": params.warmup_steps,
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.max_grad_norm,
        "per_device_train_batch_size": params.micro_batch,
        "gradient_accumulation_steps": params.batch // params.micro_batch // hardware.processes,
        "gradient_checkpointing": hardware.gradient_checkpointing,
        "bf16": hardware.dtype == "bfloat16",
        "use_cpu": hardware.device == "cpu",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log a NaN loss as 0 and hide it from StopOnNonFinite
        "save_steps": params.save_steps,
        "save_total_limit": 2,
        "report_to": "none",  # Tracker logs, into the run's folder
        "seed": run_seed(run, "training"),
        "shuffle_dataset": False,  # `schedule` has laid the order out
        "pad_to_multiple_of": None,
        "disable_tqdm": True,  # LiveCurve shows the progress
        **_gradients_in_shards(),
    }


def _gradients_in_shards() -> dict[str, Any]:
    """Under FSDP the gradients of every micro-batch go into shards at once. transformers would leave them whole in every
    process until the last one, in float32: as much memory again as a whole model's weights."""
    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return {}
    return {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}}}


class StopOnNonFinite(TrainerCallback):
    """Ends training at the first loss or gradient norm that is not a finite number."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Look at every logged step."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(float(value)):
                raise StudyError(
                    f"{name} is {value} at step {state.global_step}: lower the learning rate; the checkpoints before "
                    f"this step are in {args.output_dir}."
                )


def train(run: Run, inputs: Inputs, trainer: Trainer, title: str, cost: Callable[[pd.DataFrame], dict]) -> pd.DataFrame:
    """Train, resuming where an interrupted attempt stopped, and keep the model and the metrics of every step.

    Args:
        run: The run.
        inputs: Whose policy is trained; it holds the trained model afterwards.
        trainer: TRL's, built.
        title: Above the live curve.
        cost: From the metrics to what the record says of labels and tokens; kept before the model is, since a model
            that is there counts as training that is over.

    Returns:
        The metrics, one row an optimiser step.

    Raises:
        StudyError: On a non-finite loss, or when fewer steps were taken than asked for.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StopOnNonFinite())
    trainer.add_callback(WriteProgress(run.path(PROGRESS)) if WORKER in os.environ else LiveCurve(title))
    if run.resolved.logging != "none":
        trainer.add_callback(Tracker(run))
    if run.resolved.validation:
        trainer.add_callback(Validation(run, inputs))
    if trainer.is_fsdp_enabled:
        before_sharding(trainer.model, trainer.accelerator)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(run.path("trainer")))
    asked = run.resolved.params["steps"]
    if trainer.state.global_step != asked:
        raise StudyError(
            f"{run.resolved.checkpoint!r} took {trainer.state.global_step} of {asked} steps: too little data."
        )
    metrics = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    metrics = metrics[["step", *[c for c in metrics.columns if c not in ("step", "epoch")]]]
    if trainer.is_world_process_zero():
        metrics.to_csv(run.path("metrics.csv"), index=False)
        parts = {
            name: metrics[name].sum() for name in metrics if name.startswith("seconds/") and name != "seconds/step"
        }
        phases = {name.removeprefix("seconds/"): seconds for name, seconds in parts.items()}
        run.spent(**phases, updates=metrics["seconds/step"].sum() - sum(phases.values()))
        run.remember(optimizer_steps=int(asked), **cost(metrics))
    keep_model(run, inputs, trainer)
    return metrics


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest trainer checkpoint whose state can be read; half-written ones are removed, by the first process alone."""
    return from_first(lambda: _last_whole_checkpoint(folder))


def _last_whole_checkpoint(folder: Path) -> str | None:
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.split("-")[1])):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # transformers writes it last
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
            continue
        return str(checkpoint)
    return None


def finished_metrics(run: Run) -> pd.DataFrame | None:
    """Metrics of a run whose training is over, or None."""
    over = run.path("model").is_dir() and run.path("metrics.csv").is_file()
    return pd.read_csv(run.path("metrics.csv")) if over else None
