"""Train a run by its stage's function: here, or in several processes, each a `python -m s2d_lib.stages.training <run folder>`.

Those workers are started by `accelerate launch` on GPUs, which reads an accelerate config for FSDP2, and by torchrun with gloo on
CPUs, for which accelerate has no launcher of its own without MPI. This process shows their progress and says their errors as its
own. The first worker writes the run's files, what all have graded included; another one leaves nothing but its last words.
"""

import contextlib
import json
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from accelerate import PartialState

from s2d_lib.end_with_parent import end_with_parent
from s2d_lib.errors import StudyError
from s2d_lib.models.policy import load_policy
from s2d_lib.models.sharing import config_path
from s2d_lib.runs import Run, read_json, write_json
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import PROGRESS, WORKER, LiveCurve, finished_metrics
from s2d_lib.stages.inputs import in_full, prepare, weights_of
from s2d_lib.stages.validation import Validation
from s2d_lib.study import STAGES, Resolved

ERROR = ".error-{}.json"  # of a worker, by its rank
PATIENCE = 60  # seconds that workers have to end
LONGEST_WAIT = timedelta(days=1)
MODULE = "s2d_lib.stages.training"  # what a worker runs


def train(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Train `inputs.policy` by the function that STAGES names, in as many processes as the run's hardware asks for.

    After an interruption it begins with what `prepare` loads, as a new kernel would, so that it ends in the same bytes.

    Returns:
        Metrics of every optimiser step, also of a run whose training is over. The run keeps them and the model.
    """
    if inputs.half_trained:
        inputs.policy = inputs.teacher = None
        vars(inputs).update(vars(prepare(run)))
    if (metrics := finished_metrics(run)) is not None:
        return metrics
    inputs.half_trained = True
    if run.resolved.hardware.processes == 1 or WORKER in os.environ:
        inputs.callbacks = [Validation(run, inputs)] if run.resolved.validation else []
        by = STAGES[run.resolved.stage].train
        metrics = (pkgutil.resolve_name(f"s2d_lib.stages.{by}") if isinstance(by, str) else by)(run, inputs)
    else:
        inputs.leave_gpus()  # to the workers, which load their own
        run.remember()
        launch(run)
        run.reload()
        inputs.policy = load_policy(run.resolved.model, in_full(run.resolved.hardware), *weights_of(run))
        metrics = finished_metrics(run)
    inputs.half_trained = False
    return metrics


def launch(run: Run) -> None:
    """Train a run in workers; blocks until they are done.

    Raises:
        StudyError: What the first worker that failed said, or that they ended without a word.
    """
    for said in run.folder.glob(ERROR.format("*")):
        said.unlink()
    run.path(PROGRESS).unlink(missing_ok=True)
    log = run.path(".workers.log")
    with log.open("w", encoding="utf-8") as stream:
        environment = os.environ | {WORKER: "1", "OMP_NUM_THREADS": str(run.resolved.hardware.threads)}
        command = [sys.executable, "-m", "s2d_lib.end_with_parent", str(os.getpid()), *_command(run)]
        workers = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        try:
            _watch(run, workers)
        finally:
            if workers.poll() is None:
                workers.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    workers.wait(PATIENCE)
                workers.kill()
                workers.wait()
    if workers.returncode != 0:
        raise StudyError(_what_failed(run, log))


def _command(run: Run) -> list[str]:
    hardware = run.resolved.hardware
    worker = ["-m", MODULE, str(run.folder)]
    python, number = [sys.executable, "-m"], hardware.processes
    if hardware.device == "cpu":
        return [*python, "torch.distributed.run", "--standalone", f"--nproc-per-node={number}", *worker]
    command = [*python, "accelerate.commands.launch", f"--num_processes={number}"]
    if hardware.accelerate:
        return [*command, "--config_file", str(config_path(hardware)), *worker]
    return [*command, "--multi_gpu", "--mixed_precision=no", *worker]  # the stages cast by themselves


def _watch(run: Run, workers: subprocess.Popen) -> None:
    """Show the first worker's progress as if it were this process's, until the workers end."""
    live = LiveCurve(f"{run.resolved.checkpoint}, {run.resolved.hardware.processes} processes")
    state = SimpleNamespace(max_steps=run.resolved.params["steps"], global_step=0, log_history=[])
    live.on_train_begin(None, state, None)
    over = False
    while not over:
        over = workers.poll() is not None  # asked before the last look, which sees all that was written
        for row in _rows(run.path(PROGRESS))[len(state.log_history) :]:
            state.global_step = row["step"]
            state.log_history.append(row)
            live.on_log(None, state, None)
        time.sleep(0 if over else 0.5)
    live.on_train_end(None, state, None)


def _rows(path: Path) -> list[dict]:
    """The whole lines so far of a file that grows."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _what_failed(run: Run, log: Path) -> str:
    """What the first worker that failed said: the others fail because they wait for it."""
    found = [read_json(path) for path in run.folder.glob(ERROR.format("*"))]
    if not found:
        tail = " / ".join(line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()[-3:])
        return (
            f"the workers of {run.resolved.checkpoint!r} died without a word (out of memory?); {log} ends with: {tail}"
        )
    first = min(found, key=lambda error: error["when"])
    if first["kind"] == "StudyError":
        return first["message"]
    return f"a worker of {run.resolved.checkpoint!r} failed with {first['kind']}: {first['message']} (more in {log})"


def main(folder: Path, load: Callable[[Run], Inputs] = prepare) -> None:
    """As one of several processes that torchrun or accelerate has started, train the run whose files lie in `folder`, on what
    `load` finds; an error is left for the process that waits."""
    try:
        content = read_json(folder / "resolved.json")
        content.pop("hash")
        run = Run(Resolved.model_validate(content), place=folder)
        run.reload()
        # Before anything is loaded, since one process alone reads checkpoints and looks after files. A worker that dies ends
        # the others; one that waits may do so for as long as the first one's grading or the longest completion takes.
        PartialState(cpu=run.resolved.hardware.device == "cpu", timeout=LONGEST_WAIT)
        train(run, load(run))
    except BaseException as error:
        said = {"kind": type(error).__name__, "message": str(error), "when": time.time()}
        write_json(folder / ERROR.format(os.environ["RANK"]), said)
        raise


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]))
