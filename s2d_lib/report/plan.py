"""A plan for readers: what every kind of run costs, what it holds in memory, how uncertain that is; and a profile's runs."""

from pathlib import Path

import pandas as pd

from s2d_lib.pipeline import Job
from s2d_lib.plan import AROUND, Plan
from s2d_lib.plan.cost import gpu_named
from s2d_lib.plan.memory import RESERVE
from s2d_lib.report.looks import load_report
from s2d_lib.report.tables import Sheet

KIND = ["stage", "model", "taught by"]
SUMS = dict.fromkeys(("sampled", "trained", "tested"), 1e6) | {"flops": 1e18}
SUMS |= dict.fromkeys(("hours", "hours at most", "hours reserved"), 1)
"""What is summed over runs -> its unit."""
HELD = ["state", "activations", "kv_cache", "vLLM's share"]


def kinds_of(plan: Plan) -> pd.DataFrame:
    """Every kind of run: stage, model that is trained or sampled (without who published it), teacher.

    Returns:
        Over checkpoints and seeds `runs`, tokens in millions, FLOPs in 10^18, hours of one GPU; of the largest run, in its
        fullest phase (`when`), what each GPU (on a CPU each process) holds in GB: HELD, and the `sum` with the reserve, where
        activations and KV cache take turns; whether all runs of the kind `fit`.
    """
    memory, rows = gpu_named(plan.gpu)["memory"], plan.runs.rename(columns={"seeds": "runs"})
    rows[KIND[1:]] = rows[KIND[1:]].apply(lambda models: models.str.rsplit("/").str[-1])
    rows["vLLM's share"] = rows["engine"] * memory
    rows["sum"] = rows["total"] + rows["vLLM's share"] + RESERVE * memory * (rows["gpus"] > 0)
    rows["when"] = rows["phase"] + " on " + rows["on"].astype(str)
    rows[[*HELD, "sum"]] /= 1e9
    for name, unit in SUMS.items():
        rows[name] *= rows["runs"] / unit
    kinds = rows.groupby(KIND, sort=False)
    fullest = rows.loc[kinds["sum"].idxmax()].set_index(KIND)[["when", *HELD, "sum"]]
    return kinds[["runs", *SUMS]].sum().join(fullest).join(kinds["fit"].all()).reset_index()


def tables_of(plan: Plan) -> dict[str, pd.DataFrame]:
    """The plan as text, by title; the last row of the cost is the sum over all runs."""
    kinds, whole = kinds_of(plan), ""
    if plan.runs["gpus"].any():
        whole = f", of {figure(gpu_named(plan.gpu)['memory'] / 1e9)}"
    tokens = {name: f"{name}, M tokens" for name in ("sampled", "trained", "tested")}
    hours = {"flops": "EFLOP", "hours": "GPU hours", "hours at most": "at most", "hours reserved": "reserved"}
    total = {"stage": "all"} | kinds[["runs", *SUMS]].sum().to_dict()
    cost = pd.concat([kinds[[*KIND, "runs", *SUMS]], pd.DataFrame([total])], ignore_index=True).fillna("")
    memory = kinds[[*KIND, "when", *HELD, "sum", "fit"]].replace({"fit": {True: "yes", False: "NO"}})
    disk = {
        "published models": plan.published,
        "finished runs, all seeds": plan.total("kept"),
        "the largest run while it trains": float(plan.runs["scratch"].max()),
        "together": plan.disk,
    }
    tables = {
        "Cost, all checkpoints and seeds": cost.astype({"runs": int}).rename(columns=tokens | hours),
        "Memory of each GPU, or process, of a run, GB": memory.rename(
            columns={"kv_cache": "KV cache", "sum": f"sum{whole}", "fit": "fits"}
        ),
        "Disk": pd.DataFrame({"what": disk.keys(), "GB": [size / 1e9 for size in disk.values()]}),
    }
    texts = {float: figure}
    return {title: one.map(lambda value: texts.get(type(value), str)(value)) for title, one in tables.items()}


def summary(plan: Plan) -> str:
    """The whole plan in one sentence."""
    total = {name.replace(" ", "_"): figure(plan.total(name) / unit) for name, unit in SUMS.items()}
    lacking = int((plan.runs["seeds"] * ~plan.runs["fit"]).sum())
    reserved = f", {total['hours_reserved']} of them reserved" if plan.runs["gpus"].any() else ""
    said = {"reserved": reserved, "lacking": f"; {lacking} runs do not fit" if lacking else ""}
    return (
        load_report()
        .notes["plan"]
        .format(plan=plan, runs=plan.runs["seeds"].sum(), disk=figure(plan.disk / 1e9), **total, **said)
    )


def uncertainty(plan: Plan) -> list[str]:
    """How far each number can be off, and why."""
    notes, said = load_report().notes, {"plan": plan, "around": AROUND, "reserve": RESERVE}
    return [notes[f"plan_{what}"].format(**said) for what in ("tokens", "hours", "memory")]


def write_plan(plan: Plan, folder: Path) -> None:
    """Write plan.csv (a row a checkpoint, all numbers) and plan.md (the tables, and how sure they are)."""
    sure = "\n".join(f"- {sentence}" for sentence in uncertainty(plan))
    note = f"{summary(plan)} Made by s2d plan and notebook 60.\n\n**How sure**\n\n{sure}"
    Sheet("plan", plan.runs, tables_of(plan), note).write(folder)


def figure(value: float) -> str:
    """Three significant digits at most, thousands with separators."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else ("0" if value == 0 else f"{value:.0e}")


def graph_table(jobs: dict[str, Job], needs: dict[str, dict]) -> pd.DataFrame:
    """The runs of a profile, parents first, by their hashes: what each is made from (of the same seed), asks for (the
    machine's memory; hours until a scheduler may kill it) and is expected to cost, as text."""
    rows = []
    for key, job in jobs.items():
        need, parents = needs[key], [jobs[parent].resolved.checkpoint for parent in job.parents]
        row = {"run": job.rule, "made from": ", ".join(parents), "state": "finished" if job.done else "to make"}
        row |= {"GPUs": str(need["gpus"]), "memory, GB": str(need["memory"])}
        row |= {"hours at most": "" if need["hours limit"] is None else figure(need["hours limit"])}
        for words, name in {"GPU hours": "hours", "reserved": "hours reserved"}.items():
            row[words] = figure(need[name]) if need["gpus"] else ""
        rows.append(row | {"PFLOP": figure(need["flops"] / 1e15)})
    return pd.DataFrame(rows)


def graph_summary(jobs: dict[str, Job], needs: dict[str, dict]) -> str:
    """What is to be made, in one sentence."""
    left = [needs[key] for key, job in jobs.items() if not job.done]
    flops, hours, most, reserved = (
        figure(sum(need[name] for need in left) / unit)
        for name, unit in (("flops", 1e15), ("hours", 1), ("hours at most", 1), ("hours reserved", 1))
    )
    gpus = f", {hours} GPU hours (at most {most}), {reserved} reserved" if any(need["gpus"] for need in left) else ""
    return f"{len(jobs)} runs, {len(left)} of them to make: {flops} PFLOP{gpus}."
