"""s2d_lib.worker with a shared model on CPUs, with rollouts that do not depend on who samples them."""

import os
import sys
from pathlib import Path

from s2d_lib import worker
from s2d_lib.stages import dense, self_teacher
from tests.stages.seeded_rollouts import seed_rollouts
from tests.stages.shared_on_cpus import share_on_cpus


def share() -> None:
    """Let this process share its model as the test says, and tell the test how much it holds of a teacher."""
    share_on_cpus(os.environ["S2D_TEST_FILE"])
    sharded = dense.in_shards

    def tell(model, accelerator):
        model = sharded(model, accelerator)
        held, size = (sum(sizes) for sizes in zip(*((w.to_local().numel(), w.numel()) for w in model.parameters())))
        with Path(os.environ["S2D_TEST_SHARES"]).open("a") as stream:
            stream.write(f"{held / size}\n")
        return model

    dense.in_shards = self_teacher.in_shards = tell
    seed_rollouts()


if __name__ == "__main__":
    share()
    worker.main(Path(sys.argv[1]))
