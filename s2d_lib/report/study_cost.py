"""What a whole study cost, by stage, from its records."""

from pathlib import Path

import pandas as pd

from s2d_lib.report.tables import write_forms
from s2d_lib.results.bundle import Bundle


def study_cost(bundle: Bundle) -> pd.DataFrame:
    """Runs, time, optimiser steps and tokens, each run once however many rows it serves.

    Returns:
        One row a stage, then `all`: `stage`, `runs`, `process hours` (each process took the threads that its profile says),
        `optimiser steps`, `tokens sampled` in training and rollouts, `tokens trained on`.
    """
    rows = [
        {
            "stage": record["resolved"]["stage"],
            "runs": 1,
            "process hours": record["seconds"] / 3600,
            "optimiser steps": record.get("optimizer_steps", 0),
            "tokens sampled": record.get("sampled", {}).get("tokens", 0),
            "tokens trained on": record.get("trained_tokens", 0),
        }
        for record in bundle.records.values()
    ]
    table = pd.DataFrame(rows).groupby("stage", sort=False).sum().reset_index()
    return pd.concat([table, pd.DataFrame([{"stage": "all", **table.drop(columns="stage").sum()}])], ignore_index=True)


def readable_cost(table: pd.DataFrame) -> pd.DataFrame:
    """`study_cost` for readers."""
    counts = {
        name: [f"{value:,.0f}" for value in table[name]] for name in table if name not in ("stage", "process hours")
    }
    return table.assign(**counts, **{"process hours": [f"{hours:.2f}" for hours in table["process hours"]]})


def write_cost(table: pd.DataFrame, folder: Path, profile: str) -> None:
    """Write cost.csv, cost.md and cost.tex into figures/<profile>."""
    note = (
        f"Profile {profile}: every run once, evaluation and validation in the hours. Processes ran side by side, so the time "
        "that passed is the hours divided by how many did. Trials of rates and steps are not in it."
    )
    write_forms(table, {"What the whole study cost": readable_cost(table)}, folder, "cost", note)
