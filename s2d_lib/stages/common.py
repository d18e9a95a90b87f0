"""What all training stages share: the order of the data, TRL's arguments, clocks and callbacks, resuming, and what is kept."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from accelerate.utils import DistributedType
from datasets import Dataset
from IPython import get_ipython
from IPython.display import display
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback

from s2d_lib.errors import StudyError
from s2d_lib.models.adapters import lora_config, merged, save_adapter
from s2d_lib.models.policy import CHAT_TEMPLATE_KWARGS, save_policy
from s2d_lib.models.sharing import before_sharding, from_first
from s2d_lib.runs import LOGS, Run
from s2d_lib.stages import Inputs
from s2d_lib.study import derive_seed
from s2d_lib.vllm import check_syncs, vllm_arguments

WORKER = "S2D_WORKER"  # environment variable, set in the processes that train for a notebook (s2d_lib.stages.training)
PROGRESS = ".progress.jsonl"  # file of an unfinished run in which workers tell their progress
SECONDS_BETWEEN_DRAWINGS = 5.0  # drawing costs about 0.1 s; often enough to watch, rarely enough not to slow training


def run_seed(run: Run, purpose: str) -> int:
    """Seed of one random stream of a run: no two checkpoints, seeds or purposes share one.

    Runs of one checkpoint and seed that differ only in parameters do, on purpose: common random numbers make learning
    rates comparable.
    """
    resolved = run.resolved
    return derive_seed(resolved.profile, resolved.checkpoint, resolved.seed, purpose)


def schedule(items: int, per_step: int, steps: int, seed: int) -> list[int]:
    """Which of the items every optimiser step takes, `per_step * steps` indices: fresh permutations, one after the other, so that
    none comes n + 1 times before all came n times. Laid out beforehand: a resumed run sees the same order.
    """
    rng, taken = np.random.default_rng(seed), per_step * steps
    passes = [rng.permutation(items) for _ in range(-(-taken // items))]
    return np.concatenate(passes)[:taken].tolist()


def scheduled(rows: list[dict], per_step: int, steps: int, seed: int, copies: int = 1) -> Dataset:
    """The rows of every optimiser step by `schedule`, each so many times: an index over one pass, which alone is held."""
    order = schedule(len(rows), per_step, steps, seed)
    return Dataset.from_list(rows).select([row for row in order for _ in range(copies)])


def trainer_arguments(run: Run) -> dict[str, Any]:
    """The arguments that every TRL config gets."""
    resolved, hardware, params = run.resolved, run.resolved.hardware, run.resolved.stage_params
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path(LOGS))  # where transformers' callback looks for its folder
    arguments = {
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
        "report_to": resolved.logging,
        "project": resolved.profile,
        "run_name": f"{resolved.checkpoint}@{resolved.seed}",
        "seed": run_seed(run, "training"),
        "shuffle_dataset": False,  # `schedule` has laid the order out
        "pad_to_multiple_of": None,
        "disable_tqdm": True,  # LiveCurve shows the progress
    }
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # The gradients of every micro-batch go into shards at once. transformers would leave them whole in every process
        # until the last one, in float32: as much memory again as a whole model's weights.
        arguments["accelerator_config"] = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    return arguments


def sampling_arguments(run: Run, inputs: Inputs) -> dict[str, Any]:
    """The arguments that the configs of those trainers get beside, which sample."""
    sampling = run.resolved.sampling
    return {
        "max_completion_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 0,
        "chat_template_kwargs": CHAT_TEMPLATE_KWARGS if inputs.policy.chat else None,
        **vllm_arguments(run, inputs.policy, inputs.problems.pool),
    }


def trained(
    run: Run, inputs: Inputs, rows: list[dict], per_step: int, steps: int | None = None, copies: int = 1
) -> dict[str, Any]:
    """What every trainer is given: the policy, its adapters, and the rows `scheduled` for the run's steps, or as many as said."""
    policy, params = inputs.policy, run.resolved.stage_params
    return {
        "model": policy.model,
        "processing_class": policy.tokenizer,
        "peft_config": lora_config(policy.model, params.lora),
        "train_dataset": scheduled(rows, per_step, steps or params.steps, run_seed(run, "order"), copies),
    }


class StepMetrics:
    """Goes before a TRL trainer in a subclass's bases: what TRL 1.16 does not say of an optimiser step.

    `seconds/step` is the wall time from the step's first micro-batch to its update, `seconds/sampling` the part of it that
    rollouts took (TRL's `step_time` leaves out the update, and tells how long it sampled to a tracker only). A step that uses
    an earlier step's sampling gets the metrics of that, beside its own loss, divergence and clipping.
    """

    _step_began: float | None = None
    _sampling = 0.0
    _of_sampling: dict[str, list[float]] = {}  # noqa: RUF012 (replaced, never changed)

    def training_step(self, *args, **kwargs):
        """Start the step's clock at its first micro-batch."""
        if self._step_began is None:
            self._step_began = time.perf_counter()
        return super().training_step(*args, **kwargs)

    def _generate_single_turn(self, *args, **kwargs):
        began = time.perf_counter()
        try:
            return super()._generate_single_turn(*args, **kwargs)
        finally:
            self._sampling += time.perf_counter() - began

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add to what TRL logs after an optimiser step."""
        if self._step_began is not None and "loss" in logs:
            logs = logs | {"seconds/step": time.perf_counter() - self._step_began, "seconds/sampling": self._sampling}
            self._step_began, self._sampling = None, 0.0
            found = self._metrics["train"]
            if "reward" in found:
                self._of_sampling = {name: list(values) for name, values in found.items()}
            else:
                found |= self._of_sampling | found
        super().log(logs, *args, **kwargs)


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


class LiveCurve(TrainerCallback):
    """A bar over the optimiser steps and, in a notebook, the reward (or, without one, the loss) so far, redrawn in place."""

    def __init__(self, title: str):
        self.title, self.bar, self.handle, self.drawn = title, None, None, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar where training starts or resumes."""
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", mininterval=1.0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Move the bar; redraw when the last drawing is old enough."""
        self.bar.update(state.global_step - self.bar.n)
        if time.monotonic() - self.drawn > SECONDS_BETWEEN_DRAWINGS:
            self._draw(state)

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar and draw the whole curve."""
        self.bar.close()
        self._draw(state)

    def _draw(self, state) -> None:
        rows = [row for row in state.log_history if "loss" in row]
        if get_ipython() is None or not rows:
            return
        name = "reward" if "reward" in rows[0] else "loss"
        figure, axes = plt.subplots(figsize=(6, 2.4))
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], linewidth=1.2)
        steps = f"optimiser step (of {state.max_steps})"
        axes.set(title=self.title, xlabel=steps, ylabel=name, xlim=(0, state.max_steps))
        plt.close(figure)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
        self.drawn = time.monotonic()


class WriteProgress(TrainerCallback):
    """In the first worker: every logged step as a line for the notebook that waits."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append the step."""
        if state.is_world_process_zero and "loss" in (logs or {}):
            kept = {name: logs[name] for name in ("loss", "reward") if name in logs}
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(kept | {"step": state.global_step}) + "\n")


def run_trainer(run: Run, inputs: Inputs, trainer: Trainer, cost: Callable[[pd.DataFrame], dict]) -> pd.DataFrame:
    """Let a trainer train, resuming where an interrupted attempt stopped, and keep the model and the metrics of every step.

    Args:
        run: The run.
        inputs: Whose policy is trained; it holds the trained model afterwards.
        trainer: TRL's, built.
        cost: From the metrics to what the record says of labels and tokens; kept before the model is, since a model
            that is there counts as training that is over.

    Returns:
        The metrics, one row an optimiser step.

    Raises:
        StudyError: On a loss that is not finite or has no gradient.
    """
    if hasattr(trainer, "vllm_generation"):
        check_syncs(trainer, run, inputs.policy, inputs.problems.pool)
    trainer.remove_callback(PrinterCallback)
    shown = WriteProgress(run.path(PROGRESS)) if WORKER in os.environ else LiveCurve(run.resolved.checkpoint)
    for callback in (StopOnNonFinite(), shown, *inputs.callbacks):
        trainer.add_callback(callback)
    if trainer.is_fsdp_enabled:
        before_sharding(trainer.model, trainer.accelerator)
    try:
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(run.path("trainer")))
    except RuntimeError as error:  # torch's
        if "does not require grad" not in str(error):
            raise
        raise StudyError(
            f"the loss of stage {run.resolved.stage!r} has no gradient: it must depend on the model."
        ) from None
    metrics = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    metrics = metrics[["step", *[c for c in metrics.columns if c not in ("step", "epoch")]]]
    if trainer.is_world_process_zero():
        metrics.to_csv(run.path("metrics.csv"), index=False)
        run.remember(optimizer_steps=trainer.state.global_step, **cost(metrics))
    keep_model(run, inputs, trainer)
    return metrics


def keep_model(run: Run, inputs: Inputs, trainer: Trainer) -> None:
    """Save what was trained, by the first process: whole weights, from whatever processes hold them, or LoRA's adapters.
    `inputs.policy` holds it afterwards, adapters merged."""
    policy, accelerator, folder = inputs.policy, trainer.accelerator, run.path("model")
    sharded = accelerator.distributed_type == DistributedType.FSDP
    weights = accelerator.get_state_dict(trainer.model_wrapped) if sharded else None  # by all processes together
    # With accelerate's wrapper a bf16 run would be evaluated in bf16 now and in float32 after an interruption.
    policy.model = accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    lora, writes = run.resolved.stage_params.lora, trainer.is_world_process_zero()
    if lora is not None:
        if lora.save == "adapter" and writes:
            save_adapter(policy.model, policy.tokenizer, folder)
        policy.model = merged(policy.model)
    if weights is not None:  # tied ones are gathered as if they were two, and would be saved twice
        weights = {name: value for name, value in weights.items() if name not in policy.model.all_tied_weights_keys}
    if (lora is None or lora.save == "merged") and writes:
        save_policy(policy, folder, weights)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest trainer checkpoint whose state can be read; half-written ones are removed, by the first process alone."""

    def look() -> str | None:
        for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.split("-")[1])):
            try:
                json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # which is written last
                return str(checkpoint)
            except (OSError, ValueError):
                shutil.rmtree(checkpoint)
        return None

    return from_first(look)


def resumed_step(run: Run) -> int:
    """The optimiser step from which an interrupted attempt goes on; 0 where there is none."""
    checkpoint = last_whole_checkpoint(run.path("trainer"))
    return int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0


def finished_metrics(run: Run) -> pd.DataFrame | None:
    """Metrics of a run whose training is over, or None."""
    over = run.path("model").is_dir() and run.path("metrics.csv").is_file()
    return pd.read_csv(run.path("metrics.csv")) if over else None
