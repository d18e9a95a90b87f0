"""One optimiser step of the self-distillation trainer on rollouts that are given, not sampled: the same however it is cut."""

import copy
import json
import sys
from pathlib import Path

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
    """Takes the completions of a generation batch, over all processes, from `self.given`."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        first = self.accelerator.process_index * len(prompt_ids)
        return self.given[first : first + len(prompt_ids)], None


class KeepGradients(TrainerCallback):
    """All gradients of every optimiser step, as one vector each, after clipping."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.requires_grad]))


def params(method: str, **options) -> SelfDistillation:
    fixed = {"steps": 1, "learning_rate": 0.1, "batch": 16, "micro_batch": 4, "group_size": SIZE}
    if method in SELF_TAUGHT:
        fixed["reprompt"] = TEMPLATE
    return SelfDistillation(method=method, **fixed | options)


class Graded:
    """A reward function with an answer for every completion."""

    __name__ = "graded"

    def __init__(self, graded: dict[tuple[int, ...], float]):
        self.graded = graded

    def __call__(self, completion_ids, **_):
        return [self.graded[tuple(ids)] for ids in completion_ids]


def trainer(
    folder,
    method: str,
    rewards: list[float],
    micro: int,
    *,
    steps=1,
    per_step=16,
    cls=Given,
    config=None,
    peft=None,
    **options,
):
    """A trainer whose rollouts are given, on `len(rewards)` of them a sampling and `per_step` an optimiser step."""
    policy, given = student(), completions(len(rewards))
    graded = {tuple(ids): reward for ids, reward in zip(given, rewards, strict=True)}
    problems = questions(len(rewards) // SIZE)
    chosen = params(method, **options)
    arguments = {
        "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": micro, "num_generations": SIZE,
        "max_completion_length": 12, "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "save_strategy": "no", "logging_steps": 1, "shuffle_dataset": False, "optim": "sgd", "learning_rate": 0.1,
        "lr_scheduler_type": "constant", "scale_rewards": chosen.scale_rewards, "disable_tqdm": True, "epsilon_high": 0.28,
        "beta": 0.0,
    }  # fmt: skip
    arguments = {**arguments, **(config or {})}
    world = GRPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none").world_size
    arguments.setdefault("gradient_accumulation_steps", per_step // micro // world)
    arguments.setdefault("steps_per_generation", len(rewards) // micro // world)
    made = cls(
        model=policy.model,
        params=chosen,
        reprompts=Reprompts(policy, TEMPLATE, chosen.feedback_reprompt) if method in SELF_TAUGHT else None,
        reward_funcs=Graded(graded),
        args=GRPOConfig(**arguments),
        train_dataset=Dataset.from_list([{"prompt": p.prompt, "question": p.prompt} for p in problems]),
        processing_class=policy.tokenizer,
        callbacks=[KeepGradients()],
        peft_config=peft,
    )
    made.given = given
    return made


def outcome(made) -> dict:
    """Train; the losses, the gradients, the weights and the metrics."""
    before = copy.deepcopy(made.model.state_dict())
    made.train()
    kept = next(c for c in made.callback_handler.callbacks if isinstance(c, KeepGradients))
    rows = [row for row in made.state.log_history if "loss" in row]
    return {
        "losses": [row["loss"] for row in rows],
        "gradients": kept.steps,
        "weights": {name: value.clone() for name, value in made.model.state_dict().items()},
        "before": before,
        "metrics": rows,
    }


def main(folder: str, method: str, micro: int) -> None:
    """One of several processes: take the step and let the first process keep its outcome."""
    made = trainer(folder, method, MIXED, micro)
    result = outcome(made)
    if made.accelerator.process_index == 0:
        torch.save({name: result[name] for name in ("losses", "gradients", "weights")}, Path(folder) / "outcome.pt")
        (Path(folder) / "metrics.json").write_text(json.dumps(result["metrics"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
