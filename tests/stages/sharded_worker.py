"""s2d_lib.worker with a shared model on CPUs, with rollouts that do not depend on who samples them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from trl.trainer import distillation_trainer

from s2d_lib import worker
from s2d_lib.bench.seeded_rollouts import seed_rollouts
from s2d_lib.bench.shared_on_cpus import share_on_cpus
from s2d_lib.stages import distillation, self_teacher


def share() -> None:
    """Let this process share its model as the test says, and tell the test what it holds of a teacher."""
    share_on_cpus(os.environ["S2D_TEST_FILE"])
    distillation.in_shards = self_teacher.in_shards = _told(distillation.in_shards, lambda w: w.to_local())
    distillation_trainer.prepare_deepspeed = _told(distillation_trainer.prepare_deepspeed, lambda w: w.ds_tensor)
    seed_rollouts()


def _told(sharded: Callable, here: Callable) -> Callable:
    """Says, for the test, how much of the teacher or the self-teacher this process holds; a part of a parameter is `here`."""

    def tell(model, accelerator):
        size = model.num_parameters()
        model = sharded(model, accelerator)
        held = sum(here(weights).numel() for weights in model.parameters())
        with Path(os.environ["S2D_TEST_SHARES"]).open("a") as stream:
            stream.write(f"{held / size}\n")
        return model

    return tell


if __name__ == "__main__":
    share()
    worker.main(Path(sys.argv[1]))
