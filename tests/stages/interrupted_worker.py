"""s2d_lib.worker with a shared model on CPUs, interrupted after the step after its first checkpoint, and started again."""

import os
import sys
from pathlib import Path

from s2d_lib import worker
from s2d_lib.stages.common import WriteProgress
from tests.stages.sharded_worker import share

AT = 3


class InterruptedHereError(Exception):
    """Raised in every process."""


def main(folder: Path) -> None:
    """As s2d_lib.worker.main, twice."""
    share()
    on_log, steps = WriteProgress.on_log, []

    def watched(self, args, state, control, logs=None, **kwargs):
        on_log(self, args, state, control, logs=logs, **kwargs)
        if "loss" in (logs or {}):
            steps.append(state.global_step)
            if steps == [1, 2, AT]:
                raise InterruptedHereError

    WriteProgress.on_log = watched
    try:
        worker.main(folder)
    except InterruptedHereError:
        worker.main(folder)
    with Path(os.environ["S2D_TEST_STEPS"]).open("a") as stream:
        stream.write(f"{steps}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
