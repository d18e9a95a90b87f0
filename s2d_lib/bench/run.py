"""`make bench`: measure, and write tables and plots to figures/bench/."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from s2d_lib.bench import report
from s2d_lib.bench.loss import loss_cost
from s2d_lib.bench.measure import machine
from s2d_lib.bench.study_time import study_time, study_time_plot
from s2d_lib.errors import StudyError
from s2d_lib.report.style import save_figure, use_style
from s2d_lib.results.bundle import read_bundle
from s2d_lib.runs import write_json
from s2d_lib.study import project_root


def run_bench(only: list[str] | None = None) -> list[str]:
    """Run the parts of the benchmark one after the other, each on one thread.

    Args:
        only: Names of PARTS; all by default.

    Returns:
        One line a part: what was written, or why it was not run.

    Raises:
        StudyError: A peer that is compared with is not installed, or an unknown part.
    """
    if unknown := sorted(set(only or ()) - set(PARTS)):
        raise StudyError(f"the benchmark has no part {unknown[0]!r}: choose among {', '.join(PARTS)}.")
    folder = project_root() / "figures" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    use_style()
    write_json(folder / "machine.json", machine())
    return [PARTS[name](folder) for name in PARTS if not only or name in only]


def _loss(folder: Path, device: str = "cpu") -> str:
    try:
        import liger_kernel  # noqa: F401
    except ImportError:
        raise StudyError(
            "the benchmark compares with Liger: `make bench` installs it, or pip install liger-kernel."
        ) from None
    table = loss_cost(device)
    name = "loss" if device == "cpu" else "loss_gpu"
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    note = (
        "One forward and backward pass; seconds are medians over interleaved rounds, over_trl the ratio to TRL within a "
        "round (median, smallest, largest), peak_mib is beyond the inputs, errors are relative and against fp64 on the same "
        f"inputs, floor is the time of the same matrix products, each as one call of torch, over the seconds: no bound, a loss "
        f"whose pieces stay in the cache can be faster. {about}. Made by `make bench`."
    )
    report.write_table(table, folder, name, note)
    save_figure(report.loss_plot(table), folder, name)
    return f"figures/bench/{name}.md"


def _loss_gpu(folder: Path) -> str:
    if not torch.cuda.is_available():
        return (
            "loss_gpu: torch sees no GPU here, so this part was not run; the same command runs it where there is one."
        )
    return _loss(folder, "cuda")


def _stages(folder: Path) -> str:
    from s2d_lib.bench.stages import stages_cost

    table = stages_cost(rounds=3)
    report.write_table(table, folder, "stages", STAGES_NOTE)
    save_figure(report.stages_plot(table), folder, "stages")
    return "figures/bench/stages.md"


def _methods(folder: Path) -> str:
    from s2d_lib.bench.self_distillation import methods_cost

    report.write_table(methods_cost(), folder, "methods", METHODS_NOTE)
    return "figures/bench/methods.md"


def _accumulation(folder: Path) -> str:
    from s2d_lib.bench.accumulation import accumulation_errors, accumulation_plot

    table = accumulation_errors()
    report.write_table(table, folder, "accumulation", ACCUMULATION_NOTE)
    save_figure(accumulation_plot(table), folder, "accumulation")
    return "figures/bench/accumulation.md"


def _equality(folder: Path) -> str:
    from s2d_lib.bench.equality import equality_errors

    report.write_table(equality_errors(), folder, "equality", EQUALITY_NOTE)
    return "figures/bench/equality.md"


def _processes(folder: Path) -> str:
    from s2d_lib.bench.processes import process_steps, processes_plot

    points, table = process_steps()
    points.to_csv(folder / "processes_steps.csv", index=False, float_format="%.4g")
    report.write_table(table, folder, "processes", PROCESSES_NOTE)
    save_figure(processes_plot(points), folder, "processes")
    return "figures/bench/processes.md"


def _sampling(folder: Path) -> str:
    from s2d_lib.bench.sampling import Grid, sampling_cost, sampling_plot

    timings, fits = sampling_cost(grid=Grid(rounds=2))
    laws = [fit.table().assign(policy=name, r2=fit.r2, r2_held_out=fit.r2_held_out) for name, fit in fits.items()]
    timings.to_csv(folder / "sampling_points.csv", index=False, float_format="%.4g")
    report.write_table(pd.concat(laws), folder, "sampling", SAMPLING_NOTE)
    save_figure(sampling_plot(timings, fits), folder, "sampling")
    return "figures/bench/sampling.md"


def _study(folder: Path) -> str:
    table = study_time(read_bundle(project_root() / "figures" / "micro-full" / "results"))
    report.write_table(table.reset_index(), folder, "study", STUDY_NOTE)
    save_figure(study_time_plot(table), folder, "study")
    return "figures/bench/study.md"


STAGES_NOTE = (
    "Micro family, batches of 256, the same weights, prompts, seeds and first rollouts on both sides, rounds in turn. "
    "seconds_step is the median with its quartiles; over_trl the ratio of medians within a round (median, smallest, "
    "largest). TRL has no mode for stored rollouts: for forward KL its trainer and its loss are given them."
)
METHODS_NOTE = (
    "Paper B's methods on the micro benchmark of table lookups, batches of 128 in groups of 8, the same weights, prompts, "
    "seed and first rollouts, in turn. seconds_step is the median with its quartiles; over_trl the ratio to TRL's GRPO within "
    "a round (median, smallest, largest). SDPO compares whole vocabularies on both sides. How long TRL's SDPO samples is not "
    "measured apart."
)
ACCUMULATION_NOTE = (
    "The first optimiser step of paper B's methods on the micro benchmark of table lookups, 128 rollouts in groups of 8, the "
    "same rollouts throughout; errors are relative to the step in one micro-batch, in float32. `each micro-batch its own` "
    "divides every micro-batch by its own tokens and averages, which is the known mistake. Advantage Mix's loss is a small "
    "difference of large sums, so that its relative error is larger at the same rounding."
)
EQUALITY_NOTE = (
    "The first optimiser step of paper B's trainer on the micro benchmark of table lookups, 128 rollouts in groups of 8, "
    "float32, beside TRL's trainers on the same rollouts, and in two processes (gloo) beside one. Errors are relative, of the "
    "loss and of the gradient's norm. TRL's SDPO divides by all rollouts, those without a self-teacher included; `at this "
    "denominator` weighs its rollouts by their share of the routed tokens."
)
PROCESSES_NOTE = (
    "Ten optimiser steps of the micro family on batches of 16, in one process and in two (gloo, CPU), on the same rollouts as "
    "long as the policies are the same, float32; every step is in processes_steps.csv. loss_difference is the largest of a "
    "step's loss to one process's, weight_difference of a trained weight; weights_moved is how far training itself moved one. "
    "within: every loss within 1e-5 (or 1e-4 of it), every weight within 1e-4. Under FSDP2 and ZeRO-3 the processes share the "
    "model and, where there is one, the teacher; self-distillation knows FSDP2 alone. Made by `make bench`."
)
SAMPLING_NOTE = (
    "seconds = batches (s + a T) + rollouts (p + b T + c T^2), T tokens a completion; fitted to two thirds of the points, "
    "r2_held_out is over the others (sampling_points.csv)."
)
STUDY_NOTE = (
    "Seconds of a run by phase, means over all runs of a stage and role, from the records of the committed study."
)

PARTS: dict[str, Callable[[Path], str]] = {
    "loss": _loss,
    "loss_gpu": _loss_gpu,
    "stages": _stages,
    "methods": _methods,
    "accumulation": _accumulation,
    "equality": _equality,
    "processes": _processes,
    "sampling": _sampling,
    "study": _study,
}
