"""Pages of runs: figures/<profile>/runs/<checkpoint>.md, to which plotted points lead, and the card of an exported model.

Both are made from the records alone; nothing is asked of a network.
"""

import json
import shlex
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from s2d_lib.claims import bootstrap
from s2d_lib.report.looks import route_label
from s2d_lib.report.tables import PAGES, interval, markdown, run_page
from s2d_lib.results.bundle import Bundle, ancestry, spent_by
from s2d_lib.study.resolve import RUN

CELL = 160  # characters of a sample that a page shows
WORDS = {"from": "the weights of", "teacher": "the teacher", "rollouts": "the stored"}
MICRO = "micro/"  # what the names of models released inside the package begin with
LEDGER = {  # what readers are told of `spent_by`
    "all_steps": "optimiser steps",
    "labels": "labeled problems",
    "gradings": "gradings",
    "sampled_tokens": "tokens sampled",
    "trained_tokens": "tokens trained on",
}


def write_run_pages(bundle: Bundle, profile: str, folder: Path) -> list[Path]:
    """Write the page of every checkpoint in a profile's results into figures/<profile>, and remove those of checkpoints that
    are there no more."""
    seeds: dict[str, list[int]] = {}
    children: dict[str, set[str]] = {}
    for (name, seed), record in sorted(bundle.records.items()):
        seeds.setdefault(name, []).append(seed)
        for parent in record["resolved"]["parents"].values():
            children.setdefault(parent, set()).add(name)
    (folder / PAGES).mkdir(parents=True, exist_ok=True)
    for path in (folder / PAGES).glob("*.md"):
        if path.stem not in seeds:
            path.unlink()
    for name, own in seeds.items():
        text = page_text(bundle, profile, name, own, sorted(children.get(name, ())))
        (folder / run_page(name)).write_text(text, encoding="utf-8")
    return [folder / run_page(name) for name in seeds]


def page_text(bundle: Bundle, profile: str, checkpoint: str, seeds: list[int], children: list[str]) -> str:
    """One page: what the checkpoint is made from and with, what came out with every seed, how to make it again; `children`:
    checkpoints that are made from it."""
    records = [bundle.records[checkpoint, seed] for seed in seeds]
    resolved, named = records[0]["resolved"], shlex.quote(profile)
    parts = [
        f"# {checkpoint}",
        f"{route_label(checkpoint)}, profile `{profile}`, stage `{resolved['stage']}`",
        _relatives("Made from", [(WORDS[kind], name) for kind, name in resolved["parents"].items()]),
        _relatives("Used by", [("", name) for name in children]),
        parameter_table(resolved),
        markdown(pd.DataFrame([_run(seed, record) for seed, record in zip(seeds, records, strict=True)]).fillna("")),
        _decodings(bundle, checkpoint),
        "Steps, labeled problems, gradings, tokens and seconds are of this run alone; tables count those of the runs it is "
        "made from too.",
        f"Made by `s2d run --profile {named} --checkpoint {checkpoint} --seed {seeds[0]}`, after the runs it is made from; "
        f"`make study PROFILE={profile}` makes all.",
        f'Recorded in [results/records.json.xz](../results/records.json.xz) under `"{checkpoint}@<seed>"`; every evaluated '
        "problem is in results/evaluation.parquet, every optimiser step in results/curves.csv.xz.",
        _samples(bundle, checkpoint),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _relatives(what: str, named: list[tuple[str, str]]) -> str:
    """A line of links to the pages beside this one: what for, and the checkpoint."""
    links = [f"{kind} [{name}]({name}.md)".strip() for kind, name in named]
    return f"{what}: {', '.join(links)}" if links else ""


def _decodings(bundle: Bundle, checkpoint: str) -> str:
    """Its accuracy at every decoding; empty where there is one only."""
    rows = []
    for decoding in bundle.decoded.loc[bundle.decoded["checkpoint"] == checkpoint, "decoding"].unique():
        found = {n: bootstrap(bundle.at(decoding).accuracy(checkpoint, n).to_numpy()) for n in bundle.sets}
        said = {f"{name}, %": interval(*estimate) for name, estimate in found.items()}
        rows.append({"decoding": decoding} | said)
    about = "At every decoding, 95% intervals over seeds and problems:\n\n"
    return about + markdown(pd.DataFrame(rows)) if rows else ""


def _samples(bundle: Bundle, checkpoint: str) -> str:
    rows = bundle.samples[bundle.samples["checkpoint"] == checkpoint]
    if rows.empty:
        return ""
    said = {name: rows[name].map(one_line) for name in ("set", "prompt", "completion", "answer")}
    table = pd.DataFrame(said | {"right": rows["correct"].map({True: "yes", False: "no"})})
    return f"Samples of seed {rows['seed'].iloc[0]}, one of each of the first problems:\n\n{markdown(table)}"


def one_line(text: str) -> str:
    """Text for a cell of a Markdown table, at most CELL characters."""
    line = " ⏎ ".join(part.strip() for part in str(text).strip().splitlines())
    line = line if len(line) <= CELL else f"{line[:CELL]} …"
    inside = line.replace("|", "¦").replace("`", "'")  # which would end the cell, or the code in it
    return f"`{inside}`" if inside else ""


def parameter_table(resolved: dict) -> str:
    """The resolved stage as a table of two columns; what is not set is left out."""
    kept = {"model": resolved["model"]["model"], "role": resolved["role"], "labels": resolved["labels"]}
    kept |= {"weights": (resolved["weights"] or "")[:12], "pool": resolved["problems"]["pool"], **resolved["params"]}
    kept |= {name: resolved[name] for name in ("sampling", "evaluation", "validation", "hardware") if name in resolved}
    rows = {name: _short(value) for name, value in kept.items() if value not in (None, "")}
    return markdown(pd.DataFrame(rows.items(), columns=["parameter", "value"]))


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(own)}" for name, own in value.items() if own is not None)
    return value if isinstance(value, str) else json.dumps(value)


def _run(seed: int, record: dict) -> dict[str, str]:
    """A run in a line; its accuracies are percent with the standard error over problems."""
    row = {"seed": f'<a id="seed-{seed}"></a>{seed}', "hash": f"`{record['hash'][:12]}`"}
    row |= {f"{s['set']}, %": f"{100 * s['avg']:.1f} ± {100 * s['se']:.1f}" for s in record.get("evaluation", [])}
    counts = spent_by([record])
    row |= {words.replace("optimiser ", ""): f"{counts[name]:,}" for name, words in LEDGER.items()}
    return row | {"seconds": f"{round(record['seconds']):,}"}


def model_card(bundle: Bundle, profile: str, checkpoint: str, seed: int) -> str:
    """The README.md of an exported model: the Hub's metadata, recipe, ancestry with its label ledger, evaluation, licence,
    versions. The bundle holds the records of the run and of all runs that it was made from, or there is a StudyError."""
    record = bundle.records[checkpoint, seed]
    resolved, environment, base = record["resolved"], record["environment"], record["resolved"]["model"]["model"]
    measured = pd.DataFrame(record["evaluation"]).round(4).rename(columns={"avg": "avg@k", "pass": "pass@k"})
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    licence = f"Apache-2.0, as the package and its base model `{base}`."
    if not base.startswith(MICRO):
        licence = (
            f"These weights are derived from `{base}`, whose licence applies to them, and were trained on its profile's "
            "problems; s2d does not know either licence. Look them up and put the model's into this card's header before "
            "publishing."
        )
    parts = [
        f"---\n{_metadata(bundle, profile, checkpoint, seed)}\n---",
        f"# {checkpoint}",
        f"{route_label(checkpoint)}: `{base}` as the {resolved['role'].replace('_', ' ')} of profile `{profile}`, seed {seed}, "
        f"run `{record['hash'][:12]}`. Made by `s2d run --profile {shlex.quote(profile)} --checkpoint {checkpoint} "
        f"--seed {seed}`, after the runs below.",
        f"## Recipe\n\nStage `{resolved['stage']}`, {record['optimizer_steps']} optimiser steps.",
        parameter_table(resolved),
        "## Ancestry and labels\n\nWhat it was made from, and which model consumed which labels on the way; the total counts a "
        "problem that several runs used once.",
        markdown(label_ledger(bundle, checkpoint, seed)),
        f"## Evaluation\n\n{markdown(measured)}",
        "Shares, and mean tokens; `se` is the standard error of avg@k over problems, for the weights in this folder alone.",
        f"## Licence\n\n{licence}",
        f"## Versions\n\nPython {environment['python']}, {packages}; s2d at commit {json.dumps(environment['git'])}.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(bundle: Bundle, profile: str, checkpoint: str, seed: int) -> str:
    base = bundle.records[checkpoint, seed]["resolved"]["model"]["model"]
    stages = {bundle.records[name, seed]["resolved"]["stage"] for name in ancestry(bundle, checkpoint, seed)}
    results = []
    for one in bundle.records[checkpoint, seed]["evaluation"]:
        what = {"task_type": "text-generation", "dataset_type": one["set"], "dataset_name": one["set"]}
        what |= {"metric_type": "accuracy", "metric_name": f"avg@{one['samples']}, %"}
        results.append(EvalResult(**what, metric_value=round(100 * one["avg"], 2)))
    # Else it has one of the forms of s2d_lib.models.policy.model_place.
    on_the_hub = not base.startswith((MICRO, RUN, "package:", ".", "/", "~"))
    return ModelCardData(
        model_name=f"{profile}-{checkpoint}-seed-{seed}",
        library_name="transformers",
        pipeline_tag="text-generation",
        license="apache-2.0" if base.startswith(MICRO) else "unknown",
        base_model=base if on_the_hub else None,
        tags=["s2d", "trl", *sorted(stage.replace("_", "-") for stage in stages - {"base", "teacher_rollouts"})],
        eval_results=results,
    ).to_yaml()


def label_ledger(bundle: Bundle, checkpoint: str, seed: int) -> pd.DataFrame:
    """What a checkpoint was made from, and which model consumed which labels on the way: a row a run of its ancestry, then the
    total, with `checkpoint`, `stage`, `model` (and its role), `from`, `teacher`, `pool`, `use` of it (`labels`, or `prompts`
    alone) and LEDGER."""
    records, rows = {name: bundle.records[name, seed] for name in ancestry(bundle, checkpoint, seed)}, []
    for name, record in records.items():
        run, used = record["resolved"], record.get("label_use", {}).get("problems")
        row = {"checkpoint": name, "stage": run["stage"], "model": f"{run['model']['model']} ({run['role']})"}
        row |= {kind: run["parents"].get(kind, "") for kind in ("from", "teacher")}
        row |= {"pool": run["labels"] or "", "use": "" if run["stage"] == "base" else "labels" if used else "prompts"}
        rows.append(row | {"learning rate": run["params"].get("learning_rate", "")} | spent_by([record]))
    table = pd.DataFrame([*rows, {"checkpoint": "total"} | spent_by(list(records.values()))]).fillna("")
    return table.drop(columns="sampled_sequences").rename(columns=LEDGER)
