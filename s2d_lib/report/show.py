"""What stage notebooks show: curves, samples, rollouts, accuracies. For reading along, not for papers."""

import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.report.figures import Line, lines
from s2d_lib.report.looks import load_report
from s2d_lib.report.style import PALETTE
from s2d_lib.results.bundle import read_evaluation

DIVERGENCES = {"forward_kl": "KL(teacher || student), nats", "reverse_kl": "KL(student || teacher), nats"}
SMALL = {"size": (3.1, 2.3), "band": True, "ncols": 4}


def training_curves(metrics: pd.DataFrame | None, names: list[str]) -> Figure | None:
    """One small panel a metric, against the optimiser step: a running mean, and the range that it is over."""
    if metrics is None:
        return None
    labels, panels = load_report().metrics, {}
    for name, color in zip((name for name in names if name in metrics), PALETTE, strict=False):
        window = metrics[name].rolling(max(1, len(metrics) // 20), min_periods=1)
        panels[labels.get(name, name)] = [Line("", metrics["step"], window.mean(), window.min(), window.max(), color)]
    return lines(panels, "", "optimiser step", **SMALL)


def validation_curves(run) -> Figure | None:
    """Accuracy on the validation problems while training and, in a dense stage, both divergences on the states of both
    models. One run, so there is no interval; without validation there is one line that says so."""
    if not run.path("validation.csv").is_file():
        print("Nothing was validated while training: the profile has no `validation`, or this run trains nothing.")
        return None
    rows, panels = pd.read_csv(run.path("validation.csv")), {}
    asked = {"accuracy": {"": "accuracy"}}
    for kind, label in DIVERGENCES.items():
        asked[label] = {f"{who}'s states": f"{kind}/{who}_states" for who in ("teacher", "student")}
    for panel, own in asked.items():
        if set(own.values()) <= set(rows):
            panels[panel] = _plain_lines({label: (rows["step"], rows[name]) for label, name in own.items()}, "o")
    return lines(panels, "", "optimiser step", **SMALL)


def loss_curves(records: dict[str, dict]) -> Figure:
    """Pretraining loss of the base models, from their records."""
    steps_and_losses = {  # a model of a few steps has none
        name: pd.DataFrame(record["loss"], columns=["step", "loss"], dtype=float) for name, record in records.items()
    }
    drawn = _plain_lines({name: (table["step"], table["loss"]) for name, table in steps_and_losses.items()})
    return lines({load_report().metrics["loss"]: drawn}, "", "optimiser step", band=True, size=(6, 2.6))


def _plain_lines(curves: dict[str, tuple], marker: str = "") -> list[Line]:
    """Curves (label -> steps and values) without a range."""
    return [
        Line(label, x, y, y, y, color, marker) for (label, (x, y)), color in zip(curves.items(), PALETTE, strict=False)
    ]


def sample_table(run, count: int = 3):
    """A few completions of each evaluation set, graded, whole."""
    samples = pd.read_csv(run.path("samples.csv"), keep_default_na=False)
    shown = samples.groupby("set", sort=False).head(count)[["set", "prompt", "completion", "answer", "correct"]]
    look = {"text-align": "left", "white-space": "pre-wrap", "vertical-align": "top"}
    return shown.style.hide(axis="index").set_properties(**look)


def rollout_table(rollouts, count: int = 4) -> pd.DataFrame:
    """The first few teacher rollouts."""
    rows = [{"problem": r.problem, "sample": r.sample, "tokens": len(r.ids), "text": r.text} for r in rollouts[:count]]
    return pd.DataFrame(rows)


def accuracy_by_level(run) -> pd.DataFrame:
    """Mean accuracy by the problems' level (chain length, or the source's own levels)."""
    table = accuracies(run).groupby(["set", "level"], sort=False)["accuracy"].agg(["mean", "size"])
    return table.rename(columns={"mean": "avg", "size": "problems"}).round(3).reset_index()


def accuracies(run) -> pd.DataFrame:
    """A run's evaluation with the column `accuracy`, the share of a problem's samples that are right."""
    results = read_evaluation(run.path("evaluation.csv"))
    return results.assign(accuracy=results["correct"].map(lambda bits: bits.count("1") / len(bits)))
