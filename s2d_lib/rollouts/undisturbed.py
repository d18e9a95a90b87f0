"""Sampling beside a training that must not notice it, however the sampling ends: a person may interrupt it."""

import contextlib
import random

import numpy as np
import torch


@contextlib.contextmanager
def undisturbed():
    """Put the random streams (Python, NumPy, torch on every device) back to where they were before the block."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module):
    """A model without dropout inside the block, and in its own mode after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
