"""One process of a training in several, `python -m s2d_lib.worker <unfinished run folder>` (see s2d_lib.stages.processes)."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from s2d_lib.end_with_parent import end_with_parent
from s2d_lib.runs import PlacedRun, Run
from s2d_lib.stages.inputs import Inputs, prepare
from s2d_lib.stages.processes import say_error
from s2d_lib.stages.table import TRAINING
from s2d_lib.study import Resolved


def main(folder: Path, load: Callable[[Run], Inputs] = prepare) -> None:
    """Train the run whose files lie in `folder`, as one of several processes that torchrun or accelerate has started.

    Args:
        folder: The run's; its first process's files lie there, another's in a folder of its own inside.
        load: From the run to what it reads.
    """
    rank = int(os.environ["RANK"])
    place = folder if rank == 0 else folder / f".rank-{rank}"
    try:
        content = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))
        content.pop("hash")
        run = PlacedRun(Resolved.model_validate(content), place=place)
        run.reload()
        if run.resolved.hardware.accelerate or "ACCELERATE_USE_FSDP" in os.environ:
            PartialState(cpu=run.resolved.hardware.device == "cpu")  # so that one process alone reads the checkpoints
        TRAINING[run.resolved.stage](run, load(run))
    except BaseException as error:
        say_error(place, error)
        raise


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]))
