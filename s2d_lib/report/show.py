"""What stage notebooks show: curves, samples, rollouts, accuracies. Small plots for reading, not for papers."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.report.style import PALETTE, use_style
from s2d_lib.results.bundle import read_evaluation

AXIS_LABELS = {
    "reward": "mean reward",
    "loss": "loss, nats per token",
    "entropy": "entropy, nats per token",
    "frac_reward_zero_std": "groups without spread, share",
    "completions/mean_length": "mean length, tokens",
    "argmax_agreement": "argmax agreement, share",
    "mean_token_accuracy": "token accuracy, share",
    "accuracy": "correct, share",
    "routed/sdpo": "tokens routed to SDPO, share",
    "self_teacher/entropy": "self-teacher's entropy, nats",
    "self_teacher/kl": "KL to the self-teacher, nats",
    "self_teacher/mean_weight": "mean weight",
    "seconds/step": "seconds per step",
}

DIVERGENCES = {"forward_kl": "KL(teacher || student), nats", "reverse_kl": "KL(student || teacher), nats"}


def training_curves(metrics: pd.DataFrame | None, names: list[str]) -> Figure | None:
    """One small panel a metric, against the optimiser step; a running mean over the raw values."""
    if metrics is None:
        return None
    use_style()
    names = [name for name in names if name in metrics]
    figure, panels = plt.subplots(1, len(names), figsize=(3.1 * len(names), 2.5), squeeze=False)
    window = max(1, len(metrics) // 20)
    for axes, name, color in zip(panels[0], names, PALETTE, strict=False):
        axes.plot(metrics["step"], metrics[name], color=color, alpha=0.3, linewidth=1)
        axes.plot(metrics["step"], metrics[name].rolling(window, min_periods=1).mean(), color=color)
        axes.set(xlabel="optimiser step", ylabel=AXIS_LABELS.get(name, name))
    plt.close(figure)
    return figure


def validation_curves(run) -> Figure | None:
    """Accuracy on the validation problems while training and, in a dense stage, both divergences on the states of both
    models. One run, so there is no interval; without validation there is one line that says so."""
    if not run.path("validation.csv").is_file():
        print("Nothing was validated while training: the profile has no `validation`, or this run trains nothing.")
        return None
    use_style()
    rows = pd.read_csv(run.path("validation.csv"))
    panels = {"accuracy": {"accuracy": "accuracy"}}
    for kind, label in DIVERGENCES.items():
        columns = {f"{kind}/{states}_states": f"{states}'s states" for states in ("teacher", "student")}
        panels[label] = {column: name for column, name in columns.items() if column in rows}
    panels = {label: columns for label, columns in panels.items() if columns}
    figure, grid = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 2.5), squeeze=False)
    for axes, (label, columns) in zip(grid[0], panels.items(), strict=True):
        for column, name in columns.items():
            axes.plot(rows["step"], rows[column], marker="o", markersize=3, label=name)
        axes.set(xlabel="optimiser step", ylabel=label)
        if len(columns) > 1:
            axes.legend()
    plt.close(figure)
    return figure


def sample_table(run, count: int = 3):
    """A few completions of each evaluation set, graded, whole."""
    samples = pd.read_csv(run.path("samples.csv"), keep_default_na=False)
    shown = samples.groupby("set", sort=False).head(count)
    return (
        shown[["set", "prompt", "completion", "answer", "correct"]]
        .style.hide(axis="index")
        .set_properties(**{"text-align": "left", "white-space": "pre-wrap", "vertical-align": "top"})
    )


def rollout_table(rollouts, count: int = 4) -> pd.DataFrame:
    """The first few teacher rollouts."""
    rows = [{"problem": r.problem, "sample": r.sample, "tokens": len(r.ids), "text": r.text} for r in rollouts[:count]]
    return pd.DataFrame(rows)


def rollout_lengths(rollouts) -> Figure:
    """How long the teacher's answers are, and how many hit the length limit."""
    use_style()
    figure, axes = plt.subplots(figsize=(5, 2.4))
    lengths = np.array([len(r.ids) for r in rollouts])
    cut = np.array([not r.finished for r in rollouts])
    bins = np.linspace(lengths.min() - 0.5, lengths.max() + 0.5, min(40, np.ptp(lengths) + 2))
    axes.hist([lengths[~cut], lengths[cut]], bins=bins, stacked=True, label=["ended by itself", "cut off"])
    axes.set(
        xlabel="length, tokens", ylabel="rollouts", title=f"{len(rollouts)} teacher rollouts, {cut.mean():.1%} cut off"
    )
    axes.legend()
    plt.close(figure)
    return figure


def accuracy_histogram(run) -> Figure:
    """Per evaluation set: how many problems are solved in which share of their samples."""
    results = _evaluation(run)
    use_style()
    names = list(results["set"].unique())
    figure, panels = plt.subplots(1, len(names), figsize=(3.4 * len(names), 2.5), squeeze=False)
    for axes, name, color in zip(panels[0], names, PALETTE, strict=False):
        part = results[results["set"] == name]
        axes.hist(part["accuracy"], bins=np.linspace(0, 1, 18), color=color)
        axes.set(xlabel="share of correct samples", ylabel="problems", title=name)
    plt.close(figure)
    return figure


def accuracy_by_level(run) -> pd.DataFrame:
    """Mean accuracy by the problems' level (chain length, or the source's own levels)."""
    results = _evaluation(run)
    table = results.groupby(["set", "level"], sort=False)["accuracy"].agg(["mean", "size"])
    return table.rename(columns={"mean": "avg", "size": "problems"}).round(3).reset_index()


def _evaluation(run) -> pd.DataFrame:
    results = read_evaluation(run.path("evaluation.csv"))
    results["accuracy"] = results["correct"].map(lambda bits: bits.count("1") / len(bits))
    return results


def loss_curves(records: dict[str, dict]) -> Figure:
    """Pretraining loss of the base models, from their records."""
    use_style()
    figure, axes = plt.subplots(figsize=(6, 2.6))
    for name, record in records.items():
        axes.plot([row["step"] for row in record["loss"]], [row["loss"] for row in record["loss"]], label=name)
    axes.set(xlabel="optimiser step", ylabel="loss, nats per token", title="Pretraining of the base models")
    axes.legend()
    plt.close(figure)
    return figure
