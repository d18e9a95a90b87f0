"""The benchmarks at tiny sizes: every contender does the same work, and what is measured is measured right. No timing here."""

from functools import partial

import pandas as pd
import pytest
import torch
from trl.kernels import chunked_divergence

from benchmarks import __main__ as bench
from benchmarks import loss, stages
from benchmarks.loss import contenders, gradient_errors, make_batch
from benchmarks.timing import compared, peak_of

SHAPE = {"tokens": 40, "hidden": (8, 12), "vocabulary": 96}


@pytest.mark.parametrize("options", [{"beta": 0.0, "masked": 0.5}, {"beta": 0.5}, {"train_head": False}])
def test_every_contender_has_the_exact_gradients(monkeypatch, options):
    monkeypatch.setattr(loss, "TRL_TILES", {"cpu": [(16, 32)]})
    monkeypatch.setattr(loss, "LIGER_CHUNKS", {"cpu": [16]})
    monkeypatch.setattr(loss.shutil, "which", lambda name: None)  # compiling takes seconds
    sizes = chunked_divergence.TOKEN_CHUNK_SIZE, chunked_divergence.VOCAB_CHUNK_SIZE
    batch = make_batch(**SHAPE, **options)
    ways = {f"{name} {s}": way for name, found in contenders(batch).items() for s, way in found.items()}
    del ways["products alone "]
    errors = gradient_errors(batch, ways)
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
def test_every_part_runs(tiny, tmp_path):
    losses = bench.losses({"one": SHAPE}, rounds=1)
    assert losses.set_index("contender").loc["TRL", "over_trl"] == 1
    assert (losses["seconds"] > 0).all()
    assert losses["gradient_error"].max() < 1e-5
    kept = {kind: own for kind, own in tiny["stages"].items() if kind != "teacher_sft"}
    whole = {kind: own | ({"micro_batch": own["batch"]} if "batch" in own else {}) for kind, own in kept.items()}
    steps = stages.stages_cost(rounds=1, steps=1, overrides={"stages": whole})  # refuses first batches that differ
    assert steps["stage"].tolist() == [name for name in stages.STAGES for side in ("s2d", "TRL")]
    assert (steps["seconds"] > 0).all()
    sampling = stages.sampling_cost(batches=(8, 16), problems=1, rounds=1)
    assert (sampling["tokens_per_second"] > 0).all()
    bench.write(losses.assign(peak_mib=float("nan")), tmp_path, "loss", "A note.")
    assert pd.read_csv(tmp_path / "loss.csv")["contender"].tolist() == losses["contender"].tolist()
    text = (tmp_path / "loss.md").read_text()
    assert "nan" not in text
    assert "A note." in text
    assert "torch " + torch.__version__ in text  # the machine
    assert len(bench.loss_plot(losses).axes) == 2
