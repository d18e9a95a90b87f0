"""Processes on CPUs that share a model as processes on GPUs do: for what can be seen of FSDP2 without a GPU.

accelerate 1.15 shares nothing where there are only CPUs: `AcceleratorState.__init__` reads ACCELERATE_USE_FSDP for MULTI_GPU and
its likes alone. Here it is told that CPU processes are such; everything behind that (the sharding, gloo's collectives, TRL's and
our trainers, saving) is what runs on GPUs.
"""

import os

from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

from s2d_lib.study import project_root


def share_on_cpus(file: str) -> None:
    """Let this process, one of several on CPUs, share its model as a file in params/accelerate says; before any state is."""
    config = project_root() / "params" / "accelerate" / file
    # Those that `accelerate launch --config_file` works with
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "--num_processes=2", "script"])
    environment = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    os.environ.update({k: v for k, v in environment.items() if k.startswith(("FSDP_", "ACCELERATE_"))})
    plain = PartialState.__init__

    def like_gpus(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = like_gpus
