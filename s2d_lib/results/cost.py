"""What a route cost: labels, gradings, optimiser steps and tokens, over a checkpoint's whole ancestry."""

from collections.abc import Iterable

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle

LEDGER = {
    "all_steps": "optimiser steps",
    "labels": "labeled problems",
    "sampled_sequences": "samples",
    "sampled_tokens": "tokens sampled",
    "trained_tokens": "tokens trained on",
}
"""What the ledger's columns are called for readers."""


def ancestry(bundle: Bundle, checkpoint: str, seed: int) -> list[str]:
    """The checkpoint and all runs it was made from, each once, parents before children.

    Raises:
        StudyError: When one of them is missing from the results.
    """
    found: list[str] = []

    def visit(name: str) -> None:
        if name in found:
            return
        if (name, seed) not in bundle.records:
            raise StudyError(f"the results lack the run {name!r}, seed {seed}: collect them again with `make study`.")
        for parent in bundle.records[name, seed]["resolved"]["parents"].values():
            visit(parent)
        found.append(name)

    visit(checkpoint)
    return found


def own_line(bundle: Bundle, checkpoint: str, seed: int) -> list[str]:
    """The checkpoint and the runs whose weights it continues, back to its base."""
    line = [checkpoint]
    while parent := bundle.records[line[-1], seed]["resolved"]["parents"].get("from"):
        line.append(parent)
    return line


def route_cost(bundle: Bundle, checkpoint: str, seed: int) -> dict[str, int]:
    """Cost of a route.

    Returns:
        `own_steps`: optimiser steps of the checkpoint's own weights; over the whole ancestry, teacher included:
        `all_steps`, `labels` (distinct labeled problems that were graded against), `gradings`, `sampled_sequences`,
        `sampled_tokens`, `trained_tokens`.
    """
    line = own_line(bundle, checkpoint, seed)
    return {
        "own_steps": sum(bundle.records[name, seed].get("optimizer_steps", 0) for name in line),
        **_spent(bundle.records[name, seed] for name in ancestry(bundle, checkpoint, seed)),
    }


def _spent(records: Iterable[dict]) -> dict[str, int]:
    """What some runs spent together; a problem that several of them used counts once."""
    records = list(records)
    return {
        "labels": len(set().union(*(r.get("label_use", {}).get("problems", {}) for r in records))),
        "gradings": sum(r.get("label_use", {}).get("gradings", 0) for r in records),
        "all_steps": sum(r.get("optimizer_steps", 0) for r in records),
        "sampled_sequences": sum(r.get("sampled", {}).get("sequences", 0) for r in records),
        "sampled_tokens": sum(r.get("sampled", {}).get("tokens", 0) for r in records),
        "trained_tokens": sum(r.get("trained_tokens", 0) for r in records),
    }


def label_ledger(bundle: Bundle, checkpoint: str, seed: int) -> pd.DataFrame:
    """Which model consumed which labels on the way to a checkpoint.

    Returns:
        One row a run of the ancestry that did something, parents before children, then the total: `role` (of the model
        that trained or was sampled), `checkpoint`, `stage`, `pool` and `use` of it (`labels`, or `prompts` alone),
        `labeled problems` (distinct ones, in the total over all runs), `gradings`, `optimiser steps`, `samples`,
        `tokens sampled`, `tokens trained on`.
    """
    line, rows = ancestry(bundle, checkpoint, seed), []
    for name in line:
        record = bundle.records[name, seed]
        resolved = record["resolved"]
        if resolved["stage"] != "base":
            place = {
                "role": resolved["role"],
                "checkpoint": name,
                "stage": resolved["stage"],
                "pool": resolved["labels"],
                "use": "labels" if record.get("label_use", {}).get("problems") else "prompts",
            }
            rows.append(place | _spent([record]))
    total = dict.fromkeys(("checkpoint", "stage", "pool", "use"), "")
    rows.append({"role": "total", **total, **_spent(bundle.records[name, seed] for name in line)})
    return pd.DataFrame(rows).rename(columns=LEDGER)
