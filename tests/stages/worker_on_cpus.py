"""s2d_lib.stages.training on CPUs, with rollouts that do not depend on who samples them and, where a test asks for it, a shared
model and an interruption: `python -m tests.stages.worker_on_cpus <folder>`.

Every rollout has a random stream of its own, by its place in the step. In one process as in several the same prompts then get the
same completions, as long as the policies are the same.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from trl import DistillationTrainer, GRPOTrainer

from s2d_lib.stages import dense, self_teacher, training
from s2d_lib.stages.common import WriteProgress
from s2d_lib.study import derive_seed, project_root

# Variables that name files: what processes say they hold of a teacher; the steps they took
SHARED, STEPS = "S2D_TEST_SHARES", "S2D_TEST_STEPS"


def seed_rollouts(patch=setattr) -> None:
    """Let TRL's trainers sample one prompt at a time; `patch` sets an attribute (monkeypatch's, to take it back)."""

    def one_at_a_time(sampled):
        def generate(self, prompt_ids, *rest, **named):
            first, step, parts = self.accelerator.process_index * len(prompt_ids), self.state.global_step, []
            with torch.random.fork_rng():
                for place, ids in enumerate(prompt_ids, start=first):
                    torch.manual_seed(derive_seed("rollout", step, place))
                    parts.append(sampled(self, [ids], *rest, **named))
            if isinstance(parts[0], tuple):  # GRPO's, with log-probabilities that only vLLM has
                return [ids for found, _ in parts for ids in found], None
            return [ids for found in parts for ids in found]

        return generate

    for trainer in (GRPOTrainer, DistillationTrainer):
        patch(trainer, "_generate_single_turn", one_at_a_time(trainer._generate_single_turn))


def share(file: str) -> None:
    """Let this process share its model as a file in params/accelerate says, as processes on GPUs do; before any state is.

    accelerate 1.15 shares nothing where there are only CPUs: `AcceleratorState.__init__` reads ACCELERATE_USE_FSDP for MULTI_GPU
    and its likes alone. Here it is told that CPU processes are such; everything behind that (the sharding, gloo's collectives,
    TRL's and our trainers, saving) is what runs on GPUs. The process tells the test how much it holds of a teacher.
    """
    config = project_root() / "params" / "accelerate" / file
    # Those that `accelerate launch --config_file` works with
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "--num_processes=2", "script"])
    environment = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    os.environ.update({k: v for k, v in environment.items() if k.startswith(("FSDP_", "ACCELERATE_"))})
    plain, sharded = PartialState.__init__, dense.in_shards

    def like_gpus(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    def tell(model, accelerator):
        model = sharded(model, accelerator)
        held, size = (sum(map(count, model.parameters())) for count in (lambda w: w.to_local().numel(), torch.numel))
        with Path(os.environ[SHARED]).open("a") as stream:
            stream.write(f"{held / size}\n")
        return model

    PartialState.__init__ = like_gpus
    dense.in_shards = self_teacher.in_shards = tell


class InterruptedHereError(Exception):
    """Raised in every process."""


def interrupted(folder: Path) -> None:
    """As s2d_lib.stages.training.main, interrupted after the step after its first checkpoint, and started again."""
    on_log, steps = WriteProgress.on_log, []

    def watched(self, args, state, control, logs=None, **kwargs):
        on_log(self, args, state, control, logs=logs, **kwargs)
        if "loss" in (logs or {}):
            steps.append(state.global_step)
            if steps == [1, 2, 3]:
                raise InterruptedHereError

    WriteProgress.on_log = watched
    try:
        training.main(folder)
    except InterruptedHereError:
        training.main(folder)
    with Path(os.environ[STEPS]).open("a") as stream:
        stream.write(f"{steps}\n")


if __name__ == "__main__":
    if SHARED in os.environ:
        share("fsdp2.yaml")
    seed_rollouts()
    (interrupted if STEPS in os.environ else training.main)(Path(sys.argv[1]))
