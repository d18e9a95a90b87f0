"""One optimiser step of the self-distillation trainer on rollouts that are given, not sampled: the same however it is cut."""

import copy

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig

from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.stages.self_distillation import SelfDistillationTrainer
from s2d_lib.stages.self_teacher import Reprompts
from s2d_lib.study import resolve
from s2d_lib.study.stage_params import SELF_TAUGHT, SelfDistillation

SIZE = 4  # rollouts of one prompt
MIXED = [1, 0, 0, 1] + [0, 0, 0, 0] + [0, 1, 0, 0] + [1, 1, 1, 1]  # noqa: RUF005 (groups)
TEMPLATE = "{solution} {question}"
ARGUMENTS = {
    "num_generations": SIZE, "max_completion_length": 12, "report_to": "none", "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "save_strategy": "no", "logging_steps": 1, "shuffle_dataset": False, "optim": "sgd",
    "learning_rate": 0.1, "lr_scheduler_type": "constant", "disable_tqdm": True, "epsilon_high": 0.28, "beta": 0.0,
}  # fmt: skip


def student():
    """The released micro student."""
    resolved = resolve("micro-full", "student", 0)
    return load_policy(resolved.model, resolved.hardware)


def questions(n: int):
    """The first problems of the label pool."""
    return load_problems(resolve("micro-full", "student.grpo", 0).problems).pool[:n]


def completions(n: int, longest: int = 12) -> list[list[int]]:
    """As many different completions, of 2 to `longest` tokens, the last one EOS."""
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(1, longest, (n,), generator=generator).tolist()
    return [[*torch.randint(5, 49, (length,), generator=generator).tolist(), 1] for length in lengths]


class Given(SelfDistillationTrainer):
    """Takes the completions of a generation batch from `self.given`."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        return self.given, None


class KeepGradients(TrainerCallback):
    """All gradients of every optimiser step, as one vector each, after clipping."""

    def __init__(self, steps: list):
        self.steps = steps

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.requires_grad]))


def params(method: str, **options) -> SelfDistillation:
    fixed = {"steps": 1, "learning_rate": 0.1, "batch": 16, "micro_batch": 4, "group_size": SIZE}
    shown = {"reprompt": TEMPLATE} if method in SELF_TAUGHT else {}
    return SelfDistillation(method=method, **fixed | shown | options)


def trainer(folder, method, rewards, micro, *, steps=1, per_step=16, config=None, peft=None, **options):
    """A trainer whose rollouts are given, on `len(rewards)` of them a sampling and `per_step` an optimiser step; `options` are
    the stage's, `config` is laid over TRL's arguments."""
    policy, given, chosen = student(), completions(len(rewards)), params(method, **options)
    grades = {tuple(ids): reward for ids, reward in zip(given, rewards, strict=True)}

    def graded(completion_ids, **_):
        return [grades[tuple(ids)] for ids in completion_ids]

    arguments = ARGUMENTS | {"output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": micro}
    arguments |= {"gradient_accumulation_steps": per_step // micro, "steps_per_generation": len(rewards) // micro}
    rows = [{"prompt": p.prompt, "question": p.prompt} for p in questions(len(rewards) // SIZE)]
    made = Given(
        model=policy.model,
        params=chosen,
        reprompts=Reprompts(policy, TEMPLATE, chosen.feedback_reprompt) if method in SELF_TAUGHT else None,
        reward_funcs=graded,
        args=GRPOConfig(**arguments | {"scale_rewards": chosen.scale_rewards} | (config or {})),
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        peft_config=peft,
    )
    made.given = given
    return made


def outcome(made) -> dict:
    """Train; the losses, the gradients, the weights and the metrics."""
    before, gradients = copy.deepcopy(made.model.state_dict()), []
    made.add_callback(KeepGradients(gradients))
    made.train()
    rows, weights = [row for row in made.state.log_history if "loss" in row], made.model.state_dict()
    losses = [row["loss"] for row in rows]
    return {"losses": losses, "gradients": gradients, "weights": weights, "before": before, "metrics": rows}
