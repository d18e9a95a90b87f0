"""Work inside a wrapper's forward pass, and parts of like length: nothing is rounded, lost or cut but padding."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from s2d_lib.stages import states
from s2d_lib.stages.states import inside_forward


class Doubles(nn.Module):
    """A model of one weight."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(1, 1, bias=False)

    def forward(self, x):
        return self.inner(x)


@pytest.fixture
def group(tmp_path):
    """This process as the only one of a gloo group."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_advantages_are_not_rounded_on_their_way_into_a_sharded_model(group):
    model = fully_shard(Doubles(), mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32))
    advantages, seen = torch.tensor([1.001]), []

    def loss():
        assert model.inner.weight.dtype == torch.bfloat16  # gathered, in the precision of the computation
        seen.append(advantages)
        return advantages.sum() * model(torch.ones(1, 1)).sum()

    inside_forward(model, model, loss).backward()
    assert model.inner.weight.grad is not None
    assert seen[0] is advantages


def test_a_wrapper_of_data_parallel_training_joins_gradients(group):
    model = Doubles()
    wrapped = DistributedDataParallel(model)
    for times in (1, 2):  # the model's own forward is back
        inside_forward(wrapped, model, lambda: model(torch.ones(1, 1)).sum()).backward()
        assert model.inner.weight.grad.item() == times


def test_parts_hold_every_row_once_and_only_lose_padding(monkeypatch):
    monkeypatch.setattr(states, "ROWS", 3)
    lengths, prompts = torch.tensor([5, 1, 4, 1, 2, 5, 3]), torch.tensor([2, 3, 1, 1, 2, 1, 2])
    place = torch.arange(6)
    batch = {
        "completion_mask": (place < lengths[:, None]).long(),
        "prompt_mask": (place >= 6 - prompts[:, None]).long(),
        "rollout": torch.arange(7),
        "num_items_in_batch": lengths.sum(),
    }
    batch["completion_ids"] = batch["completion_mask"] * (10 * batch["rollout"][:, None] + place)
    batch["prompt_ids"] = batch["prompt_mask"] * (100 * (1 + batch["rollout"][:, None]) + place)
    parts = states.by_length(batch)
    assert [len(part["rollout"]) for part in parts] == [3, 3, 1]
    assert [part["completion_ids"].shape[1] for part in parts] == [2, 5, 5]
    assert torch.cat([part["rollout"] for part in parts]).sort()[0].tolist() == list(range(7))
    for part in parts:
        for name in ("prompt", "completion"):
            whole, mask = batch[f"{name}_ids"][part["rollout"]], batch[f"{name}_mask"][part["rollout"]]
            assert torch.equal(part[f"{name}_ids"][part[f"{name}_mask"] == 1], whole[mask == 1])
