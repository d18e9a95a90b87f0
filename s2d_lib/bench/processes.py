"""Does training in several processes take one process's steps? Losses of ten of them, by stage, drawn over each other.

Every training is a worker's (s2d_lib.worker), from the released micro models, on the same global batches and with rollouts
that do not depend on who samples them: what differs is the order in which sums are made.
"""

import importlib.util
import os
import socket
import tempfile
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from accelerate.state import AcceleratorState
from matplotlib.figure import Figure
from safetensors.torch import load_file
from tqdm.auto import tqdm

from s2d_lib import worker
from s2d_lib.bench.seeded_rollouts import seed_rollouts
from s2d_lib.bench.shared_on_cpus import share_on_cpus
from s2d_lib.bench.stages import NEVER, ROLLOUTS, released
from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.report.style import BLACK, BLUE, GREEN, GREY, SKY, VERMILLION, entitle, use_style
from s2d_lib.runs import PlacedRun, Run, write_json
from s2d_lib.sampling import read_rollouts, sample, write_rollouts
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.live import WORKER
from s2d_lib.stages.processes import errors_in
from s2d_lib.study import Resolved, resolve

SEED = 0
WAYS = ONE, TWO, SHARED, ZERO3 = "one process", "two processes", "two processes, FSDP2", "two processes, ZeRO-3"
FILES = {SHARED: "fsdp2.yaml", ZERO3: "zero3.yaml"}
LOSS, WEIGHTS = 1e-5, 1e-4
"""How far losses may lie apart (or 1e-4 of them, if that is more), and trained weights, as in the tests."""
ROUNDING = 2.0**-24
"""Of a float32, relative."""
FOOT = 1e-10
LOOKS = {
    ONE: {"color": SKY, "linewidth": 6, "alpha": 0.55, "solid_capstyle": "round"},
    TWO: {"color": BLUE, "linewidth": 1.2, "marker": "o", "markersize": 4.5},
    SHARED: {"color": VERMILLION, "linewidth": 1.2, "linestyle": "--", "marker": "x", "markersize": 5},
    ZERO3: {"color": GREEN, "linewidth": 1.2, "linestyle": ":", "marker": "+", "markersize": 6},
}


@dataclass(frozen=True)
class Stage:
    """What is trained.

    Attributes:
        profile: Of the micro family.
        checkpoint: Of the study, for its hyperparameters; it starts from the released model, whatever its parent.
        options: Of its stage.
        by_zero3: Whether processes can share its model by ZeRO-3.
    """

    profile: str
    checkpoint: str
    options: dict
    by_zero3: bool = True

    def resolved(self, processes: int, steps: int) -> Resolved:
        """The run's parameters: `steps` steps of 16 sequences, 8 at a time."""
        name = resolve(self.profile, self.checkpoint, SEED).stage
        own = {"steps": steps, "warmup_steps": 2, "batch": 16, "micro_batch": 8, "save_steps": NEVER} | self.options
        alone = {"validation": None, "problems": {"validation": None}}
        overrides = {"stages": {name: own}, "hardware": {"processes": processes}} | alone
        return resolve(self.profile, self.checkpoint, SEED, overrides)


STAGES = {
    "GRPO": Stage("micro", "student.grpo", {"group_size": 4}),
    # A sixteenth of the study's batches wants smaller rates.
    "forward KL": Stage("micro", "student.warm.raw_teacher", {"teacher_targets": "recompute", "learning_rate": 5e-4}),
    "OPD": Stage("micro", "student.bridge.raw_teacher", {"learning_rate": 5e-4}),
    "teacher-sample SFT": Stage("micro", "student.teacher_sample_sft.rl_teacher", {"learning_rate": 5e-4}),
    "SRPO": Stage("micro-table-lookup", "student.srpo", {"group_size": 4}, by_zero3=False),
}


def installed_ways() -> tuple[str, ...]:
    """WAYS, without ZeRO-3 where DeepSpeed is not installed."""
    return tuple(way for way in WAYS if way != ZERO3 or importlib.util.find_spec("deepspeed"))


def process_steps(
    steps: int = 10, stages: tuple[str, ...] = tuple(STAGES), ways: tuple[str, ...] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train stages in one process, in two, and in two that share the model by FSDP2 and by ZeRO-3.

    Args:
        steps: Optimiser steps of each training.
        stages: Keys of STAGES.
        ways: Of WAYS, one process first; by default `installed_ways()`.

    Returns:
        A row a step: `stage`, `processes`, `step`, `loss` and `difference` (absolute, to one process's). A row a stage and
        way of training it in two processes: `stage`, `processes`, `first_loss` and `last_loss` (one process's),
        `loss_difference` and `weight_difference` (largest), `weights_moved` (largest change of a weight by training in one
        process), and whether both are `within` LOSS and WEIGHTS.

    Raises:
        StudyError: The processes failed; with the last that they said.
    """
    points, rows, ways = [], [], ways or installed_ways()
    found = {way: _train(way, steps, stages) for way in tqdm(ways, desc="processes", unit="way", leave=False)}
    for name in stages:
        start = _released(STAGES[name].resolved(1, steps)).model.state_dict()
        alone, trained = found[ONE][name]
        for way in (way for way in ways if name in found[way]):
            losses, weights = found[way][name]
            apart = (losses["loss"] - alone["loss"]).abs()
            points.append(losses.assign(stage=name, processes=way, difference=apart))
            row = {
                "stage": name,
                "processes": way,
                "first_loss": alone["loss"].iloc[0],
                "last_loss": alone["loss"].iloc[-1],
                "loss_difference": apart.max(),
                "weight_difference": _apart(weights, trained),
                "weights_moved": _apart(trained, start),
            }
            inside = (apart <= allowed(alone["loss"])).all() and row["weight_difference"] <= WEIGHTS
            rows += [row | {"within": bool(inside)}] if way != ONE else []
    columns = ["stage", "processes", "step", "loss", "difference"]
    return pd.concat(points, ignore_index=True)[columns], pd.DataFrame(rows)


def allowed(loss: pd.Series) -> pd.Series:
    """How far losses may lie from one process's."""
    return (1e-4 * loss.abs()).clip(lower=LOSS)


def _apart(weights: dict, others: dict) -> float:
    return max((weights[name] - others[name]).abs().max().item() for name in weights)


def _train(way: str, steps: int, stages: tuple[str, ...]) -> dict[str, tuple[pd.DataFrame, dict]]:
    """Losses by step and trained weights of every stage that can be trained in this way, all in the same processes."""
    found, processes = {}, 1 if way == ONE else 2
    with tempfile.TemporaryDirectory() as place:
        for name in stages:
            if way == ZERO3 and not STAGES[name].by_zero3:
                continue
            run = PlacedRun(STAGES[name].resolved(processes, steps), place=Path(place) / name)
            run.place.mkdir(parents=True)
            write_json(run.path("resolved.json"), {"hash": run.resolved.hash, **run.resolved.model_dump(mode="json")})
            if "rollouts" in run.resolved.parents:
                _sample_teacher(run)
            found[name] = run
        _start(way, processes, [run.place for run in found.values()])
        return {name: (_losses(run), load_file(run.path("model") / "model.safetensors")) for name, run in found.items()}


def _losses(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.path("metrics.csv"))[["step", "loss"]]


def _sample_teacher(run: Run) -> None:
    """As many rollouts of the released teacher as the training takes, a batch a step."""
    params, problems = run.resolved.stage_params, load_problems(run.resolved.problems).pool
    asked = problems[: params.batch * params.steps]
    rollouts = sample(released("teacher"), asked, samples=1, sampling=run.resolved.sampling, seed=SEED, show=False)
    write_rollouts(run.path(ROLLOUTS), rollouts, [0.0] * len(rollouts), {})


def _inputs(run: Run) -> Inputs:
    """In a worker: the released models, and the teacher's rollouts where there are any."""
    teacher = released("teacher") if "teacher" in run.resolved.parents else None
    rollouts = read_rollouts(run.path(ROLLOUTS))[0] if "rollouts" in run.resolved.parents else None
    return Inputs(_released(run.resolved), load_problems(run.resolved.problems), teacher, rollouts)


def _released(resolved: Resolved) -> Policy:
    return load_policy(resolved.model, resolved.hardware)


def processes_plot(points: pd.DataFrame) -> Figure:
    """Above, the losses over each other; below, how far they lie from one process's, on a log axis with zeros at its foot."""
    use_style()
    stages = list(dict.fromkeys(points["stage"]))
    figure, grid = plt.subplots(2, len(stages), figsize=(2.4 * len(stages), 4.6), sharex=True, squeeze=False)
    for stage, (upper, lower) in zip(stages, grid.T, strict=True):
        part = points[points["stage"] == stage]
        for way, look in LOOKS.items():
            own = part[part["processes"] == way]
            upper.plot(own["step"], own["loss"], label=way, **look)
            if way != ONE:
                lower.plot(own["step"], own["difference"].clip(lower=FOOT), **look)
        alone = part[part["processes"] == ONE]
        lower.plot(alone["step"], allowed(alone["loss"]), ":", color=BLACK, linewidth=1.2, label="allowed")
        rounding = (ROUNDING * alone["loss"].abs()).clip(lower=FOOT)
        lower.fill_between(
            alone["step"], FOOT, rounding, color=GREY, alpha=0.25, linewidth=0, label="a float32's rounding"
        )
        upper.set_title(stage)
        lower.set(yscale="log", ylim=(FOOT, 1e-2), xlabel="optimiser step")
        lower.set_xticks(range(0, int(alone["step"].max()) + 1, 4))
    for axes in grid[1, 1:]:
        axes.tick_params(labelleft=False)
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("difference to one process")
    shown = [axes.get_legend_handles_labels() for axes in grid[:, 0]]
    handles, labels = ([*above, *below] for above, below in zip(*shown, strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    entitle(figure, "Training in two processes takes one process's steps")
    plt.close(figure)
    return figure


def _start(way: str, processes: int, folders: list[Path]) -> None:
    """Train the runs in `folders` one after the other, in processes forked from this one, which has imported all they need."""
    world = {WORKER: "1"}
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            world |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free.getsockname()[1]),
                "WORLD_SIZE": str(processes),
            }
    fork = get_context("fork")
    ranks = [fork.Process(target=_main, args=(way, rank, world, folders), daemon=True) for rank in range(processes)]
    for process in ranks:
        process.start()
    while alive := [process for process in ranks if process.is_alive()]:
        wait([process.sentinel for process in alive])
        if any(process.exitcode for process in ranks):  # the others would wait for it
            for process in alive:
                process.kill()
                process.join()
    if any(process.exitcode for process in ranks):
        said = [error["message"] for folder in folders for error in errors_in(folder)]
        raise StudyError(f"training in {way} failed: {said[0] if said else 'a process died without a word'}")


def _main(way: str, rank: int, world: dict[str, str], folders: list[Path]) -> None:
    """One of the processes."""
    os.environ.update(world | {"RANK": str(rank)} | ({} if way == ONE else {"LOCAL_RANK": str(rank)}))
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent's, which may have trained alone
    torch.set_num_threads(1)
    seed_rollouts()
    if way in FILES:
        share_on_cpus(FILES[way])
    for folder in folders:
        worker.main(folder, _inputs)
