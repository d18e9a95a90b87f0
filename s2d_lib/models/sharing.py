"""A model that several processes share by FSDP2: accelerate's config file, frozen models in shards, and who looks after files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from yaml import YAMLError

from s2d_lib.errors import StudyError
from s2d_lib.study.load import project_root
from s2d_lib.study.settings import Hardware

Item = TypeVar("Item")


def config_path(hardware: Hardware) -> Path | None:
    """The file that hardware.accelerate names, or None."""
    return project_root() / "params" / "accelerate" / hardware.accelerate if hardware.accelerate else None


def check_sharing(hardware: Hardware) -> None:
    """Raise a StudyError unless the file that says how processes share a model is one of accelerate's for FSDP2, in which
    nothing is misspelled: accelerate itself ignores unknown keys of fsdp_config."""
    if (path := config_path(hardware)) is None:
        return
    if not path.is_file():
        raise StudyError(f"hardware.accelerate names {path.name}, which is not in {path.parent}.")
    try:
        config = load_config_from_file(str(path))
    except (ValueError, TypeError, AttributeError, YAMLError) as error:
        said = " ".join(str(error).split())
        raise StudyError(f"{path.name} is no config file of accelerate ({said}): see `accelerate launch -h`.") from None
    if config.distributed_type != DistributedType.FSDP or config.fsdp_config.get("fsdp_version") != 2:
        raise StudyError(
            f"{path.name} does not share a model by FSDP2 (it says {config.distributed_type}): set distributed_type to FSDP and "
            "fsdp_version to 2, or leave hardware.accelerate out."
        )
    if unknown := config.fsdp_config.keys() - vars(launch_command_parser().parse_args(["script"])).keys():
        raise StudyError(
            f"{path.name}: accelerate knows no {min(unknown)!r}: see `accelerate launch -h` for its spelling."
        )


def from_first(look: Callable[[], Item]) -> Item:
    """What `look` finds, or does, in the first of the processes that train together; the others wait for it."""
    if not torch.distributed.is_initialized():
        return look()
    found = [look() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(found)
    return found[0]


def in_shards(model: PreTrainedModel, accelerator: Accelerator) -> PreTrainedModel:
    """A frozen model (gradients would make it float32) sharded as the trained one: `Accelerator.prepare` takes no second model
    under FSDP2, and TRL 1.16 leaves a teacher whole in every process."""
    return fsdp2_prepare_model(accelerator, model.requires_grad_(False))


def stand_ins(model: PreTrainedModel, accelerator: Accelerator) -> dict[int, nn.Parameter]:
    """For `copy.deepcopy`, what the copy of a model that FSDP2 is going to shard has instead of weights, by their ids:
    nothing in the process that hands the others their shards, and in these as little as they need."""
    if accelerator.is_main_process or not accelerator.state.fsdp_plugin.cpu_ram_efficient_loading:
        return {}
    return {id(weights): nn.Parameter(torch.empty_like(weights, device="meta")) for weights in model.parameters()}


def before_sharding(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """What accelerate 1.15 does not say of a model that it is going to shard by FSDP2. To transformers: who has ended a
    completion goes on until all processes have, since they gather a layer together. To torch: under bfloat16 gradients are
    added up, and losses returned, in float32."""
    model._is_fsdp_managed_module = True
    plugin = accelerator.state.fsdp_plugin
    if plugin.mixed_precision_policy is not None:
        exact = {"reduce_dtype": torch.float32, "output_dtype": torch.float32}
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, **exact)


def back_into_shards(model: nn.Module) -> None:
    """Let this process hold no more than its part of a model that FSDP2 shards; any other model stays as it is. From a forward
    to its backward pass the last layers and the root stay gathered (accelerate 1.15): after sampling, which has no backward
    pass, they would go on taking that memory, and TRL 1.16 can hand vLLM only what is in shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
