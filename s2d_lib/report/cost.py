"""What a route cost: labels, gradings, optimiser steps and tokens, over a checkpoint's whole ancestry."""

from s2d_lib.report.bundle import Bundle


def ancestry(bundle: Bundle, checkpoint: str, seed: int) -> list[str]:
    """The checkpoint and all runs it was made from, each once."""
    found: list[str] = []

    def visit(name: str) -> None:
        if name not in found:
            found.append(name)
            for parent in bundle.records[name, seed]["resolved"]["parents"].values():
                visit(parent)

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
    records = [bundle.records[name, seed] for name in ancestry(bundle, checkpoint, seed)]
    labels = set().union(*(r.get("label_use", {}).get("problems", {}) for r in records))
    line = own_line(bundle, checkpoint, seed)
    return {
        "own_steps": sum(bundle.records[name, seed].get("optimizer_steps", 0) for name in line),
        "all_steps": sum(r.get("optimizer_steps", 0) for r in records),
        "labels": len(labels),
        "gradings": sum(r.get("label_use", {}).get("gradings", 0) for r in records),
        "sampled_sequences": sum(r.get("sampled", {}).get("sequences", 0) for r in records),
        "sampled_tokens": sum(r.get("sampled", {}).get("tokens", 0) for r in records),
        "trained_tokens": sum(r.get("trained_tokens", 0) for r in records),
    }
