"""A training's metrics for a viewer, TensorBoard or Trackio: files in the run's folder, nothing over the network.

tensorboard --logdir runs/<profile>
TRACKIO_DIR=runs/<profile>/seed-<n>/<checkpoint>/logs trackio show
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from transformers import TrainerCallback

from s2d_lib.errors import StudyError
from s2d_lib.runs import LOGS, Run


def check_tracker(name: str) -> None:
    """That the package of a tracker, if there is to be one, is installed.

    Raises:
        StudyError: It is not.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise StudyError(
            f"the profile asks for `logging: {name}`, but the package {name} is not installed: "
            f"`.venv/bin/pip install {name}`, or set `logging: none`."
        )


class Tracker(TrainerCallback):
    """Hands every optimiser step's metrics to the run's tracker.

    A resumed run's files are written anew from the trainer's own log, which ends where training goes on: no step is in
    them twice.
    """

    def __init__(self, run: Run):
        self.kind, self.folder = run.resolved.logging, run.path(LOGS)
        self.project, self.name = run.resolved.profile, f"{run.resolved.checkpoint}@{run.resolved.seed}"
        self.writer: TensorBoardWriter | TrackioWriter | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the files."""
        if not state.is_world_process_zero:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        kinds = {"tensorboard": TensorBoardWriter, "trackio": TrackioWriter}
        self.writer = kinds[self.kind](self.folder, self.project, self.name)
        for row in state.log_history:
            self._write(row, row["step"])

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write a step."""
        self._write(logs or {}, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        """Close the files."""
        if self.writer is not None:
            self.writer.close()

    def _write(self, row: dict, step: int) -> None:
        if self.writer is not None and "loss" in row:  # the last row of a training sums it up
            numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k not in ("step", "epoch")}
            self.writer.write(numbers, step)


class TensorBoardWriter:
    """An event file."""

    def __init__(self, folder: Path, project: str, name: str):
        from torch.utils.tensorboard import SummaryWriter

        self.events = SummaryWriter(str(folder))

    def write(self, metrics: dict[str, float], step: int) -> None:
        """Write a step's metrics, to be seen at once."""
        for name, value in metrics.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()

    def close(self) -> None:
        """End the file."""
        self.events.close()


class TrackioWriter:
    """A Trackio database, by a process of its own.

    Trackio takes its folder from the environment once, when it is first imported, which TRL does long before a run is
    known; and this process's variables may name a Space or a server to log to.
    """

    def __init__(self, folder: Path, project: str, name: str):
        mine = {key: value for key, value in os.environ.items() if not key.startswith("TRACKIO_")}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("trackio_process.py")), project, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            encoding="utf-8",
            env=mine | {"TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"},
        )

    def write(self, metrics: dict[str, float], step: int) -> None:
        """Send a step's metrics.

        Raises:
            StudyError: The process has died.
        """
        try:
            self.process.stdin.write(json.dumps({"step": step, "metrics": metrics}) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise StudyError(
                "Trackio's process has ended (its last words are above): set `logging: none`, and the run goes on from its "
                "last trainer checkpoint."
            ) from None

    def close(self) -> None:
        """Let it write what it has and end."""
        self.process.stdin.close()
        self.process.wait()
