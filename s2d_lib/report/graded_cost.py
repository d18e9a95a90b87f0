"""What training on graded rollouts takes with and without a self-teacher, from committed results."""

from collections.abc import Sequence

import pandas as pd

from s2d_lib.claims.fair import seeds_of
from s2d_lib.report.style import route_label
from s2d_lib.results.bundle import Bundle, spent

GRADED = ("sparse_rl", "self_distillation")


def graded_cost(bundle: Bundle, checkpoints: Sequence[str]) -> pd.DataFrame:
    """Own training of the checkpoints whose stage grades rollouts, means over seeds.

    Returns:
        One row a checkpoint: `route`; `compute, M`, counted in forward passes of its model over a million tokens (see
        s2d_lib.results.bundle); `of a self-teacher, %` of them; `steps`; `seconds` of the steps, beside whatever else ran.
    """
    rows = []
    for name in checkpoints:
        seeds = seeds_of(bundle, name)
        if bundle.records[name, seeds[0]]["resolved"]["stage"] not in GRADED:
            continue
        own = pd.concat([spent(bundle, name, seed).iloc[[-1]] for seed in seeds]).mean()
        rows.append(
            {
                "route": route_label(name),
                "compute, M": round(own["compute"] / 1e6, 2),
                "of a self-teacher, %": round(100 * own["scored"] / own["compute"], 1),
                "steps": int(own["step"]),
                "seconds": round(own["seconds"]),
            }
        )
    return pd.DataFrame(rows)
