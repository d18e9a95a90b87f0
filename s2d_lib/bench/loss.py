"""Time, memory and error of the full-vocabulary loss beside plain torch, TRL and Liger, on the same batches."""

import dataclasses
import gc
from functools import partial

import pandas as pd
import torch

from s2d_lib.bench import contenders
from s2d_lib.bench.cases import CPU_CASES, GPU_CASES, LARGE, LARGE_BF16, MEDIUM, MEDIUM_BF16, SMALL, Case, make_batch
from s2d_lib.bench.contenders import Step
from s2d_lib.bench.measure import interleaved, peak_of, ratios
from s2d_lib.losses import divergence

OURS, NAIVE, TRL, TUNED, LIGER = "s2d", "naive", "TRL", "TRL, best tile", "Liger, best chunk"

# Tile and chunk sizes tried for the peers: each gets its fastest on each case, s2d its default
TRL_TILES = [(256, 4096), (512, 2048)]
TRL_TILES_GPU = [(1024, 32768), (4096, 8192), (4096, 65536)]
LIGER_CHUNKS = [256, 1024]
LIGER_BUDGETS = [1, 4, 16]

ROUNDS = {SMALL: 5, MEDIUM: 3, LARGE: 3}  # elsewhere 2: minutes count
ALL_CONTENDERS = (SMALL, MEDIUM, MEDIUM_BF16)  # elsewhere on a CPU only s2d, TRL as it is and Liger, to save minutes
MEMORY = (MEDIUM, MEDIUM_BF16, LARGE_BF16)
ERRORS = (SMALL, MEDIUM, MEDIUM_BF16)
ERROR_TOKENS = 64  # the fp64 reference keeps whole logits

Way = partial  # a contender with its options, still to be given case and batch


def candidates(case: Case, device: str) -> dict[str, dict[str, Way]]:
    """Who takes part: for each name the settings to choose the fastest from."""
    found = {OURS: {"": partial(contenders.s2d)}, TRL: {"": partial(contenders.trl)}}
    if device == "cuda" or case in ALL_CONTENDERS:
        tiles = TRL_TILES_GPU if device == "cuda" else TRL_TILES
        found[NAIVE] = {"": partial(contenders.naive)}
        found[TUNED] = {f"{t} x {v}": partial(contenders.trl, tile=(t, v)) for t, v in tiles}
    if device == "cuda":
        found[LIGER] = {f"budget {b}": partial(contenders.liger_fused, budget=b) for b in LIGER_BUDGETS}
    elif case.head_gradient:
        sizes = [size for size in LIGER_CHUNKS if size <= case.tokens] if case in ALL_CONTENDERS else [case.tokens]
        found[LIGER] = {str(size): partial(contenders.liger_chunked, chunk_size=size) for size in sizes}
        if case == MEDIUM:
            found[LIGER]["512, compiled"] = partial(contenders.liger_chunked, chunk_size=512, compiled=True)
    return found


def loss_cost(device: str = "cpu") -> pd.DataFrame:
    """Every contender on every case of the device.

    Returns:
        One row a case and contender: `setting` (tile or chunk it ran with), `seconds` (median over rounds), `over_trl`
        with `smallest` and `largest` (ratio to TRL within a round), `peak_mib` (beyond the inputs), `loss_error` and
        `gradient_error` (relative, against fp64 on the same inputs), `gflops` (least work of the case over the
        seconds), `floor` (the seconds of those products, each as one call of torch, over the seconds; above 1 where pieces
        that stay in the cache are faster).
    """
    tables = [_case_cost(case, device) for case in (GPU_CASES if device == "cuda" else CPU_CASES)]
    return pd.concat(tables, ignore_index=True)


def _case_cost(case: Case, device: str) -> pd.DataFrame:
    gc.collect()
    ways, batch = candidates(case, device), make_batch(case, device)
    chosen: dict[str, tuple[str, Step]] = {}
    for name, settings in ways.items():
        made = {label: way(case, batch) for label, way in settings.items()}
        if device == "cuda":
            made = {label: step for label, step in made.items() if _fits(step)}
        if made:
            best = interleaved(made, 1, f"{case.name}, {name}").loc[0].idxmin() if len(made) > 1 else next(iter(made))
            chosen[name] = (best, made[best])
    seconds = interleaved({name: step for name, (_, step) in chosen.items()}, ROUNDS.get(case, 2), case.name)
    peaks = {}
    if case in MEMORY or device == "cuda":
        for name, (label, _) in chosen.items():
            peaks[name] = peak_of(partial(_fresh, ways[name][label], case, device), device)
    floor = _least_seconds(case, device)
    errors = _errors(case, device, {name: ways[name][label] for name, (label, _) in chosen.items()})
    over = ratios(seconds, TRL)
    rows = [
        {
            "case": case.name,
            "contender": name,
            "setting": label,
            "seconds": seconds[name].median(),
            "over_trl": over.loc[name, "ratio"],
            "smallest": over.loc[name, "smallest"],
            "largest": over.loc[name, "largest"],
            "peak_mib": peaks.get(name),
            **errors.get(name, {}),
            "gflops": case.flops() / seconds[name].median() / 1e9,
            "floor": floor / seconds[name].median(),
        }
        for name, (label, _) in chosen.items()
    ]
    return pd.DataFrame(rows)


def _fits(step: Step) -> bool:
    try:
        step()
    except torch.cuda.OutOfMemoryError:
        return False
    return True


def _fresh(way: Way, case: Case, device: str) -> Step:
    return way(case, make_batch(case, device))


def _least_seconds(case: Case, device: str) -> float:
    """Seconds of the case's unavoidable matmuls alone, each as one plain torch call."""
    batch = make_batch(case, device)
    hidden, weight = batch.student_hidden.detach()[: case.kept], batch.student_weight.detach()
    teacher, teacher_weight = batch.teacher_hidden[: case.kept], batch.teacher_weight
    gradient = torch.randn(case.kept, case.vocab, device=device).to(case.dtype)
    parts = {
        "student": lambda: torch.mm(hidden, weight.t()),
        "teacher": lambda: torch.mm(teacher, teacher_weight.t()),
        "hidden": lambda: torch.mm(gradient, weight),
        "head": lambda: torch.mm(gradient.t(), hidden),
    }
    if not case.head_gradient:
        del parts["head"]
    return float(interleaved(parts, 1, f"{case.name}, matmuls").sum(axis=1).iloc[0])


def _errors(case: Case, device: str, ways: dict[str, Way]) -> dict[str, dict[str, float]]:
    if case not in ERRORS:
        return {}
    few = dataclasses.replace(case, tokens=ERROR_TOKENS)
    batch = make_batch(few, device)
    exact = dataclasses.replace(batch)
    exact.student_hidden = batch.student_hidden.detach().double().requires_grad_()
    exact.student_weight = batch.student_weight.detach().double().requires_grad_()
    teacher = batch.teacher_hidden.double() @ batch.teacher_weight.double().t()
    loss = divergence(exact.student_hidden @ exact.student_weight.t(), teacher, case.beta).mean()
    loss.backward()
    found = {}
    for name, way in ways.items():
        value = way(few, batch)()
        found[name] = {
            "loss_error": abs(value.item() / loss.item() - 1),
            "gradient_error": max(
                _distance(batch.student_hidden.grad, exact.student_hidden.grad),
                _distance(batch.student_weight.grad, exact.student_weight.grad),
            ),
        }
    return found


def _distance(got: torch.Tensor, exact: torch.Tensor) -> float:
    return ((got.double() - exact).norm() / exact.norm()).item()
