"""`make gpu` at tiny sizes on a CPU: every part runs, and one that can't says why while the others go on."""

import pandas as pd
import pytest
import torch

from benchmarks import gpu, loss


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_and_writes_its_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loss.shutil, "which", lambda name: None)  # compiling takes seconds
    gpu.main(["--tiny", "--out", str(tmp_path)])
    tables = {part: pd.read_csv(tmp_path / f"gpu-tiny-{part}.csv") for part in ("loss", "stages", "full", "study")}
    losses = tables["loss"].set_index(["case", "contender"])
    assert losses["share of peak"].gt(0).all()
    ours = losses.xs("s2d", level="contender")
    assert (ours["gradient_error"] < 2 * ours["rounding"]).all()
    assert tables["stages"]["stage"].tolist() == list(gpu.STAGE_PARAMS)
    assert tables["stages"][["loss apart", "grad_norm apart"]].lt(0.05).all(axis=None)
    assert tables["stages"]["loss float32"].abs().gt(0).all()  # groups are mixed, so there is something to learn
    step = tables["full"].iloc[0]
    assert step["seconds"] == pytest.approx(step["sampling"] + step["update"], rel=1e-2)
    assert "dry-run" in tables["study"].loc[0, "ends with"]
    page = (tmp_path / "gpu-tiny.md").read_text()
    assert all(f"## {part}" in page for part in tables)
    assert (tmp_path / "gpu-tiny-loss.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "stages: 6 rows in" in printed


def test_a_gpu_too_small_for_a_part_says_so_and_the_others_run(tmp_path, monkeypatch, capsys):
    def too_large(scale):
        yield pd.DataFrame([{"case": "small", "seconds": 1.0}])
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40 GiB")

    monkeypatch.setattr(
        gpu, "PARTS", {"full": too_large, "stages": lambda scale: iter([pd.DataFrame([{"stage": "OPD"}])])}
    )
    gpu.main(["--tiny", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "full: this GPU is too small for it (CUDA out of memory" in printed
    assert pd.read_csv(tmp_path / "gpu-tiny-full.csv")["case"].tolist() == ["small"]
    assert pd.read_csv(tmp_path / "gpu-tiny-stages.csv")["stage"].tolist() == ["OPD"]


def test_no_more_begins_when_the_minutes_are_over(tmp_path):
    gpu.main(["loss", "--tiny", "--minutes", "0", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_one_sentence_says_what_to_do(monkeypatch):
    for built, remedy in (
        (None, "built for CPUs only: install one"),
        ("13.0", "a driver too old for it: install a driver"),
    ):
        monkeypatch.setattr(torch.version, "cuda", built)
        with pytest.raises(SystemExit, match=f"no GPU: torch .*{remedy}.*--tiny"):
            gpu.main([])


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["losses", "--tiny"])
    assert "there is no part 'losses': choose among loss, stages, full, vllm, study" in capsys.readouterr().err
