"""`make bench`, or `python -m benchmarks [part ...]`: measure on one thread, and write tables and a plot to figures/bench/."""

import json
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch

from benchmarks.loss import CASES, loss_cost
from benchmarks.stages import sampling_cost, stages_cost
from benchmarks.timing import machine
from s2d_lib.report.style import save_figure, use_style
from s2d_lib.study import project_root

NOTES = {
    "loss": "A forward and backward pass. floor: the time of the matrix products alone, each as one call of torch, over the "
    "seconds; peak_mib: beyond the inputs; gradient_error: relative, against float64, on at most 64 tokens and 49,152 words. Who "
    "is missing was not installed or, as Liger without the head's gradient, has no such loss.",
    "stages": "A step of the micro family from the same weights, prompts, seeds and first rollouts; of each training the median. "
    "TRL has no forward KL on stored rollouts: its trainer and loss are given them, and ask the teacher whose hidden states ours "
    "has kept. It has no SRPO: that stands beside its GRPO.",
    "sampling": "1,600 rollouts of a micro model, 16 a problem, so many at a time.",
}
SECONDS = "seconds, q25, q75: median and quartiles of interleaved rounds; over_trl: ratio within a round, median."


def losses(cases: dict[str, dict], rounds: int = 3) -> pd.DataFrame:
    """`loss_cost` of every case, under its name."""
    tables = {name: loss_cost(**case, rounds=rounds) for name, case in cases.items()}
    return pd.concat(tables, names=["case"]).reset_index("case")


def loss_plot(table: pd.DataFrame) -> plt.Figure:
    """Time and memory over TRL's, by case and contender."""
    use_style()
    trls = table[table["contender"] == "TRL"].set_index("case")["peak_mib"]
    table = table.assign(time=table["over_trl"], memory=table["peak_mib"] / table["case"].map(trls))
    long = table.melt(["case", "contender"], ["time", "memory"], "what", "over TRL's")
    grid = sns.catplot(long, kind="bar", x="case", y="over TRL's", hue="contender", row="what", height=3, aspect=3)
    plt.close(grid.figure)
    return grid.figure


def write(table: pd.DataFrame, folder: Path, name: str, note: str) -> None:
    """Write `name`.csv, and `name`.md with the note and the machine under it."""
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4g")
    text = table.map(lambda value: "" if pd.isna(value) else f"{value:.3g}" if isinstance(value, float) else str(value))
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    page = [text.to_markdown(index=False, disable_numparse=True), f"{note} {SECONDS} {about}. Made by `make bench`.\n"]
    (folder / f"{name}.md").write_text("\n\n".join(page), encoding="utf-8")


def main(parts: list[str]) -> None:
    """Measure `loss`, `stages` and `sampling`, or only some of them."""
    folder = project_root() / "figures" / "bench"
    torch.set_num_threads(1)
    measures = {"loss": partial(losses, CASES), "stages": stages_cost, "sampling": sampling_cost}
    if unknown := set(parts) - set(measures):
        sys.exit(f"there is no part {min(unknown)!r} (a GPU's are `make gpu`): choose among {', '.join(measures)}.")
    (folder / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n", encoding="utf-8")
    for name in parts or measures:
        table = measures[name]()
        write(table, folder, name, NOTES[name])
        if name == "loss":
            save_figure(loss_plot(table), folder, name)
        print(f"figures/bench/{name}.md", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
