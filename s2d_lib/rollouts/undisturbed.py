"""Sampling beside a training that must not notice it."""

import contextlib
import random

import numpy as np
import torch


@contextlib.contextmanager
def undisturbed():
    """Put the random streams (Python, NumPy, torch on every device) back to where they were before the block."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
