"""A policy: a model with its tokenizer, loaded from where the profile says, saved as a normal checkpoint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from s2d_lib.errors import StudyError
from s2d_lib.policies.adapters import merge_adapters
from s2d_lib.policies.gguf import converted
from s2d_lib.policies.place import SAFE, model_place, why_not_loaded
from s2d_lib.policies.spread import over_gpus
from s2d_lib.problems.base import Problem
from s2d_lib.study.settings import Hardware, RoleModel

disable_progress_bar()  # a bar for every file read or written drowns the training's own


WITHOUT_A_FILE = {"use_cache": True, "output_attentions": False, "output_hidden_states": False}
"""What transformers puts into a generation config, beside special tokens, where a model has no file of its own."""


@dataclass
class Policy:
    """A model with its tokenizer.

    Attributes:
        model: Causal language model.
        tokenizer: Its tokenizer, padding on the left, EOS and pad distinct.
        chat: Whether prompts are wrapped into the tokenizer's chat template.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: bool

    @property
    def size(self) -> int:
        """Number of parameters, shared ones once."""
        return self.model.num_parameters()

    def prompt(self, asked: Problem | str) -> str | list[dict]:
        """A problem, or a text alone, in the form that TRL's datasets want: plain, or as chat messages."""
        text, system = (asked, "") if isinstance(asked, str) else (asked.prompt, asked.system)
        if not self.chat:
            return f"{system}\n\n{text}" if system else text
        before = [{"role": "system", "content": system}] if system else []
        return [*before, {"role": "user", "content": text}]

    def prompt_ids(self, asked: Sequence[Problem | str]) -> list[list[int]]:
        """Token ids that a completion is sampled after, one list a prompt; thinking modes are off."""
        prompts = [self.prompt(one) for one in asked]
        if not self.chat:
            return self.tokenizer(prompts)["input_ids"]
        return [
            self.tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=False, **CHAT_TEMPLATE_KWARGS
            )
            for prompt in prompts
        ]

    def decode(self, completion_ids: list[list[int]]) -> list[str]:
        """Completions as text, without special tokens."""
        return self.tokenizer.batch_decode(completion_ids, skip_special_tokens=True)


# Qwen3's switch, and the day that Llama 3.1's system message has where nothing says another: 3.2's would have the day of the
# run, so that prompts changed overnight. Templates without them ignore them.
CHAT_TEMPLATE_KWARGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


def configure_torch(hardware: Hardware) -> None:
    """Set threads and check the device.

    Raises:
        StudyError: When a GPU is asked for and there is none, or more of them than there are.
    """
    if hardware.device == "cuda" and not torch.cuda.is_available():
        raise StudyError(
            "the profile asks for a GPU (hardware.device: cuda) but torch sees none: run on a machine with one or set "
            "hardware.device to cpu."
        )
    if hardware.sampling_gpus > 1 and torch.cuda.device_count() < hardware.sampling_gpus:
        raise StudyError(
            f"hardware.sampling_gpus is {hardware.sampling_gpus} but torch sees {torch.cuda.device_count()} GPUs: run where "
            "there are as many, or lower it."
        )
    torch.set_num_threads(hardware.threads)


def load_policy(
    spec: RoleModel,
    hardware: Hardware,
    place: str | Path | None = None,
    adapters: Sequence[Path] = (),
    weights: bool = True,
) -> Policy:
    """Load a policy: from `place` (a run's model folder) or, without one, from where the role's spec says.

    The `adapters` (folders of stored LoRA adapters, first to last) are merged into its weights. Without `weights` the model
    is only its architecture (on torch's meta device), enough to compare it with another.

    Raises:
        StudyError: Model not found, or one that only pickled weights or code of its own would load; a tokenizer without EOS
            or pad or with both the same, or that ends prompts with EOS; further end tokens that would be dropped; no chat
            template where one is asked for; no GPU where one is asked for.
    """
    configure_torch(hardware)
    source = str(place or model_place(spec.model))
    if spec.gguf_file and place is None:
        source = str(converted(source, spec.gguf_file))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
        if weights:
            model = _load_weights(source, adapters, getattr(torch, hardware.dtype))
        else:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise StudyError(why_not_loaded(source, error)) from None
    _set_special_tokens(model, tokenizer, spec, source)
    if weights:
        spread = hardware.sampling_gpus > 1
        model = over_gpus(model, hardware.sampling_gpus) if spread else model.to(hardware.device)
    policy = Policy(model, tokenizer, spec.chat)
    if policy.prompt_ids(["?"])[0][-1:] == [tokenizer.eos_token_id]:
        raise StudyError(
            f"the tokenizer of {source!r} ends every prompt with its EOS, after which nothing is left to say: set "
            "`add_eos_token` to false in its tokenizer_config.json, or correct its chat template."
        )
    return policy


def _load_weights(source: str, adapters: Sequence[Path], dtype: torch.dtype) -> PreTrainedModel:
    def load(precision: torch.dtype) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(source, dtype=precision, **SAFE)

    # With adapters rounded once, after the merge, as the checkpoint is that was merged before it was saved.
    return merge_adapters(load(torch.float32), adapters).to(dtype) if adapters else load(dtype)


def _set_special_tokens(model: PreTrainedModel, tokenizer, spec: RoleModel, source: str) -> None:
    for kind in ("eos_token", "pad_token"):
        token = getattr(spec, kind)
        if token is not None:
            if token not in tokenizer.get_vocab():
                raise StudyError(f"{kind} {token!r} is not in the vocabulary of {source!r}.")
            setattr(tokenizer, kind, token)
        if getattr(tokenizer, kind) is None:
            raise StudyError(f"the tokenizer of {source!r} has no {kind}: set `{kind}` for this role in the profile.")
    if tokenizer.eos_token_id == tokenizer.pad_token_id:
        raise StudyError(
            f"EOS and pad are the same token ({tokenizer.eos_token!r}) in {source!r}, so that masking the padding would "
            "mask the end of every completion: set `pad_token` for this role to another token."
        )
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template
    if spec.chat and not tokenizer.chat_template:
        raise StudyError(
            f"the profile asks for chat prompts but the tokenizer of {source!r} has no chat template: give the role one "
            "(`chat_template`), or set `chat: false`."
        )
    further = sorted(_ends(model) - {tokenizer.eos_token_id})
    if further and spec.eos_token is None:
        raise StudyError(
            f"{source!r} ends its answers at {tokenizer.convert_ids_to_tokens(further)} beside {tokenizer.eos_token!r}, and here "
            "one token ends an answer: set `eos_token` for this role in the profile to the one that does."
        )
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update(special)
    # Only the profile's parameters sample: a file's penalties, filters and beams would, in transformers' generate, join them.
    special["bos_token_id"] = model.generation_config.bos_token_id
    model.generation_config = GenerationConfig.from_model_config(special | WITHOUT_A_FILE)


def _ends(model: PreTrainedModel) -> set[int]:
    """The tokens at which a model's own files end an answer."""
    ends = [config.eos_token_id for config in (model.config.get_text_config(), model.generation_config)]
    return {token for end in ends if end is not None for token in (end if isinstance(end, list) else [end])}


def save_policy(policy: Policy, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Save as a normal safetensors checkpoint, whole or not at all; `weights` instead of the model's own shards."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    policy.model.save_pretrained(beside, state_dict=weights)
    policy.tokenizer.save_pretrained(beside)
    beside.rename(folder)
