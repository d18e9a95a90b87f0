"""Stopping a run whose completions have shrunk to nothing: self-distillation may end that way, and stays there."""

import numpy as np
from transformers import TrainerCallback

from s2d_lib.errors import StudyError

LENGTH = "completions/mean_length"


class StopOnCollapse(TrainerCallback):
    """Ends training when the last `window` steps' completions are shorter than `floor` tokens on average.

    It is called before the step's checkpoint would be saved, so that those before it stay.
    """

    def __init__(self, floor: float, window: int):
        self.floor, self.window = floor, window

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Look at the last steps; of a resumed run also at those before the interruption."""
        lengths = [row[LENGTH] for row in state.log_history[-self.window :] if LENGTH in row]
        if LENGTH in (logs or {}) and len(lengths) == self.window and np.mean(lengths) < self.floor:
            raise StudyError(
                f"completions have collapsed to {np.mean(lengths):.1f} tokens on average over the {self.window} steps up to "
                f"step {state.global_step}, under the floor of {self.floor:g}: lower the learning rate or the floor; the "
                f"checkpoints before this step are in {args.output_dir}."
            )
