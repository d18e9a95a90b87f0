"""What an optimiser step of paper B's methods costs, beside TRL's GRPOTrainer and experimental SDPOTrainer.

All start from the same released base model, which has seen prompts that carry a solution, with the same prompts,
hyperparameters and seed, hence the same first rollouts; one whose first batch differs is refused. SDPO compares whole
vocabularies on both sides, with a self-teacher that follows the student at the same rate.
"""

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer
from trl import GRPOTrainer

from s2d_lib.bench.stages import NEVER, UNTIMED, Observed
from s2d_lib.errors import StudyError
from s2d_lib.grading import make_reward
from s2d_lib.policies.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import PlacedRun
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.self_distillation import self_distillation_trainer
from s2d_lib.study import resolve
from s2d_lib.study.profile import METHODS, laid_over

PROFILE, CHECKPOINT, SEED = "micro-table-lookup", "student.srpo", 0
SHARED = (
    "output_dir",
    "max_steps",
    "learning_rate",
    "warmup_steps",
    "per_device_train_batch_size",
    "save_steps",
    "seed",
)
SHARED += (
    "gradient_accumulation_steps",
    "logging_steps",
    "use_cpu",
    "bf16",
    "report_to",
    "disable_tqdm",
    "shuffle_dataset",
)
SHARED += ("steps_per_generation", "num_generations", "max_completion_length", "temperature", "top_p")


def _ours(method: str) -> Callable[[Path, dict], Trainer]:
    return lambda folder, overrides: self_distillation_trainer(*prepared(folder, overrides, method))


def _trls_grpo(folder: Path, overrides: dict) -> Trainer:
    ours = _ours("grpo")(folder, overrides)
    _, inputs = prepared(folder, overrides)
    return GRPOTrainer(
        model=inputs.policy.model,
        reward_funcs=make_reward(inputs.problems.grading),
        args=ours.args,
        train_dataset=ours.train_dataset,
        processing_class=inputs.policy.tokenizer,
    )


def _trls_sdpo(folder: Path, overrides: dict) -> Trainer:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    ours = _ours("sdpo")(folder, overrides)
    run, inputs = prepared(folder, overrides)
    params = run.resolved.stage_params
    config = SDPOConfig(
        **{name: getattr(ours.args, name) for name in SHARED},
        lr_scheduler_type="constant_with_warmup",
        gradient_checkpointing=False,
        distillation_mode="full_logits",
        distillation_alpha=0.5,
        teacher_model_kind="ema",
        teacher_update_rate=params.ema_rate,
        reprompt_template=params.reprompt.replace("{question}", "{prompt}"),
        solution_template="{successful_previous_attempt}",
        success_reward_threshold=1.0,
        dont_reprompt_on_self_success=True,
    )
    return SDPOTrainer(
        model=inputs.policy.model,
        reward_funcs=make_reward(inputs.problems.grading),
        args=config,
        train_dataset=ours.train_dataset,
        processing_class=inputs.policy.tokenizer,
    )


CONTENDERS: dict[str, Callable[[Path, dict], Trainer]] = {
    "GRPO, TRL": _trls_grpo,
    "SDPO, TRL": _trls_sdpo,
    **{f"{name}, s2d": _ours(name) for name in METHODS},
}
"""Name -> makes its trainer in an empty folder, from the profile's overrides."""


def prepared(folder: Path, overrides: dict, method: str = "srpo") -> tuple[PlacedRun, Inputs]:
    """A run of a method in a folder, and its model and problems."""
    resolved = resolve(PROFILE, CHECKPOINT, SEED, overrides)
    params = laid_over("self_distillation", resolved.params, {"method": method, "save_steps": NEVER})
    run = PlacedRun(resolved.model_copy(update={"params": params}), place=folder)
    policy = load_policy(run.resolved.model, run.resolved.hardware)
    return run, Inputs(policy, load_problems(run.resolved.problems))


def methods_cost(rounds: int = 3, steps: int = 8, overrides: dict | None = None) -> pd.DataFrame:
    """Time the contenders in turn, their order reversed from round to round.

    Args:
        rounds: Trainings of each, all from the same weights.
        steps: Timed optimiser steps of a training; UNTIMED more go before them.
        overrides: Of the profile; a batch must be one micro-batch, so that the first ones can be compared.

    Returns:
        One row a contender: `contender`; `seconds_step` (median over all timed steps) with its quartiles `q25` and `q75`;
        `seconds_sampling` of it (median); `over_trl`, the median step over that of TRL's GRPO within a round, a median
        over the rounds with `smallest` and `largest`.

    Raises:
        StudyError: When a contender's first batch differs from the others'.
    """
    given = {} if overrides is None else dict(overrides)
    own = given.get("stages", {}).get("self_distillation", {}) | {"steps": UNTIMED + steps}
    given["stages"] = given.get("stages", {}) | {"self_distillation": own}
    rows, first = [], {}
    for number in tqdm(range(rounds), desc="methods", unit="round", leave=False):
        for name in list(CONTENDERS)[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                trainer = CONTENDERS[name](Path(folder), given)
                trainer.__class__ = type(f"Observed{type(trainer).__name__}", (Observed, type(trainer)), {})
                trainer.remove_callback(PrinterCallback)
                trainer.train()
            first[name] = trainer.first_batch
            for row in trainer.state.log_history:
                if "loss" in row and row["step"] > UNTIMED:
                    times = {"seconds": row["seconds/step"], "sampling": row["seconds/sampling"]}
                    rows.append({"contender": name, "round": number, **times})
            del trainer
            gc.collect()
    for name, batch in first.items():
        if sorted(batch.tolist()) != sorted(first["GRPO, TRL"].tolist()):  # GRPO shuffles it, TRL's SDPO does not
            raise StudyError(f"{name}: its first batch is not that of TRL's GRPO, so their seconds can't be compared.")
    return _summary(pd.DataFrame(rows))


def _summary(steps: pd.DataFrame) -> pd.DataFrame:
    medians = steps.groupby(["round", "contender"])["seconds"].median().unstack()
    over = medians.div(medians["GRPO, TRL"], axis=0)
    rows = []
    for name, own in steps.groupby("contender", sort=False):
        low, middle, high = own["seconds"].quantile([0.25, 0.5, 0.75])
        rows.append(
            {
                "contender": name,
                "seconds_step": middle,
                "q25": low,
                "q75": high,
                "seconds_sampling": own["sampling"].median(),
                "over_trl": over[name].median(),
                "smallest": over[name].min(),
                "largest": over[name].max(),
            }
        )
    return pd.DataFrame(rows).sort_values("contender", key=lambda names: names.map(list(CONTENDERS).index))
