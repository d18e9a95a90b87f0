"""A plan for readers: what every kind of run costs, what it holds in memory, and how uncertain that is."""

from pathlib import Path

import pandas as pd

from s2d_lib.plan import AROUND, Plan
from s2d_lib.plan.cost import gpu_named
from s2d_lib.plan.memory import RESERVE
from s2d_lib.report.tables import write_forms

KIND = ["stage", "model", "taught by"]
SUMS = {
    "sampled": 1e6,
    "trained": 1e6,
    "tested": 1e6,
    "flops": 1e18,
    "hours": 1,
    "hours at most": 1,
    "hours reserved": 1,
}
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
    hours, most = (figure(plan.total(name)) for name in ("hours", "hours at most"))
    lacking = int((plan.runs["seeds"] * ~plan.runs["fit"]).sum())
    reserved = f", {figure(plan.total('hours reserved'))} of them reserved" if plan.runs["gpus"].any() else ""
    return (
        f"Profile {plan.profile}: {plan.runs['seeds'].sum()} runs, {figure(plan.total('sampled') / 1e6)} million tokens "
        f"sampled for training, {figure(plan.total('trained') / 1e6)} million trained on, "
        f"{figure(plan.total('flops') / 1e18)} EFLOP: {hours} hours of one {plan.gpu} at a utilisation of "
        f"{plan.utilisation:g} (at most {most}){reserved}{f'; {lacking} runs do not fit' if lacking else ''}, "
        f"{figure(plan.disk / 1e9)} GB of disk."
    )


def uncertainty(plan: Plan) -> list[str]:
    """How far each number can be off, and why."""
    return [
        "Numbers of sequences are exact, but for rollouts on a pool that loses the problems it shares with an evaluation set "
        f"(about 1% of DAPO-Math-17K). Tokens assume prompts of {plan.lengths.prompt:g} and completions of "
        f"{plan.lengths.completion:g} tokens on average (`lengths` in the profile); they grow in proportion, at most to the "
        f"limit of {plan.limit}, for which the hours *at most* are.",
        "transformers samples to the limit, vLLM each completion's own length. Hours are in inverse proportion to the "
        f"utilisation, which is assumed ({plan.utilisation:g}), not measured: PaLM reached 0.46 (arXiv 2204.02311), Llama 3 "
        "0.38 to 0.43 (arXiv 2407.21783), sampling from small models far less. What GPUs send each other is not counted. "
        f"Reserved are all GPUs of a run from its start to its end, with {AROUND:g} hours for loading, grading and saving.",
        "The state is exact to the byte, but for what is gathered of a model in shards, an upper bound; activations, for "
        f"completions at the limit, within about a third. {RESERVE:.0%} of a GPU are kept in reserve. `s2d plan --pilot` "
        "measures a step where it will run.",
    ]


def write_plan(plan: Plan, folder: Path) -> None:
    """Write plan.csv (a row a checkpoint, all numbers), plan.md and plan.tex (the tables, and how sure they are)."""
    note = f"{summary(plan)} Made by s2d plan and notebook 60."
    write_forms(plan.runs, tables_of(plan), folder, "plan", note, remarks={"How sure": uncertainty(plan)})


def figure(value: float) -> str:
    """Three significant digits at most, thousands with separators."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else ("0" if value == 0 else f"{value:.0e}")
