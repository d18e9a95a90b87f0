"""Which function trains which stage, and one process of a training in several: `python -m s2d_lib.worker <unfinished run folder>`
(see s2d_lib.stages.processes)."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState

from s2d_lib.end_with_parent import end_with_parent
from s2d_lib.runs import Run, read_json
from s2d_lib.stages.dense import distill
from s2d_lib.stages.inputs import Inputs, prepare
from s2d_lib.stages.processes import TrainStage, say_error
from s2d_lib.stages.rl import sparse_rl
from s2d_lib.stages.self_distillation import self_distill
from s2d_lib.stages.sft import teacher_sample_sft, teacher_sft
from s2d_lib.study import Resolved

TRAINING: dict[str, TrainStage] = {
    "sparse_rl": sparse_rl,
    "teacher_sft": teacher_sft,
    "forward_kl": distill,
    "opd": distill,
    "teacher_sample_sft": teacher_sample_sft,
    "self_distillation": self_distill,
}

LONGEST_WAIT = timedelta(days=1)


def main(folder: Path, load: Callable[[Run], Inputs] = prepare) -> None:
    """Train the run whose files lie in `folder`, as one of several processes that torchrun or accelerate has started; `load`
    says what it reads. Its first process writes its files."""
    try:
        content = read_json(folder / "resolved.json")
        content.pop("hash")
        run = Run(Resolved.model_validate(content), place=folder)
        run.reload()
        # Before anything is loaded, since one process alone reads checkpoints and looks after files. A worker that dies ends
        # the others; one that waits may do so for as long as the first one's grading or the longest completion takes.
        PartialState(cpu=run.resolved.hardware.device == "cpu", timeout=LONGEST_WAIT)
        TRAINING[run.resolved.stage](run, load(run))
    except BaseException as error:
        say_error(folder, int(os.environ["RANK"]), error)
        raise


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]))
