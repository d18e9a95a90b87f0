"""Seconds of an optimiser step of every stage beside the same step of TRL's own trainer, and of sampling.

Both sides start from the same released micro models with the same prompts, hyperparameters and seeds, hence the same first
rollouts; a pair whose first batches differ is refused. Next-token training is TRL's trainer on our side too: its ratio shows
how well a ratio of one is resolved.
"""

import gc
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
from transformers import PrinterCallback, Trainer
from trl import DistillationTrainer, GRPOConfig, GRPOTrainer, SFTTrainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from benchmarks.timing import compared, seconds_of
from s2d_lib.errors import StudyError
from s2d_lib.grading import CorrectnessReward
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout, sample
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import trainer_arguments
from s2d_lib.stages.dense import dense_trainer
from s2d_lib.stages.rl import sparse_trainer
from s2d_lib.stages.self_distillation import self_distillation_trainer
from s2d_lib.stages.sft import sample_trainer
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge

SEED = 0
UNTIMED = 2  # steps at the start of a training, in which caches and memory pools fill


class StoredCompletions(DistillationTrainer):
    """TRL's trainer and TRL's loss (release 1.16) on stored completions, for which it has no mode; nothing else is changed."""

    def _generate_and_score_completions(self, inputs):
        self._stored = [row["completion_ids"] for row in inputs]
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, *args, **kwargs):
        return self._stored


def sdpo_config(run: Run, args: GRPOConfig) -> SDPOConfig:
    """Our settings for TRL's experimental SDPO, whose defaults are ours otherwise: whole vocabularies, and our reprompts."""
    params = run.resolved.stage_params
    common = trainer_arguments(run)
    del common["pad_to_multiple_of"]  # which it lacks
    same = ("steps_per_generation", "num_generations", "max_completion_length", "temperature", "top_p")
    return SDPOConfig(
        **common | {name: getattr(args, name) for name in same},
        distillation_mode="full_logits",
        distillation_alpha=params.beta,
        reprompt_template=params.reprompt.replace("{question}", "{prompt}"),
        solution_template="{successful_previous_attempt}",
    )


# Profile and checkpoint, which is trained from the released student; who makes its trainer; TRL's for the same step
STAGES = {
    "GRPO": ("micro", "student.grpo", sparse_trainer, GRPOTrainer),
    "forward KL": ("micro", "student.warm.raw_teacher", dense_trainer, StoredCompletions),
    "OPD": ("micro", "student.bridge.raw_teacher", dense_trainer, DistillationTrainer),
    "teacher-sample SFT": ("micro", "student.teacher_sample_sft.rl_teacher", sample_trainer, SFTTrainer),
    "SDPO": ("micro-table-lookup", "student.sdpo", self_distillation_trainer, SDPOTrainer),
    "SRPO, beside GRPO": ("micro-table-lookup", "student.srpo", self_distillation_trainer, GRPOTrainer),
}


def released(profile: str, role: str) -> Policy:
    """A base model of the micro family."""
    base = resolve(profile, role, SEED)
    return load_policy(base.model, base.hardware)


def teacher_samples(overrides: dict) -> list[Rollout]:
    """The released teacher's rollouts on the label pool; it stands in for the RL teacher: nothing need be trained first."""
    resolved = resolve("micro", "teacher.rollouts.full", SEED, overrides)
    how = {"samples": resolved.stage_params.samples_per_problem, "sampling": resolved.sampling, "seed": SEED}
    return sample(released("micro", "teacher"), load_problems(resolved.problems).pool, **how, show=False)


def build(name: str, side: str, folder: Path, rollouts: list[Rollout], overrides: dict, training: dict) -> Trainer:
    """A stage's trainer of side `s2d` or `TRL`, with freshly loaded models, writing into an empty folder; `training` is laid over
    the stage's hyperparameters in `overrides`."""
    profile, checkpoint, ours, trls = STAGES[name]
    over = deep_merge(overrides, {"stages": {resolve(profile, checkpoint, SEED).stage: training}})
    run = Run(resolve(profile, checkpoint, SEED, over), place=folder)
    policy, problems = released(profile, "student"), load_problems(run.resolved.problems)
    teacher = released(profile, "teacher") if "teacher" in run.resolved.parents else None
    made = ours(run, Inputs(policy, problems, teacher, rollouts))
    if side == "s2d":
        return made
    args, more = sdpo_config(run, made.args) if trls is SDPOTrainer else made.args, {}
    if issubclass(trls, DistillationTrainer):
        more["teacher_model"] = teacher.model
    if trls in (GRPOTrainer, SDPOTrainer):
        more["reward_funcs"] = CorrectnessReward(problems.grading)
    given = {"args": args, "train_dataset": made.train_dataset, "processing_class": policy.tokenizer}
    return trls(model=policy.model, **given, **more)


def train(trainer: Trainer) -> tuple[float, list[list[int]]]:
    """Median seconds from one step's loss to the next one's, and the first batch's token ids, sorted: GRPO shuffles the rows."""
    compute_loss, moments, first = trainer.compute_loss, [], []

    def watched(model, inputs, *args, **kwargs):
        if not moments:
            first.extend(sorted(inputs["completion_ids" if "completion_ids" in inputs else "input_ids"].tolist()))
        moments.append(time.perf_counter())
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = watched
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return pd.Series(moments).diff()[UNTIMED + 1 :].median(), first


def stages_cost(rounds: int = 3, steps: int = 8, overrides: dict | None = None) -> pd.DataFrame:
    """Train every stage on both sides in turn, in every round from the same weights and so many timed steps: two minutes. Under
    `overrides`, of the profiles, a batch must be one micro-batch.

    Returns:
        `compared`'s columns and `stage`; `seconds` are a step's, sampling included.

    Raises:
        StudyError: When the two sides' first batches differ.
    """
    given, tables, training = overrides or {}, {}, {"steps": UNTIMED + steps + 1, "save_steps": 10**9}
    rollouts = teacher_samples(given)
    for name in STAGES:
        first: dict[str, list] = {}

        def once(side: str, name=name, first=first) -> float:
            gc.collect()
            with tempfile.TemporaryDirectory() as folder:
                seconds, first[side] = train(build(name, side, Path(folder), rollouts, given, training))
            return seconds

        tables[name] = compared({side: partial(once, side) for side in ("s2d", "TRL")}, "TRL", rounds, name)
        if first["s2d"] != first["TRL"]:
            raise StudyError(f"{name}: the two sides' first batches differ, so their seconds can't be compared.")
    return pd.concat(tables, names=["stage"]).reset_index("stage")


def sampling_cost(batches: tuple[int, ...] = (64, 256, 1600), problems: int = 100, rounds: int = 3) -> pd.DataFrame:
    """Sample from the released micro models, 16 times a problem, so many rollouts at a time.

    Returns:
        `compared`'s columns without a ratio, and `tokens_per_second`; `seconds` are those of all rollouts.
    """
    resolved, draws = resolve("micro", "student.grpo", SEED), {}
    pool, asked = load_problems(resolved.problems).pool[:problems], {"samples": 16, "seed": SEED, "show": False}
    for role, batch in product(("student", "teacher"), batches):
        sampling = resolved.sampling.model_copy(update={"batch": batch})
        draws[f"{role}, batch {batch}"] = partial(sample, released("micro", role), pool, sampling=sampling, **asked)
    tokens = [sum(len(r.ids) for r in draw()) for draw in draws.values()]
    measures = {name: partial(seconds_of, draw) for name, draw in draws.items()}
    table = compared(measures, next(iter(draws)), rounds, "sampling").iloc[:, :-1]
    return table.assign(tokens_per_second=tokens / table["seconds"])
