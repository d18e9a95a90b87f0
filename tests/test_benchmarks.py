"""The benchmarks at tiny sizes: every contender does the same work, and what is measured is measured right. No timing here."""

from functools import partial

import pandas as pd
import pytest
import torch
from trl.kernels import chunked_divergence

from benchmarks import __main__ as bench
from benchmarks import gpu, loss, stages
from benchmarks.timing import compared, peak_of

SHAPE = {"tokens": 40, "hidden": (8, 12), "vocabulary": 96}


@pytest.fixture
def uncompiled(monkeypatch):
    """No compiled contender, which takes seconds."""
    monkeypatch.setattr(loss.shutil, "which", lambda name: None)


@pytest.mark.parametrize("options", [{"beta": 0.0, "masked": 0.5}, {"beta": 0.5}, {"train_head": False}])
def test_every_contender_has_the_exact_gradients(monkeypatch, uncompiled, options):
    monkeypatch.setattr(loss, "TRL_TILES", {"cpu": [(16, 32)]})
    monkeypatch.setattr(loss, "LIGER_CHUNKS", {"cpu": [16]})
    sizes = chunked_divergence.TOKEN_CHUNK_SIZE, chunked_divergence.VOCAB_CHUNK_SIZE
    batch = loss.make_batch(**SHAPE, **options)
    ways = {f"{name} {s}": way for name, found in loss.contenders(batch).items() for s, way in found.items()}
    del ways["products alone "]
    errors = loss.gradient_errors(batch, ways)
    assert set(errors) >= {"s2d ", "torch ", "TRL ", "TRL, best tile 16 x 32"}
    assert max(errors.values()) < 1e-5
    assert sizes == (chunked_divergence.TOKEN_CHUNK_SIZE, chunked_divergence.VOCAB_CHUNK_SIZE)  # put back


def test_rounds_take_turns_and_ratios_are_taken_within_them():
    seconds, calls = {"a": [1.0, 4.0, 3.0], "TRL": [2.0, 4.0, 12.0], "c": [1.0, 1.0, 1.0]}, []

    def measure(name):
        calls.append(name)
        return seconds[name][calls.count(name) - 1]

    table = compared({name: partial(measure, name) for name in seconds}, "TRL", 3, "test").set_index("contender")
    assert calls == ["a", "TRL", "c", "TRL", "c", "a", "c", "a", "TRL"]
    assert table.loc["a"].tolist() == [3.0, 2.0, 3.5, 0.5]
    assert table.loc["TRL", "over_trl"] == 1


def test_peak_memory_is_what_a_call_holds_at_once():
    held = torch.ones(2**24)  # there before: not counted

    def step():
        first = torch.ones(20 * 2**20)  # 80 MiB
        del first
        return torch.ones(40 * 2**20) + held[0]  # two of 160 MiB at once

    peak = peak_of(step, "cpu")
    assert 318 < peak < 325 or peak != peak  # NaN where the system does not tell


@pytest.mark.slow
def test_every_part_of_make_bench_runs(tiny, tmp_path):
    losses = bench.losses({"one": SHAPE}, rounds=1)
    assert losses["gradient_error"].max() < 1e-5
    kept = {kind: own for kind, own in tiny["stages"].items() if kind != "teacher_sft"}
    whole = {kind: own | ({"micro_batch": own["batch"]} if "batch" in own else {}) for kind, own in kept.items()}
    steps = stages.stages_cost(rounds=1, steps=1, overrides={"stages": whole})  # refuses first batches that differ
    assert steps["stage"].tolist() == [name for name in stages.STAGES for side in ("s2d", "TRL")]
    sampling = stages.sampling_cost(batches=(8, 16), problems=1, rounds=1)
    assert all((column > 0).all() for column in (losses["seconds"], steps["seconds"], sampling["tokens_per_second"]))
    bench.write(losses.assign(peak_mib=float("nan")), tmp_path, "loss", "A note.")
    assert pd.read_csv(tmp_path / "loss.csv")["contender"].tolist() == losses["contender"].tolist()
    text = (tmp_path / "loss.md").read_text()
    assert "nan" not in text
    assert all(said in text for said in ("A note.", f"torch {torch.__version__}"))
    assert len(bench.loss_plot(losses).axes) == 2


@pytest.mark.slow
def test_every_part_of_make_gpu_runs_on_a_cpu_and_writes_its_rows(tmp_path, monkeypatch, uncompiled):
    kinds = ("GRPO", "forward KL", "OPD", "SRPO, beside GRPO")
    monkeypatch.setattr(gpu, "STAGES", {name: stages.STAGES[name] for name in kinds})
    gpu.main(["--tiny", "--out", str(tmp_path)])
    tables = {part: pd.read_csv(tmp_path / f"gpu-tiny-{part}.csv") for part in ("loss", "stages", "full", "study")}
    losses = tables["loss"].set_index(["case", "contender"])
    assert losses["share of peak"].gt(0).all()
    ours = losses.xs("s2d", level="contender")
    assert (ours["gradient_error"] < 2 * ours["rounding"]).all()
    assert tables["stages"]["stage"].tolist() == list(kinds)
    assert tables["stages"][["loss apart", "grad_norm apart"]].lt(0.05).all(axis=None)
    assert tables["stages"]["loss float32"].abs().gt(0).all()  # groups are mixed, so there is something to learn
    step = tables["full"].iloc[0]
    assert step["seconds"] == pytest.approx(step["sampling"] + step["update"], rel=1e-2)
    assert "dry-run" in tables["study"].loc[0, "ends with"]
    page = (tmp_path / "gpu-tiny.md").read_text()
    assert all(f"## {part}" in page for part in tables)
    assert (tmp_path / "gpu-tiny-loss.png").stat().st_size > 10_000


def test_what_a_gpu_does_not_allow_is_said_and_the_other_parts_run(tmp_path, monkeypatch, capsys):
    def too_large(scale):
        yield pd.DataFrame([{"case": "small", "seconds": 1.0}])
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40 GiB")

    fitting = pd.DataFrame([{"stage": "OPD"}])
    monkeypatch.setattr(gpu, "PARTS", {"full": too_large, "stages": lambda scale: iter([fitting])})
    gpu.main(["--tiny", "--minutes", "0", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
    gpu.main(["--tiny", "--out", str(tmp_path)])
    assert "full: this GPU is too small for it (CUDA out of memory" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "gpu-tiny-full.csv")["case"].tolist() == ["small"]
    assert pd.read_csv(tmp_path / "gpu-tiny-stages.csv")["stage"].tolist() == ["OPD"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for built, remedy in ((None, "built for CPUs only: install one"), ("13.0", "a driver too old for it: install a")):
        monkeypatch.setattr(torch.version, "cuda", built)
        with pytest.raises(SystemExit, match=f"no GPU: torch .*{remedy}.*--tiny"):
            gpu.main([])
