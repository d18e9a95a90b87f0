"""A progress bar and a curve that grows while a notebook trains, or while it waits for workers that do."""

import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import display
from tqdm.auto import tqdm
from transformers import TrainerCallback

WORKER = "S2D_WORKER"  # environment variable, set in the processes that train for a notebook (s2d_lib.stages.processes)
PROGRESS = ".progress.jsonl"  # file of an unfinished run in which they tell their progress
SECONDS_BETWEEN_DRAWINGS = 5.0  # drawing costs about 0.1 s; often enough to watch, rarely enough not to slow training


class LiveCurve(TrainerCallback):
    """A bar over the optimiser steps and, in a notebook, the reward (or, without one, the loss) so far, redrawn in place.

    Args:
        title: What is shown above the curve.
    """

    def __init__(self, title: str):
        self.title = title
        self.bar = None
        self.handle = None
        self.drawn = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar where training starts or resumes."""
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", mininterval=1.0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Move the bar; redraw when the last drawing is old enough."""
        self.bar.update(state.global_step - self.bar.n)
        if get_ipython() is not None and time.monotonic() - self.drawn > SECONDS_BETWEEN_DRAWINGS:
            self._draw(state)

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar and draw the whole curve."""
        self.bar.close()
        if get_ipython() is not None:
            self._draw(state)

    def _draw(self, state) -> None:
        rows = [row for row in state.log_history if "loss" in row]
        if not rows:
            return
        name = "reward" if "reward" in rows[0] else "loss"
        figure, axes = plt.subplots(figsize=(6, 2.4))
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], linewidth=1.2)
        axes.set(title=self.title, xlabel=f"optimiser step (of {state.max_steps})", xlim=(0, state.max_steps))
        plt.close(figure)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
        self.drawn = time.monotonic()


class WriteProgress(TrainerCallback):
    """In the first worker: every logged step as a line for the notebook that waits."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append the step."""
        if state.is_world_process_zero and "loss" in (logs or {}):
            kept = {name: logs[name] for name in ("loss", "reward") if name in logs}
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(kept | {"step": state.global_step}) + "\n")
