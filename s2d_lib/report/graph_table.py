"""The graph of a study as a table: every run, what it is made from, what it asks for and what it costs."""

import pandas as pd

from s2d_lib.pipeline import Job
from s2d_lib.report.plan import figure


def graph_table(jobs: dict[str, Job], needs: dict[str, dict]) -> pd.DataFrame:
    """A row a run, parents first.

    Args:
        jobs: By the runs' hashes.
        needs: Likewise, of s2d_lib.plan.resources.

    Returns:
        As text: `run`, `made from` (of the same seed), `state`, `GPUs`, `memory, GB` (of the machine), `hours at most`
        (until a scheduler may kill it), `GPU hours` expected to be computed, `reserved` GPU hours, `PFLOP`.
    """
    rows = []
    for key, job in jobs.items():
        need, parents = needs[key], [jobs[parent].resolved.checkpoint for parent in job.parents]
        rows.append(
            {
                "run": job.rule,
                "made from": ", ".join(parents),
                "state": "finished" if job.done else "to make",
                "GPUs": str(need["gpus"]),
                "memory, GB": str(need["memory"]),
                "hours at most": "" if need["hours limit"] is None else figure(need["hours limit"]),
                "GPU hours": figure(need["hours"]) if need["gpus"] else "",
                "reserved": figure(need["hours reserved"]) if need["gpus"] else "",
                "PFLOP": figure(need["flops"] / 1e15),
            }
        )
    return pd.DataFrame(rows)


def graph_summary(jobs: dict[str, Job], needs: dict[str, dict]) -> str:
    """What is to be made, in one sentence."""
    left = [needs[key] for key, job in jobs.items() if not job.done]
    flops = figure(sum(need["flops"] for need in left) / 1e15)
    says = f"{len(jobs)} runs, {len(left)} of them to make: {flops} PFLOP"
    if any(need["gpus"] for need in left):
        hours, most = (figure(sum(need[name] for need in left)) for name in ("hours", "hours at most"))
        says += f", {hours} GPU hours (at most {most})"
        says += f", {figure(sum(need['hours reserved'] for need in left))} reserved"
    return f"{says}."
