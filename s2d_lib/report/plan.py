"""A plan for readers: what every kind of run costs, what it holds in memory, and how uncertain that is."""

from pathlib import Path

import pandas as pd

from s2d_lib.plan import AROUND, Plan
from s2d_lib.plan.memory import RESERVE
from s2d_lib.plan.shapes import gpu_named
from s2d_lib.report.tables import write_forms

KIND = ["stage", "model", "taught by"]
UNITS = {
    "sampled": 1e6,
    "trained": 1e6,
    "tested": 1e6,
    "flops": 1e18,
    "hours": 1,
    "hours at most": 1,
    "hours reserved": 1,
}
PARTS = ("weights", "teacher", "gradients", "optimiser", "activations", "logits", "kv_cache")


def cost_numbers(plan: Plan) -> pd.DataFrame:
    """Every kind of run (stage, model that is trained or sampled, teacher), summed over checkpoints and seeds: `runs`, tokens in
    millions, FLOPs in 10^18, hours of one GPU; the last row is their sum, of stage `all`."""
    rows = _short(plan.runs).rename(columns={"seeds": "runs"})
    for name, unit in UNITS.items():
        rows[name] = rows[name] * rows["runs"] / unit
    numbers = rows.groupby(KIND, sort=False)[["runs", *UNITS]].sum().reset_index()
    total = dict.fromkeys(KIND, "") | {"stage": "all"} | numbers[["runs", *UNITS]].sum().to_dict()
    return pd.concat([numbers, pd.DataFrame([total])], ignore_index=True).astype({"runs": int})


def memory_numbers(plan: Plan) -> pd.DataFrame:
    """What each GPU (on a CPU each process) holds of the kind's largest run in its fullest phase, in GB: PARTS, `vLLM's share`,
    the `sum` with the reserve (activations and logits take turns with the cache), and whether all runs of the kind `fit`."""
    memory, rows = gpu_named(plan.gpu)["memory"], _short(plan.runs)
    numbers = rows[KIND].assign(when=rows["phase"] + " on " + rows["on"].astype(str), **rows[[*PARTS]] / 1e9)
    numbers["vLLM's share"] = rows["engine"] * memory / 1e9
    numbers["sum"] = (rows["total"] + (rows["engine"] + RESERVE * (rows["gpus"] > 0)) * memory) / 1e9
    numbers["fit"] = rows.groupby(KIND)["fit"].transform("all")
    return numbers.loc[numbers.groupby(KIND, sort=False)["sum"].idxmax()].reset_index(drop=True)


def tables_of(plan: Plan) -> dict[str, pd.DataFrame]:
    """The plan as text, by title."""
    tokens = {name: f"{name}, M tokens" for name in ("sampled", "trained", "tested")}
    hours = {"flops": "EFLOP", "hours": "GPU hours", "hours at most": "at most", "hours reserved": "reserved"}
    whole = f", of {figure(gpu_named(plan.gpu)['memory'] / 1e9)}" if plan.runs["gpus"].any() else ""
    disk = {
        "published models": plan.published,
        "finished runs, all seeds": plan.total("kept"),
        "the largest run while it trains": float(plan.runs["scratch"].max()),
        "together": plan.disk,
    }
    memory = memory_numbers(plan).replace({"fit": {True: "yes", False: "NO"}})
    tables = {
        "Cost, all checkpoints and seeds": cost_numbers(plan).rename(columns=tokens | hours),
        "Memory of each GPU, or process, of a run, GB": memory.rename(
            columns={"kv_cache": "KV cache", "sum": f"sum{whole}", "fit": "fits"}
        ),
        "Disk": pd.DataFrame({"what": disk.keys(), "GB": [size / 1e9 for size in disk.values()]}),
    }
    return {
        title: one.map(lambda value: figure(value) if isinstance(value, float) else str(value))
        for title, one in tables.items()
    }


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
        f"Numbers of sequences are exact, but for rollouts on a pool that loses the problems it shares with an evaluation set "
        f"(about 1% of DAPO-Math-17K). Tokens assume prompts of {plan.lengths.prompt:g} and completions of "
        f"{plan.lengths.completion:g} tokens on average (`lengths` in the profile); they grow in proportion, at most to the "
        f"limit of {plan.limit}, for which the hours *at most* are. FLOPs leave out norms and softmax (below 1%).",
        "transformers samples to the limit, vLLM each completion's own length. Hours are in inverse proportion to the "
        f"utilisation, which is assumed ({plan.utilisation:g}), not measured: PaLM reached 0.46 (arXiv 2204.02311), Llama 3 "
        "0.38 to 0.43 (arXiv 2407.21783), sampling from small models far less. What several GPUs that share a model "
        f"send each other is not counted. Reserved are all GPUs of a run from its start to its end, with {AROUND:g} hours for "
        "loading, grading and saving, and while one process evaluates.",
        "Weights, gradients and optimiser are exact to the byte; activations within about a third, for completions at the limit; "
        "what is gathered of a model in shards (among its weights here) is an upper bound. *Logits* are a chunk of them, as no "
        "stage holds them whole, and a buffer of the head's gradient. Activations with logits and the KV cache take turns. "
        f"{RESERVE:.0%} of a GPU are kept in reserve. `s2d plan --pilot` measures a step where it will run.",
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


def _short(runs: pd.DataFrame) -> pd.DataFrame:
    """Models without the organisation that published them."""
    return runs.assign(
        **{name: runs[name].map(lambda model: model.rsplit("/", 1)[-1]) for name in ("model", "taught by")}
    )
