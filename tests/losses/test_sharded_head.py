"""A head that FSDP2 shards is gathered once, and its gradient is the mean over the ranks."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from s2d_lib.losses import Head, Pair, divergence, linear_divergence

torch.set_num_threads(1)
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

def student():
    torch.manual_seed(0)
    return nn.ModuleDict({"trunk": nn.Linear(6, 4), "head": nn.Linear(4, 11)}).double()

torch.manual_seed(1)
x, teacher_hidden, teacher_weight = (torch.randn(*s, dtype=torch.float64) for s in ((2, 5, 6), (2, 5, 3), (11, 3)))
plain = student()
logits = plain["head"](plain["trunk"](x))
divergence(logits, teacher_hidden @ teacher_weight.T).mean(-1).mean().backward()

sharded = student()
mesh = dist.init_device_mesh("cpu", (2,))
fully_shard(sharded["trunk"], mesh=mesh)
fully_shard(sharded["head"], mesh=mesh)
head = sharded["head"]
assert isinstance(head.weight, DTensor)
hidden = sharded["trunk"](x[rank])
pair = Pair(hidden, Head(head.weight, head.bias), teacher_hidden[rank], Head(teacher_weight))
linear_divergence(pair).loss.backward()
for name, expected in plain.named_parameters():
    grad = dict(sharded.named_parameters())[name].grad
    assert isinstance(grad, DTensor), name
    torch.testing.assert_close(grad.full_tensor(), expected.grad, msg=lambda m: f"{name}: {m}")
dist.destroy_process_group()
"""


def test_two_ranks_of_fsdp2_get_the_gradient_of_the_whole_batch(tmp_path):
    command = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).parents[2]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], cwd=root, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
