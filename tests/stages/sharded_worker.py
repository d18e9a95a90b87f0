"""s2d_lib.worker under FSDP2 on CPUs, with rollouts that do not depend on who samples them."""

import os
import sys
from pathlib import Path

from s2d_lib import worker
from s2d_lib.bench.seeded_rollouts import seed_rollouts
from s2d_lib.bench.shared_on_cpus import share_on_cpus
from s2d_lib.stages import distillation, self_teacher


def main(folder: Path) -> None:
    """As s2d_lib.worker.main."""
    share_on_cpus("fsdp2.yaml")
    sharded = distillation.in_shards

    def told(model, accelerator):
        """How much of the teacher, or the self-teacher, this process holds, for the test."""
        size = model.num_parameters()
        model = sharded(model, accelerator)
        here = sum(weights.to_local().numel() for weights in model.parameters())
        with Path(os.environ["S2D_TEST_SHARES"]).open("a") as stream:
            stream.write(f"{here / size}\n")
        return model

    distillation.in_shards = self_teacher.in_shards = told
    seed_rollouts()
    worker.main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
