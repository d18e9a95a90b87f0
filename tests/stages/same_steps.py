"""Two runs that should have taken the same optimiser steps."""

import pandas as pd
import pytest
from safetensors.torch import load_file


def same_steps(one, two) -> None:
    """What two runs logged of every step, within 1e-5 (or 1e-4 of it), and the weights that they came to, within 1e-4.

    Sums are the same in another order; AdamW makes more of the difference where a gradient is next to nothing.
    """
    first, second = (pd.read_csv(run.path("metrics.csv")) for run in (one, two))
    for name in {"loss", "grad_norm", "reward", "completions/mean_length"} & set(first):
        assert second[name].tolist() == pytest.approx(first[name].tolist(), rel=1e-4, abs=1e-5), name
    weights = [load_file(run.path("model") / "model.safetensors") for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-4
