"""Is an optimiser step the same however it is cut into micro-batches? Paper B's methods, and the known mistake beside them.

One denominator and one mean of the entropy weights for the whole optimiser batch make it so. Where each micro-batch divides
by its own tokens, as is easily done, the parts of a step count by how few tokens their micro-batch has.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback

from s2d_lib.bench.self_distillation import prepared
from s2d_lib.report.style import BLUE, GREEN, ORANGE, PURPLE, use_style
from s2d_lib.stages.self_distillation import self_distillation_trainer
from s2d_lib.stages.self_distillation_trainer import SelfDistillationTrainer
from s2d_lib.study.load import deep_merge
from s2d_lib.study.stage_params import METHODS

ONE_DENOMINATOR, OF_ITS_OWN = "one denominator", "each micro-batch its own"


class PerMicroBatch(SelfDistillationTrainer):
    """The known mistake: every micro-batch is divided by its own tokens, and the quotients are averaged."""

    def _compute_loss(self, model, inputs):
        of_step = self._denominator
        tokens = (inputs["grpo_mask"] | inputs["sdpo_mask"]).sum().item()
        self._denominator = max(tokens, 1) * self.args.gradient_accumulation_steps
        loss = super()._compute_loss(model, inputs)
        self._denominator = of_step
        return loss


class KeepGradient(TrainerCallback):
    """Keeps the last optimiser step's gradient, as one vector."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Before anything is done to it."""
        self.gradient = torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.requires_grad])


def accumulation_errors(cuts: tuple[int, ...] = (1, 2, 4, 8), overrides: dict | None = None) -> pd.DataFrame:
    """The first optimiser step of every method on the same rollouts, cut into more and more micro-batches.

    Args:
        cuts: Numbers of micro-batches; the batch must be divisible by them.
        overrides: Of the profile.

    Returns:
        One row a method, way of dividing and cut: `method`, `divided by`, `micro_batches`, `loss_error` and
        `gradient_error`, both relative to the step in one micro-batch (the gradient's a ratio of norms, before clipping).
    """
    given, rows = overrides or {}, []
    for method in tqdm(METHODS, desc="accumulation", unit="method", leave=False):
        batch, whole = prepared(Path(), given, method)[0].resolved.stage_params.batch, None
        for way, cls in ((ONE_DENOMINATOR, SelfDistillationTrainer), (OF_ITS_OWN, PerMicroBatch)):
            for cut in cuts:
                own = {"steps": 1, "micro_batch": batch // cut, "max_grad_norm": 1e9}
                loss, gradient = _step(cls, method, deep_merge(given, {"stages": {"self_distillation": own}}))
                whole = whole or (loss, gradient)  # one micro-batch, whose own tokens are the step's
                errors = {
                    "loss_error": abs(loss - whole[0]) / abs(whole[0]),
                    "gradient_error": ((gradient - whole[1]).norm() / whole[1].norm()).item(),
                }
                rows.append({"method": method, "divided by": way, "micro_batches": cut, **errors})
    return pd.DataFrame(rows)


def _step(cls: type[SelfDistillationTrainer], method: str, overrides: dict) -> tuple[float, torch.Tensor]:
    kept = KeepGradient()
    with tempfile.TemporaryDirectory() as folder:
        trainer = self_distillation_trainer(*prepared(Path(folder), overrides, method))
        trainer.__class__ = cls
        trainer.add_callback(kept)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return next(row["loss"] for row in trainer.state.log_history if "loss" in row), kept.gradient


def accumulation_plot(table: pd.DataFrame) -> Figure:
    """Gradient errors over the number of micro-batches, on a log axis; zeros stand at its foot."""
    use_style()
    figure, axes = plt.subplots(figsize=(6.6, 3.6))
    looks = dict(zip(METHODS, zip((BLUE, ORANGE, GREEN, PURPLE), "osD^", strict=True), strict=True))
    for (way, method), part in table.groupby(["divided by", "method"], sort=False):
        color, marker = looks[method]
        line = "-" if way == ONE_DENOMINATOR else "--"
        part = part[part["micro_batches"] > 1]
        error = part["gradient_error"].clip(lower=1e-9)
        axes.plot(part["micro_batches"], error, line, color=color, marker=marker, label=f"{method}, {way}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    cuts = sorted(set(table["micro_batches"]) - {1})
    axes.set_xticks(cuts, cuts)
    axes.minorticks_off()
    axes.set(xlabel="micro-batches of the optimiser step", ylabel="gradient error (relative)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle("The same step, cut into micro-batches", fontweight="bold", x=0.01, ha="left")
    plt.close(figure)
    return figure
