"""One small page a checkpoint, figures/<profile>/runs/<checkpoint>.md: from a plotted point to its run records."""

import json
import shlex
from pathlib import Path

import pandas as pd

from s2d_lib.report.decodings import by_decoding
from s2d_lib.report.style import BEST, route_label
from s2d_lib.results.bundle import Bundle

PAGES = "runs"
CELL = 160  # characters of a sample that a page shows
WORDS = {"from": "the weights of", "teacher": "the teacher", "rollouts": "the stored"}


def run_page(checkpoint: str) -> str:
    """Where a checkpoint's page lies, as seen from the tables and figures beside it."""
    return f"{PAGES}/{checkpoint.removesuffix(BEST)}.md"


def link(label: str, checkpoint: str, start: str = "") -> str:
    """A label that leads to the checkpoint's page, in Markdown; `start` leads to the page's profile."""
    return f"[{label}]({start}{run_page(checkpoint)})"


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown without its index: text stays as it is, and columns of numbers stand at the right."""
    text = table.astype(str).rename(columns=str).map(_cell).rename(columns=_cell)
    sides = ["right" if len(text) and text[c].str.fullmatch(r"[-+\d.,]+").all() else "left" for c in text]
    return text.to_markdown(index=False, disable_numparse=True, colalign=sides)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def write_run_pages(bundle: Bundle, profile: str, folder: Path) -> list[Path]:
    """Write the page of every checkpoint in the results and remove those of checkpoints that are there no more.

    Args:
        bundle: The results.
        profile: Whose.
        folder: figures/<profile>.
    """
    seeds: dict[str, list[int]] = {}
    for name, seed in sorted(bundle.records):
        seeds.setdefault(name, []).append(seed)
    pages = folder / PAGES
    pages.mkdir(parents=True, exist_ok=True)
    for path in pages.glob("*.md"):
        if path.stem not in seeds:
            path.unlink()
    children = _children(bundle)
    written = []
    for name, own in seeds.items():
        written.append(folder / run_page(name))
        written[-1].write_text(page_text(bundle, profile, name, own, children.get(name, [])), encoding="utf-8")
    return written


def page_text(bundle: Bundle, profile: str, checkpoint: str, seeds: list[int], children: list[str]) -> str:
    """One page: what the checkpoint is made from and with, what came out with every seed, and how to make it again.

    Args:
        bundle: The results.
        profile: Whose.
        checkpoint: Which.
        seeds: With which it was run.
        children: Checkpoints that are made from it.
    """
    records = [bundle.records[checkpoint, seed] for seed in seeds]
    resolved, named = records[0]["resolved"], shlex.quote(profile)
    parts = [
        f"# {checkpoint}",
        f"{route_label(checkpoint)}, profile `{profile}`, stage `{resolved['stage']}`",
        _relatives("Made from", ((WORDS[kind], name) for kind, name in resolved["parents"].items())),
        _relatives("Used by", (("", name) for name in children)),
        parameter_table(resolved),
        markdown(pd.DataFrame([_row(seed, record) for seed, record in zip(seeds, records, strict=True)]).fillna("")),
        decodings_table(bundle, checkpoint),
        "Steps, labeled problems, gradings, tokens and seconds are of this run alone; tables count those of the runs it is "
        "made from too.",
        f"Made by `s2d run --profile {named} --checkpoint {checkpoint} --seed {seeds[0]}`, after the runs it is made from; "
        f"`make study PROFILE={profile}` makes all.",
        f'Recorded in [results/records.json](../results/records.json) under `"{checkpoint}@<seed>"`; every evaluated problem '
        "is in results/evaluation.csv.gz, every optimiser step in results/curves.csv.gz.",
        samples_table(bundle, checkpoint),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def decodings_table(bundle: Bundle, checkpoint: str) -> str:
    """Its accuracy at every decoding as a table; empty where there is one only."""
    rows = by_decoding(bundle, checkpoint)
    return "" if rows.empty else f"At every decoding, 95% intervals over seeds and problems:\n\n{markdown(rows)}"


def samples_table(bundle: Bundle, checkpoint: str) -> str:
    """Some of its completions as a table; empty where the results keep none."""
    rows = bundle.samples[bundle.samples["checkpoint"] == checkpoint]
    if rows.empty:
        return ""
    said = {name: rows[name].map(one_line) for name in ("set", "prompt", "completion", "answer")}
    table = pd.DataFrame(said | {"right": rows["correct"].map({True: "yes", False: "no"})})
    seed = rows["seed"].iloc[0]
    return f"Samples of seed {seed}, one of each of the first problems:\n\n{markdown(table)}"


def one_line(text: str) -> str:
    """Text for a cell of a Markdown table, at most CELL characters."""
    line = " ⏎ ".join(part.strip() for part in str(text).strip().splitlines())
    line = line if len(line) <= CELL else f"{line[:CELL]} …"
    inside = line.replace("|", "¦").replace("`", "'")  # which would end the cell, or the code in it
    return f"`{inside}`" if inside else ""


def _children(bundle: Bundle) -> dict[str, list[str]]:
    """Checkpoint -> names of those that read it, in order."""
    children: dict[str, set[str]] = {}
    for (name, _), record in bundle.records.items():
        for parent in record["resolved"]["parents"].values():
            children.setdefault(parent, set()).add(name)
    return {parent: sorted(names) for parent, names in children.items()}


def _relatives(what: str, named) -> str:
    """A line of links to the pages beside this one; `named`: (what for, checkpoint) pairs."""
    links = [f"{kind} [{name}]({name}.md)".strip() for kind, name in named]
    return f"{what}: {', '.join(links)}" if links else ""


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


def _row(seed: int, record: dict) -> dict[str, str]:
    """A run in a line; its accuracies are percent with the standard error over problems."""
    use, sampled = record.get("label_use", {}), record.get("sampled", {})
    counts = {
        "steps": record.get("optimizer_steps", 0),
        "labeled problems": len(use.get("problems", {})),
        "gradings": use.get("gradings", 0),
        "tokens sampled": sampled.get("tokens", 0),
        "tokens trained on": record.get("trained_tokens", 0),
    }
    return {
        "seed": f'<a id="seed-{seed}"></a>{seed}',
        "hash": f"`{record['hash'][:12]}`",
        **{f"{s['set']}, %": f"{100 * s['avg']:.1f} ± {100 * s['se']:.1f}" for s in record.get("evaluation", [])},
        **{name: f"{value:,}" for name, value in counts.items()},
        "seconds": f"{record['seconds']:,.0f}",
    }
