"""What training had spent at every step: the axes on which methods of unequal cost are compared (paper B)."""

import numpy as np
import pandas as pd

from s2d_lib.results.bundle import Bundle

TRAINING = 3  # forward passes that a forward and a backward pass cost


def spent(bundle: Bundle, checkpoint: str, seed: int) -> pd.DataFrame:
    """Counted compute and measured seconds of a run's own training, step by step.

    Compute is counted in forward passes of the trained model over one token: each token of a prompt or rollout once for
    sampling and three times for its update, each that a self-teacher reads or scores once more. So model size cancels
    where one student is compared with itself. Seconds are those of the steps (sampling, scoring and update), on the
    machine and beside whatever else ran there.

    Returns:
        `step`, `compute`, `scored` (the self-teacher's part of it), `seconds`, cumulative; the first row
        is step 0, where nothing is spent.
    """
    rows = bundle.curves
    rows = rows[(rows["checkpoint"] == checkpoint) & (rows["seed"] == seed)].sort_values("step")
    tokens = np.diff(rows["num_tokens"], prepend=0.0)
    scored = sum(
        rows.get(f"self_teacher/{kind}", pd.Series(0.0, rows.index)).fillna(0.0).to_numpy()
        for kind in ("tokens", "prompt_tokens")
    )
    steps = {
        "step": rows["step"],
        "compute": (1 + TRAINING) * tokens + scored,
        "scored": scored,
        "seconds": rows["seconds/step"],
    }
    table = pd.DataFrame({name: np.asarray(values, dtype=float) for name, values in steps.items()})
    table[["compute", "scored", "seconds"]] = table[["compute", "scored", "seconds"]].cumsum()
    start = pd.DataFrame([dict.fromkeys(table, 0.0)])
    return pd.concat([start, table], ignore_index=True).astype({"step": int})
