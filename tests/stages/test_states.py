"""A model in FSDP2's shards: what is not rounded in its forward pass, and what sampling leaves gathered."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM
from trl.generation.vllm_generation import VLLMGeneration

from s2d_lib.models.policy import model_place
from s2d_lib.models.sharing import back_into_shards
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.states import inside_forward
from s2d_lib.stages.validation import Validation
from s2d_lib.vllm import SyncCheck


@pytest.fixture
def group(tmp_path):
    """This process as the only one of a gloo group; its mesh."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",))
    dist.destroy_process_group()


def test_advantages_are_not_rounded_on_their_way_into_a_sharded_model(group):
    precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
    model = fully_shard(torch.nn.Linear(1, 1, bias=False), mesh=group, mp_policy=precision)
    advantages, seen = torch.tensor([1.001]), []

    def loss():
        assert model.weight.dtype == torch.bfloat16  # gathered, in the precision of the computation
        seen.append(advantages)
        return advantages.sum() * model(torch.ones(1, 1)).sum()

    inside_forward(model, model, loss).backward()
    assert model.weight.grad is not None
    assert seen[0] is advantages


@pytest.fixture
def sharded(group):
    """A micro model with a head of its own, sharded by accelerate as the trained one is on GPUs in bfloat16."""
    config = AutoConfig.from_pretrained(model_place("micro/chains-student"), tie_word_embeddings=False)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, cpu_ram_efficient_loading=False, reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap", mixed_precision_policy="bf16",
    )  # fmt: skip
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="bf16", is_main_process=True,
        torch_device_mesh=group, parallelism_config=SimpleNamespace(fsdp_dim_names=("fsdp",)),
    )  # fmt: skip
    return fsdp2_prepare_model(accelerator, AutoModelForCausalLM.from_config(config))


@pytest.mark.slow
def test_what_sampling_leaves_gathered_goes_back_into_shards(sharded, runs, tiny):
    def whole() -> int:
        return sum(not isinstance(weights, DTensor) for weights in sharded.parameters())

    @torch.no_grad()
    def sample() -> None:
        sharded(input_ids=torch.tensor([[5, 6, 7]]))
        assert whole() > 0  # else accelerate needs no help any more

    sample()
    back_into_shards(sharded)
    assert whole() == 0
    # An engine is handed all parameters, and the trained ones, not what they are rounded to
    engine, handed = object.__new__(VLLMGeneration), []
    engine.accelerator = SimpleNamespace(device="cpu")
    engine.sync_weights = lambda: handed.extend(weights for _, weights in engine._iter_fsdp2_params(sharded))
    server = {"sampling": {"engine": "vllm", "vllm": {"mode": "server", "url": "http://localhost:8000"}}}
    run = open_run("micro-full", "student.grpo", 0, tiny | server)
    sync = SyncCheck(SimpleNamespace(vllm_generation=engine, model_wrapped=sharded), run, None, [])
    sync.check = lambda: None  # asks an engine, and there is none
    sample()
    engine.sync_weights()
    assert {weights.dtype for weights in handed} == {torch.float32}
    assert len(handed) == len(list(sharded.parameters()))
    open_run("micro-full", "student", 0, tiny).finish()
    run = open_run("micro-full", "student.grpo", 0, tiny)
    Validation(run, prepare(run))._measure(0, sharded)
    assert whole() == 0
