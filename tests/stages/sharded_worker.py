"""s2d_lib.worker under FSDP2 on CPUs, with rollouts that do not depend on who samples them.

accelerate 1.15 ignores FSDP where there are only CPUs: `AcceleratorState.__init__` reads ACCELERATE_USE_FSDP for
MULTI_GPU and its likes alone. Here it is told that two CPU processes are such; everything behind that (accelerate's
sharding, gloo's collectives, TRL's and our trainers, saving) is what runs on GPUs.
"""

import os
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

from s2d_lib.study import project_root


def as_launched(config: Path) -> dict[str, str]:
    """The environment that `accelerate launch --config_file` gives its workers for FSDP."""
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "--num_processes=2", "script"])
    arguments, _, _ = _validate_launch_command(arguments)
    environment = prepare_multi_gpu_env(arguments)
    return {k: v for k, v in environment.items() if k.startswith(("FSDP_", "ACCELERATE_"))}


def main(folder: Path) -> None:
    """As s2d_lib.worker.main."""
    os.environ.update(as_launched(project_root() / "params" / "accelerate" / "fsdp2.yaml"))
    plain = PartialState.__init__

    def like_gpus(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = like_gpus
    from s2d_lib import worker
    from s2d_lib.stages import distillation
    from tests.stages.seeded_rollouts import seed_rollouts

    sharded = distillation.in_shards

    def told(model, accelerator):
        """How much of the teacher this process holds, for the test."""
        size = model.num_parameters()
        model = sharded(model, accelerator)
        here = sum(weights.to_local().numel() for weights in model.parameters())
        with Path(os.environ["S2D_TEST_SHARES"]).open("a") as stream:
            stream.write(f"{here / size}\n")
        return model

    distillation.in_shards = told
    seed_rollouts()
    worker.main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
