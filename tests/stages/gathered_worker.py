"""A process of its own with models in FSDP2's shards: what a forward pass without a backward pass leaves gathered.

It prints one line of JSON: how many parameters are whole after each event, by its name.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed import FileStore, init_process_group
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from trl.generation.vllm_generation import VLLMGeneration

from s2d_lib.models.policy import model_place
from s2d_lib.models.sharing import back_into_shards
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.validation import Validation
from s2d_lib.vllm import SyncCheck
from tests.conftest import TINY


def sharded() -> PreTrainedModel:
    """A micro model with new weights and a head of its own, sharded by accelerate as the trained one is on GPUs in bfloat16."""
    config = AutoConfig.from_pretrained(model_place("micro/chains-student"), tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config)
    how = {
        "reshard_after_forward": True,
        "auto_wrap_policy": "transformer_based_wrap",
        "mixed_precision_policy": "bf16",
    }
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False, **how)
    state = SimpleNamespace(fsdp_plugin=plugin)
    return fsdp2_prepare_model(SimpleNamespace(state=state, mixed_precision="bf16", is_main_process=True), model)


def whole(model: PreTrainedModel) -> int:
    """How many parameters are no parts."""
    return sum(not isinstance(weights, DTensor) for weights in model.parameters())


@torch.no_grad()
def sampled(model: PreTrainedModel) -> None:
    """A forward pass without a backward pass."""
    model(input_ids=torch.tensor([[5, 6, 7]]))


def synced(run, model: PreTrainedModel) -> int:
    """How many parameters TRL's own walk over an FSDP2 model hands to an engine, by SyncCheck, after the model was sampled."""
    engine, handed = object.__new__(VLLMGeneration), []
    engine.model, engine.accelerator = model, Accelerator(cpu=True)
    engine.sync_weights = lambda: handed.extend(engine._iter_fsdp2_params(model))
    sync = SyncCheck(SimpleNamespace(vllm_generation=engine, model_wrapped=model), run, None, [])
    sync.check = lambda: None  # asks an engine, and there is none
    sampled(model)
    engine.sync_weights()
    # The trained ones, not what they are rounded to
    assert all(weights.dtype == torch.float32 for _, weights in handed)
    return len(handed)


def main(folder: Path) -> None:
    """Everything that may leave weights gathered, one after another."""
    init_process_group("gloo", store=FileStore(str(folder / "store"), 1), rank=0, world_size=1)
    model = sharded()
    found = {"sharded": whole(model)}
    sampled(model)
    found["sampled"] = whole(model)
    back_into_shards(model)
    found["back"] = whole(model)
    block = {"mode": "server", "url": "http://localhost:8000"}
    run = open_run("micro-full", "student.grpo", 0, TINY)
    by_server = open_run("micro-full", "student.grpo", 0, TINY | {"sampling": {"engine": "vllm", "vllm": block}})
    found["parameters"], found["synced"] = len(list(model.parameters())), synced(by_server, model)
    open_run("micro-full", "student", 0, TINY).finish()
    Validation(run, prepare(run))._measure(0, model)
    found["validated"] = whole(model)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
