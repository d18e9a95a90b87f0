"""Timing that survives a busy machine: contenders in turn, round after round, and ratios within each round."""

import contextlib
import ctypes
import gc
import multiprocessing
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

SHORTEST = 0.2  # seconds: what is faster is repeated within a round until it takes as long
LONG = 1.0  # seconds: where every step takes longer, first calls count as a round


def interleaved(steps: dict[str, Callable[[], object]], rounds: int, about: str) -> pd.DataFrame:
    """Time every step once a round, each round starting with another one.

    A first call of each is not counted, except where all of them are long: then what it does once is lost in the rest.

    Returns:
        One row a round, one column a step: seconds of one call.
    """
    first = {name: _seconds(step, 1) for name, step in tqdm(steps.items(), desc=f"{about}: first calls", leave=False)}
    repeats = {name: max(1, round(SHORTEST / value)) for name, value in first.items()}
    names, rows = list(steps), []
    if min(first.values()) > LONG:
        rows.append(first)
    for number in tqdm(range(len(rows), rounds), desc=about, unit="round", leave=False):
        order = names[number % len(names) :] + names[: number % len(names)]
        rows.append({name: _seconds(steps[name], repeats[name]) for name in order})
    return pd.DataFrame(rows)[names]


def _seconds(step: Callable[[], object], repeats: int) -> float:
    gc.collect()
    _wait()
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    _wait()
    return (time.perf_counter() - began) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(seconds: pd.DataFrame, over: str) -> pd.DataFrame:
    """Each column over column `over`, within rounds: median, smallest, largest; one row a column."""
    within = seconds.div(seconds[over], axis=0)
    return pd.DataFrame({"ratio": within.median(), "smallest": within.min(), "largest": within.max()})


def peak_of(make: Callable[[], Callable[[], object]], device: str) -> float:
    """Highest memory (MiB) that a step, made by `make`, holds at any time beyond what is held before it.

    On a CPU it is the resident memory of a forked process, which first gives back what was freed before and could be
    used again unseen. Linux only; elsewhere NaN.
    """
    if device == "cuda":
        step = make()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_report_peak, args=(make, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("the process that measured peak memory died: is there enough memory?") from None
    finally:
        child.join()


def _report_peak(make: Callable[[], Callable[[], object]], sender) -> None:
    step = make()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the highest so far
    before = _status("VmRSS")
    step()
    sender.send((_status("VmHWM") - before) / 2**10)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":")[1].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        cpu = f"{names[0]}, {len(names)} cores" if names else cpu
    return {
        "cpu": cpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
