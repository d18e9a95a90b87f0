"""A model that is only sampled, laid out over several GPUs of its process because one of them is too small for it."""

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory
from transformers import PreTrainedModel


def over_gpus(model: PreTrainedModel, gpus: int) -> PreTrainedModel:
    """A model with its layers on the first `gpus` GPUs; what is computed goes from one to the next."""
    memory = {number: torch.cuda.get_device_properties(number).total_memory for number in range(gpus)}
    return dispatch_model(model, layout(model, memory))


def layout(model: PreTrainedModel, memory: dict[int, int]) -> dict[str, int]:
    """Which GPU holds which part of a model: whole layers, each GPU about as many bytes of weights.

    Args:
        model: Anywhere, on torch's meta device too.
        memory: Bytes of every GPU.
    """
    whole = list(model._no_split_modules)  # the classes that transformers asks not to take apart: its layers
    return infer_auto_device_map(model, get_balanced_memory(model, memory, whole), whole)
