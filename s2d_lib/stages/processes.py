"""Training in several processes: a notebook starts workers, shows their progress and says their errors as its own.

The workers (s2d_lib.worker) are started by `accelerate launch` on GPUs, which reads an accelerate config for FSDP2, and by
torchrun with gloo on CPUs, for which accelerate has no launcher of its own without MPI. The first one writes the run's files,
what all of them have graded included; another one leaves nothing but its last words.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import load_policy
from s2d_lib.models.sharing import config_path
from s2d_lib.runs import Run, write_json
from s2d_lib.stages.common import PROGRESS, LiveCurve, finished_metrics
from s2d_lib.stages.inputs import WORKER, Inputs, in_full, prepare, weights_of

ERROR = ".error-{}.json"  # of a worker, by its rank
PATIENCE = 60  # seconds that workers have to end
MODULE = "s2d_lib.worker"  # what a worker runs

TrainStage = Callable[[Run, Inputs], pd.DataFrame]


def in_processes(stage: TrainStage) -> TrainStage:
    """A stage's training function that starts workers where the run's hardware asks for more than one process.

    After an interruption it begins with what `prepare` loads, as a new kernel would, so that it ends in the same bytes.
    """

    @functools.wraps(stage)
    def anywhere(run: Run, inputs: Inputs) -> pd.DataFrame:
        if inputs.half_trained:
            inputs.policy = inputs.teacher = None
            vars(inputs).update(vars(prepare(run)))
        inputs.half_trained = True
        if run.resolved.hardware.processes == 1 or WORKER in os.environ or finished_metrics(run) is not None:
            metrics = stage(run, inputs)
        else:
            inputs.leave_gpus()  # to the workers, which load their own
            run.remember()
            launch(run)
            run.reload()
            inputs.policy = load_policy(run.resolved.model, in_full(run.resolved.hardware), *weights_of(run))
            metrics = finished_metrics(run)
        inputs.half_trained = False
        return metrics

    return anywhere


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


def say_error(folder: Path, rank: int, error: BaseException) -> None:
    """In a worker: leave what went wrong for the notebook."""
    content = {"kind": type(error).__name__, "message": str(error), "when": time.time()}
    write_json(folder / ERROR.format(rank), content)


def _what_failed(run: Run, log: Path) -> str:
    """What the first worker that failed said: the others fail because they wait for it."""
    found = [json.loads(path.read_text("utf-8")) for path in run.folder.glob(ERROR.format("*"))]
    if not found:
        tail = " / ".join(line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()[-3:])
        return (
            f"the workers of {run.resolved.checkpoint!r} died without a word (out of memory?); {log} ends with: {tail}"
        )
    first = min(found, key=lambda error: error["when"])
    if first["kind"] == "StudyError":
        return first["message"]
    return f"a worker of {run.resolved.checkpoint!r} failed with {first['kind']}: {first['message']} (more in {log})"
