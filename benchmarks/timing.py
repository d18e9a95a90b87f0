"""Timing that survives a busy machine: contenders in turn, round after round, and ratios within each round."""

import ctypes
import multiprocessing
import os
import platform
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch.utils.benchmark import Timer
from tqdm.auto import tqdm

FORGET = Path("/proc/self/clear_refs")  # Linux


def seconds_of(step: Callable[[], object]) -> float:
    """Seconds of one call on one thread: the median over 0.2 seconds of calls, at least one, after one that is not counted."""
    return Timer("step()", globals={"step": step}).blocked_autorange(min_run_time=0.2).median


def compared(measures: dict[str, Callable[[], float]], over: str, rounds: int, about: str) -> pd.DataFrame:
    """Ask every contender's measure for its seconds once a round, each round starting with another one.

    Returns:
        One row a contender: `contender`; median `seconds` of the rounds and quartiles `q25`, `q75`; `over_<over>`, the median
        over the rounds of its seconds over those of contender `over` in the same round.
    """
    names, rows = list(measures), []
    for number in tqdm(range(rounds), desc=about, unit="round", leave=False):
        first = number % len(names)
        rows.append({name: measures[name]() for name in names[first:] + names[:first]})
    seconds = pd.DataFrame(rows)[names]
    table = seconds.quantile([0.5, 0.25, 0.75]).T.set_axis(["seconds", "q25", "q75"], axis=1)
    table[f"over_{over.lower()}"] = seconds.div(seconds[over], axis=0).median()
    return table.rename_axis("contender").reset_index()


def peak_of(step: Callable[[], object], device: str) -> float:
    """Highest memory (MiB) that a call holds at any time beyond what is held before it, after one call for what is kept.

    On a CPU it is the resident memory of a forked process, which first gives back what was freed before and could be used
    again unseen. Linux only; elsewhere NaN.
    """
    if device == "cuda":
        step()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not FORGET.exists():
        return float("nan")
    fork = multiprocessing.get_context("fork")  # which inherits the step with its tensors
    answer = fork.SimpleQueue()
    child = fork.Process(target=_report_peak, args=(step, answer))
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError("the process that measured peak memory died: is there enough memory?")
    return answer.get()


def _report_peak(step: Callable[[], object], answer) -> None:
    step()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda kept: None)(0)  # glibc's
    FORGET.write_text("5", encoding="utf-8")  # the highest so far: it begins anew at what is held now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8")) if info.is_file() else []
    cpu = f"{[*models, platform.machine()][0]}, {os.cpu_count()} cores"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"cpu": cpu, "threads": "1", "gpu": gpu, "torch": torch.__version__}
