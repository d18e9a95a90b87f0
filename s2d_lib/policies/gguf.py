"""GGUF weights as a normal checkpoint: dequantised once, then loaded like any other model."""

import hashlib
import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2d_lib.errors import StudyError
from s2d_lib.runs import lock, runs_root


def converted(source: str, gguf_file: str) -> Path:
    """Folder of the safetensors checkpoint made of a GGUF file; converted now if that has not been done yet.

    Raises:
        StudyError: When the file is missing, or the `gguf` package that reads it.
    """
    path = Path(source) / gguf_file
    if not path.is_file():
        raise StudyError(f"the GGUF file {gguf_file!r} does not exist in {source}.")
    key = hashlib.sha256(f"{gguf_file} {path.stat().st_size}".encode()).hexdigest()[:12]
    folder = runs_root() / "models" / f"{path.stem}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        if not folder.is_dir():
            _convert(source, gguf_file, folder)
    return folder


def _convert(source: str, gguf_file: str, folder: Path) -> None:
    try:
        # Of SAFE only this half: a GGUF file holds tensors alone, and is no safetensors.
        given = {"gguf_file": gguf_file, "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **given)
        tokenizer = AutoTokenizer.from_pretrained(source, **given)
    except ImportError as error:
        raise StudyError(f"reading GGUF files needs the package gguf ({error}): `pip install gguf`.") from None
    # The weights were dequantised on load; the marks of the quantisation would make the checkpoint lie about them.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    beside.rename(folder)
