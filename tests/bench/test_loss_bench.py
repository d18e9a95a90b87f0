"""The loss benchmark: every contender does the same work, and what is measured is measured right. No timing here."""

import dataclasses

import pandas as pd
import pytest
import torch

from s2d_lib.bench import contenders, measure, report
from s2d_lib.bench.cases import CPU_CASES, GPU_CASES, MEDIUM, Case, make_batch
from s2d_lib.bench.loss import candidates
from s2d_lib.bench.measure import interleaved, peak_of, ratios
from s2d_lib.bench.run import run_bench
from s2d_lib.errors import StudyError

TINY = Case("tiny", 96, 8, 12, 40)


def gradients(way, case):
    batch = make_batch(case)
    loss = way(case, batch)()
    return loss, batch.student_hidden.grad, batch.student_weight.grad


@pytest.mark.parametrize("masked", [0.0, 0.5])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_every_contender_does_the_same_work(beta, masked):
    case = dataclasses.replace(TINY, beta=beta, masked=masked)
    expected = gradients(contenders.naive, case)
    ways = {"s2d": contenders.s2d, "TRL": contenders.trl}
    ways["tiled"] = lambda case, batch: contenders.trl(case, batch, tile=(16, 32))
    try:
        import liger_kernel  # noqa: F401

        ways["Liger"] = lambda case, batch: contenders.liger_chunked(case, batch, chunk_size=16)
    except ImportError:
        pass  # `make bench` installs it
    for name, way in ways.items():
        for got, want in zip(gradients(way, case), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6, msg=name)


def test_tile_sizes_are_put_back():
    from trl.kernels import chunked_divergence

    stock = chunked_divergence.TOKEN_CHUNK_SIZE, chunked_divergence.VOCAB_CHUNK_SIZE
    contenders.trl(TINY, make_batch(TINY), tile=(16, 32))()
    assert stock == (chunked_divergence.TOKEN_CHUNK_SIZE, chunked_divergence.VOCAB_CHUNK_SIZE)


def test_the_least_work_of_the_papers_shapes():
    qwen = Case("", 151936, 2048, 4096, 1)
    assert qwen.flops() == 2 * 151936 * (3 * 2048 + 4096)
    assert qwen.flops() / qwen.flops(recompute=True) == pytest.approx(0.625)
    frozen = dataclasses.replace(qwen, head_gradient=False)
    assert frozen.flops() / frozen.flops(recompute=True) == pytest.approx(0.571, abs=1e-3)
    assert dataclasses.replace(qwen, tokens=100, masked=0.9).flops() == 10 * qwen.flops()


def test_who_takes_part_where():
    assert set(candidates(MEDIUM, "cpu")) == {"s2d", "TRL", "naive", "TRL, best tile", "Liger, best chunk"}
    frozen = next(case for case in CPU_CASES if not case.head_gradient)
    assert set(candidates(frozen, "cpu")) == {"s2d", "TRL"}  # Liger always makes the head's gradient
    assert len(candidates(GPU_CASES[0], "cuda")["Liger, best chunk"]) == 3


def test_rounds_take_turns(monkeypatch):
    monkeypatch.setattr(measure, "SHORTEST", 0.0)
    calls = []
    table = interleaved({name: lambda n=name: calls.append(n) for name in "abc"}, 3, "test")
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert list(table.columns) == list("abc")
    assert len(table) == 3


def test_ratios_are_taken_within_rounds():
    seconds = pd.DataFrame({"a": [1.0, 4.0, 3.0], "b": [2.0, 4.0, 12.0]})
    table = ratios(seconds, "b")
    assert table.loc["a"].tolist() == [0.5, 0.25, 1.0]
    assert table.loc["b"].tolist() == [1.0, 1.0, 1.0]


def test_peak_memory_is_what_a_step_holds_at_once():
    def make():
        held = torch.ones(2**24)  # there before the step: not counted

        def step():
            first = torch.ones(20 * 2**20)  # 80 MiB
            del first
            return torch.ones(40 * 2**20) + held[0]  # two of 160 MiB at once

        return step

    peak = peak_of(make, "cpu")
    if peak == peak:  # NaN where the system does not tell
        assert 300 < peak < 360  # beside a few MiB that the process takes for itself meanwhile


def test_tables_leave_unmeasured_cells_empty(tmp_path):
    table = pd.DataFrame({"case": ["x"], "peak_mib": [float("nan")], "seconds": [0.123456]})
    report.write_table(table, tmp_path, "t", "A note.")
    text = (tmp_path / "t.md").read_text()
    assert "nan" not in text
    assert "0.123" in text
    assert text.endswith("A note.\n")


def test_an_unknown_part_is_refused():
    with pytest.raises(StudyError, match="no part 'los'"):
        run_bench(["los"])
