"""Processes on CPUs that share a model as processes on GPUs do: for what can be seen of FSDP2 and ZeRO-3 without a GPU.

accelerate 1.15 shares nothing where there are only CPUs: for FSDP2 `AcceleratorState.__init__` reads ACCELERATE_USE_FSDP
for MULTI_GPU and its likes alone, and `PartialState.__init__` does not start DeepSpeed. Here it is told that CPU processes
are such; everything behind that (the sharding, gloo's collectives, TRL's and our trainers, saving) is what runs on GPUs.
"""

import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from s2d_lib.study import project_root


def share_on_cpus(file: str) -> None:
    """Let this process, one of several on CPUs, share its model as a file in params/accelerate says; before any state is.

    Raises:
        ImportError: The file is for DeepSpeed, which is not installed.
    """
    arguments = _arguments(project_root() / "params" / "accelerate" / file)
    if arguments.use_deepspeed:
        environment, kind, start = prepare_deepspeed_cmd_env(arguments)[1], DistributedType.DEEPSPEED, _deepspeed()
    else:
        environment, kind, start = prepare_multi_gpu_env(arguments), DistributedType.MULTI_GPU, lambda: None
    os.environ.update({k: v for k, v in environment.items() if k.startswith(("FSDP_", "ACCELERATE_"))})
    plain = PartialState.__init__

    def like_gpus(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            start()
            self.distributed_type = kind

    PartialState.__init__ = like_gpus


def _arguments(config: Path) -> Namespace:
    """Those that `accelerate launch --config_file` works with."""
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "--num_processes=2", "script"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)  # as launch_command does
    return arguments


def _deepspeed() -> Callable[[], None]:
    """What starts DeepSpeed where torch's processes have found each other."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    # An operator that it would compile, for minutes, and that gloo stands in for.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    plain = DeepSpeedPlugin.__post_init__

    def share_all(self):
        """ZeRO-3 keeps parameters below a threshold whole: all of a micro model's."""
        plain(self)
        self.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    DeepSpeedPlugin.__post_init__ = share_all
    return lambda: deepspeed.comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
