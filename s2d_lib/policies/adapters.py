"""LoRA adapters of a policy, by peft: trained, merged into the weights, kept as a small file, or laid over a shared base."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from s2d_lib.errors import StudyError
from s2d_lib.runs import write_json
from s2d_lib.study.settings import NOT_TARGETS, Lora

TRAINED = "default"  # peft's name, and TRL's, of the adapter that a trainer trains
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def lora_config(model: PreTrainedModel, lora: Lora | None) -> LoraConfig | None:
    """The stage's LoRA as TRL's trainers take it, or None for none.

    Raises:
        StudyError: A target module that the model does not have.
    """
    if lora is None:
        return None
    if isinstance(lora.target_modules, list):
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if unknown := sorted(set(lora.target_modules) - linear):
            raise StudyError(
                f"lora.target_modules names {unknown[0]!r}, which is no linear layer of the model: choose from "
                f"{', '.join(sorted(linear - set(NOT_TARGETS)))}, or all-linear."
            )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )


def plain(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model inside peft's wrapper, its adapters at work; any other model as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def merged(model: PeftModel) -> PreTrainedModel:
    """The model with its adapters added to its weights and gone.

    The weights are replaced, not changed in place: other models may share the old ones.
    """
    return model.merge_and_unload(safe_merge=True)


def is_adapter(folder: Path) -> bool:
    """Whether a model folder holds adapters instead of a whole checkpoint."""
    return (folder / CONFIG).is_file()


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save the trained adapter in peft's format beside the tokenizer, whole or not at all.

    peft's own `save_pretrained` writes sets of names in any order and the base model's path, which is no other machine's.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    beside.mkdir()
    config = model.peft_config[TRAINED].to_dict() | {"inference_mode": True, "base_model_name_or_path": None}
    write_json(beside / CONFIG, {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()})
    save_file(get_peft_model_state_dict(model, save_embedding_layers=False), beside / WEIGHTS, {"format": "pt"})
    tokenizer.save_pretrained(beside)
    beside.rename(folder)


def merge_adapters(model: PreTrainedModel, folders: Sequence[Path]) -> PreTrainedModel:
    """The model with stored adapters merged into its weights, one after the other; all weights can be trained again."""
    for folder in folders:
        model = merged(PeftModel.from_pretrained(model, str(folder)))
    return model.requires_grad_(True)


def on_shared_base(model: PreTrainedModel, adapters: Sequence[Path], without: Sequence[Path] = ()) -> PreTrainedModel:
    """Another model over the same weights, which are held once.

    Args:
        model: Whose weights are shared; they must be frozen while the other is in use, as LoRA's base is.
        adapters: Folders of the other model's stored adapters over the base that both have in common.
        without: Those that were merged into `model`: the other model has them with the opposite sign.

    Returns:
        The other model, frozen. Its weights are `model`'s to the last bit where `without` is empty, else but for rounding.
    """
    shared = {id(weights): nn.Parameter(weights.data, requires_grad=False) for weights in model.parameters()}
    other = copy.deepcopy(model, shared)
    while adapters and without and adapters[0] == without[0]:  # in `model` already, and to stay
        adapters, without = adapters[1:], without[1:]
    named = {f"with_{i}": folder for i, folder in enumerate(adapters)}
    named |= {f"without_{i}": folder for i, folder in enumerate(without)}
    wrapped = None
    for name, folder in named.items():
        if wrapped is None:
            wrapped = PeftModel.from_pretrained(other, str(folder), adapter_name=name)
        else:
            wrapped.load_adapter(str(folder), adapter_name=name)
    if wrapped is not None:
        wrapped.base_model.set_adapter(list(named), inference_mode=True)
        for layer in (module for module in other.modules() if isinstance(module, LoraLayer)):
            for name in named:
                layer.set_scale(name, -1.0 if name.startswith("without") else 1.0)
    return other
