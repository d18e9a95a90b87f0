"""A plan for readers: what every kind of run costs, what it holds in memory, and how uncertain that is."""

from pathlib import Path

import pandas as pd

from s2d_lib.plan import Plan
from s2d_lib.plan.gpus import gpu_named
from s2d_lib.plan.hours import AROUND
from s2d_lib.plan.memory import RESERVE
from s2d_lib.report.tables import write_forms

KIND = ["stage", "model", "taught by"]
HOURS = ("hours", "hours sampling", "hours low", "hours high", "hours reserved")
UNITS = {"sampled": 1e6, "trained": 1e6, "tested": 1e6, "flops": 1e18, **dict.fromkeys(HOURS, 1)}
PARTS = {
    "weights": "weights",
    "copies": "bfloat16 copy",
    "teacher": "teacher",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "kv_cache": "KV cache",
}
"""Parts of a run's memory -> what a reader sees."""
ON_EACH = {name: PARTS[name] for name in ("weights", "copies", "teacher", "gradients", "optimiser")} | {
    "gathered": "gathered",
    "moment": "at a time",
    "engine": "vLLM's share",
    "reserve": "reserve",
}
"""Parts of each GPU's memory (s2d_lib.plan.per_gpu) -> what a reader sees."""


def cost_numbers(plan: Plan) -> pd.DataFrame:
    """Every kind of run (stage, model that is trained or sampled, teacher), summed over checkpoints and seeds.

    Returns:
        `stage`, `model`, `taught by`, `runs`; `sampled`, `trained`, `tested` (million tokens), `flops` (10^18), `hours`,
        `hours sampling` (of them), `hours low`, `hours high`, `hours reserved`; the last row is their sum, with stage `all`.
    """
    rows = _with_short_names(plan.runs).rename(columns={"seeds": "runs"})
    for name, unit in UNITS.items():
        rows[name] = rows[name] * rows["runs"] / unit
    numbers = rows.groupby(KIND, sort=False)[["runs", *UNITS]].sum().reset_index()
    total = dict.fromkeys(KIND, "") | {"stage": "all"} | numbers[["runs", *UNITS]].sum().to_dict()
    return pd.concat([numbers, pd.DataFrame([total])], ignore_index=True).astype({"runs": int})


def cost_table(plan: Plan) -> pd.DataFrame:
    """`cost_numbers` as text."""
    numbers = cost_numbers(plan)
    out = numbers[[*KIND, "runs"]].astype({"runs": str})
    for name in ("sampled", "trained", "tested"):
        out[f"{name}, M tokens"] = numbers[name].map(figure)
    out["EFLOP"], out["GPU hours"] = numbers["flops"].map(figure), numbers["hours"].map(figure)
    out["of them sampling"] = (numbers["hours sampling"] / numbers["hours"]).map("{:.0%}".format)
    out["between"] = numbers["hours low"].map(figure) + " and " + numbers["hours high"].map(figure)
    if numbers["hours reserved"].any():
        out["reserved"] = numbers["hours reserved"].map(figure)
    return out


def memory_numbers(plan: Plan) -> pd.DataFrame:
    """The most that a run of every kind holds in one process, in GB (10^9 bytes).

    Returns:
        `stage`, `model`, `taught by`; the keys of PARTS (its KV cache or that of its validation, whichever is larger), `peak`
        (all but the smaller of activations and KV cache; or its evaluation by one process), `logits_avoided`; `engine`, what a
        vLLM engine of the run's own takes of the GPU beside that; `gpus`, the fewest that hold it with its state sharded (NaN:
        no number of them does).
    """
    rows = _with_short_names(plan.runs)
    rows["kv_cache"] = rows[["kv_cache", "validation"]].max(axis=1)
    groups = rows.groupby(KIND, sort=False)
    numbers = groups[[*PARTS, "peak", "logits_avoided"]].max() / 1e9
    numbers["engine"] = groups["engine_share"].max() * gpu_named(plan.gpu).memory / 1e9
    numbers["gpus"] = groups["gpus"].agg(lambda found: found.max(skipna=False))
    return numbers.reset_index()


def memory_table(plan: Plan) -> pd.DataFrame:
    """`memory_numbers` as text."""
    numbers = memory_numbers(plan)
    out = numbers[KIND].copy()
    for name, label in (PARTS | {"peak": "at most, GB", "logits_avoided": "logits avoided"}).items():
        out[label] = numbers[name].map(figure)
    if numbers["engine"].any():
        out["vLLM's share"] = numbers["engine"].map(figure)
    out[f"{plan.gpu} needed"] = ["none is enough" if gpus != gpus else f"{gpus:.0f}" for gpus in numbers["gpus"]]
    return out


def gpu_numbers(plan: Plan) -> pd.DataFrame:
    """What each of the GPUs holds that the profile gives a run, in GB; of every kind the run and the phase that take most.

    Returns:
        `stage`, `model`, `taught by`; `phase` and its `gpus`; the keys of ON_EACH, `at a time` (what their `moment` is), `sum`
        (of them all, the reserve too) and whether all runs of the kind `fit`. No rows for a profile on CPUs.
    """
    rows = _with_short_names(plan.runs[plan.runs["given"] > 0])
    numbers = rows[[*KIND, "phase", "each moment is"]].rename(columns={"each moment is": "at a time"})
    numbers["gpus"] = rows["phase gpus"]
    for part in ON_EACH:
        numbers[part] = rows[f"each {part}"] / 1e9
    numbers["sum"] = numbers[[*ON_EACH]].sum(axis=1)
    numbers["fit"] = rows.groupby(KIND)["fits"].transform("all")
    return numbers.loc[numbers.groupby(KIND, sort=False)["sum"].idxmax()].reset_index(drop=True)


def gpu_table(plan: Plan) -> pd.DataFrame:
    """`gpu_numbers` as text; parts that no run has are left out."""
    numbers = gpu_numbers(plan)
    out = numbers[KIND].copy()
    out["most when"] = numbers["phase"] + " on " + numbers["gpus"].astype(str)
    for name, label in ON_EACH.items():
        if numbers[name].any():
            out[label] = numbers[name].map(figure)
    if "at a time" in out:
        out["at a time"] = (out["at a time"] + " " + numbers["at a time"]).where(numbers["moment"] > 0, "0")
    out[f"sum, of {figure(gpu_named(plan.gpu).memory / 1e9)}"] = numbers["sum"].map(figure)
    out["fits"] = numbers["fit"].map({True: "yes", False: "NO"})
    return out


def disk_table(plan: Plan) -> pd.DataFrame:
    """What the disk must hold, in GB."""
    parts = {
        "published models": plan.published,
        "finished runs, all seeds": plan.total("kept"),
        "the largest run while it trains": float(plan.runs["scratch"].max()),
        "together": plan.disk,
    }
    return pd.DataFrame({"what": parts.keys(), "GB": [figure(size / 1e9) for size in parts.values()]})


def summary(plan: Plan) -> str:
    """The whole plan in one sentence."""
    hours, low, high = (figure(plan.total(name)) for name in ("hours", "hours low", "hours high"))
    return (
        f"Profile {plan.profile}: {plan.runs['seeds'].sum()} runs, {figure(plan.total('sampled') / 1e6)} million tokens "
        f"sampled for training, {figure(plan.total('trained') / 1e6)} million trained on, "
        f"{figure(plan.total('flops') / 1e18)} EFLOP: {hours} hours of one {plan.gpu} at a utilisation of "
        f"{plan.utilisation:g} (between {low} and {high}){_reserved(plan)}, {figure(plan.disk / 1e9)} GB of disk."
    )


def _reserved(plan: Plan) -> str:
    """GPU hours that a scheduler would count, and what does not fit; nothing of a profile for CPUs."""
    if not plan.runs["given"].any():
        return ""
    lacking = int((plan.runs["seeds"] * ~plan.runs["fits"]).sum())
    fits = f"; {lacking} runs do not fit the GPUs they are given" if lacking else ""
    return f", {figure(plan.total('hours reserved'))} of them reserved{fits}"


def write_plan(plan: Plan, folder: Path) -> None:
    """Write plan.csv (a row a checkpoint, all numbers), plan.md and plan.tex (the tables, and how sure they are)."""
    note = f"{summary(plan)} Made by s2d plan and notebook 60."
    write_forms(plan.runs, tables_of(plan), folder, "plan", note, remarks={"How sure": uncertainty(plan)})


def tables_of(plan: Plan) -> dict[str, pd.DataFrame]:
    """The tables by their titles; that of each GPU where there are any."""
    on_each = {"Memory of each GPU that a run is given, GB": gpu_table(plan)} if plan.runs["given"].any() else {}
    return {
        "Cost, all checkpoints and seeds": cost_table(plan),
        "Memory of one run in one process, GB": memory_table(plan),
        **on_each,
        "Disk": disk_table(plan),
    }


def uncertainty(plan: Plan) -> list[str]:
    """How far each number can be off, and why."""
    limit, memory = plan.limit, gpu_named(plan.gpu).memory / 1e9
    return [
        f"Numbers of sequences are exact, but for rollouts on a pool that loses the problems it shares with an evaluation set "
        f"(about 1% of DAPO-Math-17K). Tokens assume prompts of {plan.lengths.prompt:g} and completions of "
        f"{plan.lengths.completion:g} tokens on average (`lengths` in the profile); they grow in proportion, at most to the "
        f"limit of {limit}.",
        "GPU hours lie between completions half as long without any padding, and all completions at the limit. Padding to "
        "the limit, as transformers' fixed batches have it, is in the estimate; vLLM, where it samples, has none. Hours are in "
        f"inverse proportion to the utilisation, which is assumed ({plan.utilisation:g}), not measured: training PaLM reached "
        "0.46 (arXiv 2204.02311), Llama 3 0.38 to 0.43 (arXiv 2407.21783), and sampling from small models reaches far less. "
        "Loading, grading, saving and waiting are not counted in them, nor is what several GPUs that share a model send each "
        "other: where transformers samples, that is the whole model for every token.",
        f"Reserved are all GPUs that the profile gives a run, from its start to its end: while one process evaluates the others "
        f"wait, validation is sampled by each of them, and {AROUND:g} hours a run are taken for loading, grading and saving.",
        "FLOPs leave out norms and softmax (below 1%); a forward pass that gradient checkpointing repeats is counted.",
        "State (weights, gradients, optimiser) is exact to the byte, activations within about a third: backward buffers are "
        f"taken to be as large as one layer's activations. Of a GPU's {memory:.0f} GB, {RESERVE:.0%} are kept in reserve.",
        "GPUs that share a state hold even parts of it and, for a moment, embeddings and two layers whole (an upper bound). "
        "After training in several processes one process evaluates the whole model in float32, its layers laid out over "
        "`hardware.sampling_gpus`; what each GPU holds is listed for the part of a run that takes more (*most when*). *Gathered* "
        "is what it holds beyond its even part; activations, KV cache and validation take turns, so only the largest counts "
        "(*at a time*). A vLLM engine of the run's own takes its share of a GPU beside the run's own memory "
        "(`gpu_memory_utilization`); the GPUs needed count with it.",
    ]


def calibration_table(by_stage: pd.DataFrame) -> pd.DataFrame:
    """`Calibration.by_stage` as text: thousands of tokens, and what stages don't do left empty."""
    out = by_stage[["stage", "runs"]].astype({"runs": str})
    for kind in ("sampled", "trained"):
        for name in (f"{kind}, predicted", f"{kind}, recorded"):
            out[f"{name}, k"] = [f"{value:,.0f}" if value else "" for value in by_stage[name]]
        ratio = f"{kind}, recorded/predicted"
        out[ratio] = ["" if value != value else f"{value:.3f}" for value in by_stage[ratio]]
    for name in ("training, GFLOP/s", "sampling, GFLOP/s"):
        out[name] = ["" if value != value else f"{value:.1f}" for value in by_stage[name]]
    return out


def figure(value: float) -> str:
    """Three significant digits at most, thousands with separators."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else ("0" if value == 0 else f"{value:.0e}")


def _with_short_names(runs: pd.DataFrame) -> pd.DataFrame:
    """Models without the organisation that published them."""
    short = {name: runs[name].map(lambda model: model.rsplit("/", 1)[-1]) for name in ("model", "taught by")}
    return runs.assign(**short)
