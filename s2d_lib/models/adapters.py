"""LoRA adapters of a policy, by peft: trained, merged into the weights, or kept as a small file."""

import os
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from s2d_lib.errors import StudyError
from s2d_lib.runs import write_json
from s2d_lib.study.settings import NOT_TARGETS, Lora

TRAINED = "default"  # peft's name, and TRL's, of the adapter that a trainer trains
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def lora_config(model: PreTrainedModel, lora: Lora | None) -> LoraConfig | None:
    """The stage's LoRA as TRL's trainers take it. Raises a StudyError for a target module that the model does not have."""
    if lora is None:
        return None
    if isinstance(lora.target_modules, list):
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if unknown := sorted(set(lora.target_modules) - linear):
            known = ", ".join(sorted(linear - set(NOT_TARGETS)))
            what = f"{unknown[0]!r}, which is no linear layer of the model"
            raise StudyError(f"lora.target_modules names {what}: choose from {known}, or all-linear.")
    sizes = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    return LoraConfig(task_type="CAUSAL_LM", target_modules=lora.target_modules, **sizes)


def plain(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model inside peft's wrapper, its adapters at work; any other model as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def merged(model: PeftModel) -> PreTrainedModel:
    """The model with its adapters added to its weights and gone; the weights are replaced, not changed in place."""
    return model.merge_and_unload(safe_merge=True)


def merge_adapters(model: PreTrainedModel, folders: Sequence[Path]) -> PreTrainedModel:
    """The model with stored adapters merged into its weights, one after the other; all weights can be trained again."""
    for folder in folders:
        model = merged(PeftModel.from_pretrained(model, str(folder)))
    return model.requires_grad_(True)


def is_adapter(folder: Path) -> bool:
    """Whether a model folder holds adapters instead of a whole checkpoint."""
    return (folder / CONFIG).is_file()


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save the trained adapter in peft's format beside the tokenizer, whole or not at all. peft's `save_pretrained` writes sets
    of names in any order, and the base model's path on this machine."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    beside.mkdir()
    config = model.peft_config[TRAINED].to_dict() | {"inference_mode": True, "base_model_name_or_path": None}
    write_json(beside / CONFIG, {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()})
    save_file(get_peft_model_state_dict(model, save_embedding_layers=False), beside / WEIGHTS, {"format": "pt"})
    tokenizer.save_pretrained(beside)
    beside.rename(folder)
