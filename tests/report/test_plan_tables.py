"""The plan for readers: totals are sums, the largest run counts for memory, and the command prints and writes it."""

import pandas as pd
import pytest

from s2d_lib.check import pilot
from s2d_lib.cli import main
from s2d_lib.plan import plan
from s2d_lib.report.plan import figure, kinds_of, tables_of, uncertainty


def test_cost_is_summed_and_memory_is_that_of_the_largest_run_with_vllms_share_and_the_reserve():
    found = plan("qwen3-single-gpu")
    kinds = kinds_of(found)
    assert kinds["hours"].sum() == pytest.approx(found.total("hours"))
    kinds = kinds.set_index(["stage", "model", "taught by"])
    rows = found.runs[(found.runs["stage"] == "opd") & (found.runs["taught by"] == "Qwen/Qwen3-8B")]
    assert kinds.loc[("opd", "Qwen3-1.7B", "Qwen3-8B"), "sum"] == pytest.approx(rows["total"].max() / 1e9 + 0.09 * 80)
    assert kinds.loc[("teacher_rollouts", "Qwen3-8B", ""), "vLLM's share"] == pytest.approx(0.6 * 80)
    found.runs.loc[found.runs["stage"] == "opd", "fit"] = False
    cost, memory, _ = tables_of(found).values()
    assert cost.iloc[-1][["stage", "runs", "GPU hours"]].tolist() == ["all", "13", figure(found.total("hours"))]
    shown = memory.set_index("stage")["fits"]
    assert (set(shown[["opd"]]), set(shown[["base"]])) == ({"NO"}, {"yes"})
    digits = {0: "0", 0.00012: "1e-04", 0.5: "0.5", 12.345: "12.3", 5973.4: "5,973"}
    assert {value: figure(value) for value in digits} == digits


def test_the_command_prints_a_pilot_and_prints_and_writes_the_plan_with_how_sure_it_is(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("s2d_lib.cli.project_root", lambda: tmp_path)  # where it writes
    assert main(["plan", "--profile", "qwen3-single-gpu", "--gpu", "a100-80gb", "--utilisation", "0.3", "--write"]) == 0
    printed = capsys.readouterr().out
    assert "one a100-80gb at a utilisation of 0.3" in printed
    folder = tmp_path / "figures" / "qwen3-single-gpu"
    assert {path.name for path in folder.iterdir()} == {"plan.csv", "plan.md"}
    for sentence in uncertainty(plan("qwen3-single-gpu", "a100-80gb", 0.3)):
        assert f"\n- {sentence}\n" in printed
        assert f"- {sentence}\n" in (folder / "plan.md").read_text()
    measured = pd.Series({"checkpoint": "student.grpo", "seconds a step": 2.345678})
    monkeypatch.setattr(pilot, "pilot", lambda plan, checkpoint: measured if checkpoint is None else None)
    assert main(["plan", "--profile", "micro", "--pilot"]) == 0
    assert "| student.grpo |             2.35 |" in capsys.readouterr().out
