"""s2d_lib.worker with a shared model on CPUs, with rollouts that do not depend on who samples them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from trl.trainer import distillation_trainer

from s2d_lib import worker
from s2d_lib.stages import distillation, self_teacher
from tests.stages.seeded_rollouts import seed_rollouts
from tests.stages.shared_on_cpus import share_on_cpus


def share() -> None:
    """Let this process share its model as the test says, and tell the test what it holds of a teacher."""
    share_on_cpus(os.environ["S2D_TEST_FILE"])
    fsdp2, zero3 = distillation.in_shards, distillation_trainer.prepare_deepspeed
    distillation.in_shards = self_teacher.in_shards = _told(fsdp2, lambda w: (w.to_local().numel(), w.numel()))
    distillation_trainer.prepare_deepspeed = _told(zero3, lambda w: (w.ds_tensor.numel(), w.ds_numel))
    seed_rollouts()


def _told(sharded: Callable, sizes: Callable) -> Callable:
    """Says, for the test, how much of the teacher or the self-teacher this process holds; of a parameter `sizes` are those
    of its part here and of the whole."""

    def tell(model, accelerator):
        model = sharded(model, accelerator)
        held, size = map(sum, zip(*map(sizes, model.parameters()), strict=True))
        with Path(os.environ["S2D_TEST_SHARES"]).open("a") as stream:
            stream.write(f"{held / size}\n")
        return model

    return tell


if __name__ == "__main__":
    share()
    worker.main(Path(sys.argv[1]))
