"""Where an optimiser step's time goes."""

import time


class Clocked:
    """Goes before a TRL trainer in a subclass's bases: two more metrics of every optimiser step.

    `seconds/step` is the wall time from the step's first micro-batch to its update, `seconds/sampling` the part of it
    that rollouts took. What TRL 1.16 logs itself, `step_time`, leaves out the update and is missing in SFT; how long it
    sampled goes to an experiment tracker only.
    """

    _step_began: float | None = None
    _sampling = 0.0

    def training_step(self, *args, **kwargs):
        """Start the step's clock at its first micro-batch."""
        if self._step_began is None:
            self._step_began = time.perf_counter()
        return super().training_step(*args, **kwargs)

    def _generate_single_turn(self, *args, **kwargs):
        began = time.perf_counter()
        try:
            return super()._generate_single_turn(*args, **kwargs)
        finally:
            self._sampling += time.perf_counter() - began

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the seconds to what TRL logs after an optimiser step."""
        if self._step_began is not None and "loss" in logs:
            logs = logs | {"seconds/step": time.perf_counter() - self._step_began, "seconds/sampling": self._sampling}
            self._step_began, self._sampling = None, 0.0
        super().log(logs, *args, **kwargs)
