"""A loss inside a sharded model's forward pass gets its arguments as they are."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from trl.models.utils import _ForwardRedirection

from s2d_lib.stages.redirection import Redirection


class Doubles(nn.Module):
    """A model of one weight."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(1, 1, bias=False)

    def forward(self, x):
        return self.inner(x)


def alone_in_a_group(tmp_path):
    """This process as the only one of a gloo group."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)


def test_advantages_are_not_rounded_on_their_way_into_a_sharded_model(tmp_path):
    alone_in_a_group(tmp_path)
    try:
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
        model = fully_shard(Doubles(), mp_policy=half)
        inputs = {"advantages": torch.tensor([1.001]), "scores": torch.tensor([0.3])}

        def loss(model, inputs):
            inputs.pop("scores")
            assert model.inner.weight.dtype == torch.bfloat16  # gathered, in the precision of the computation
            return inputs["advantages"].sum() * model(torch.ones(1, 1)).sum()

        seen = []
        for redirect in (_ForwardRedirection(), Redirection()):
            given = dict(inputs)
            redirect(model, model, lambda m, i: seen.append(i["advantages"]) or loss(m, i), model, given).backward()
            assert model.inner.weight.grad is not None
        assert seen[0].dtype == torch.bfloat16  # TRL's: what this is for
        assert torch.equal(seen[1], inputs["advantages"])
        assert "scores" not in given  # and not of a copy
    finally:
        dist.destroy_process_group()


def test_a_wrapper_of_data_parallel_training_still_joins_gradients(tmp_path):
    alone_in_a_group(tmp_path)
    try:
        model = Doubles()
        wrapped = DistributedDataParallel(model)
        Redirection()(wrapped, model, lambda m, x: m(x).sum(), model, torch.ones(1, 1)).backward()
        assert model.inner.weight.grad.item() == 1
    finally:
        dist.destroy_process_group()
