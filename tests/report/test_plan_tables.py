"""The plan for readers: totals are sums, the largest run counts for memory, and the command prints and writes it."""

import pandas as pd
import pytest

from s2d_lib.check import pilot
from s2d_lib.cli import main
from s2d_lib.plan import plan
from s2d_lib.report.plan import cost_numbers, figure, memory_numbers, tables_of, uncertainty


@pytest.fixture
def found():
    return plan("qwen3-single-gpu")


def test_the_last_row_of_the_cost_is_the_sum_over_all_runs(found):
    numbers = cost_numbers(found)
    assert numbers.iloc[-1]["stage"] == "all"
    assert numbers.iloc[-1]["hours"] == pytest.approx(found.total("hours"))
    assert numbers.iloc[-1]["runs"] == numbers.iloc[:-1]["runs"].sum() == found.runs["seeds"].sum()
    values = {0: "0", 0.00012: "1e-04", 0.5: "0.5", 12.345: "12.3", 5973.4: "5,973"}
    assert {value: figure(value) for value in values} == values  # three digits


def test_memory_is_that_of_the_largest_run_of_a_kind_with_vllms_share_and_the_reserve(found):
    numbers = memory_numbers(found).set_index(["stage", "model", "taught by"])
    rows = found.runs[(found.runs["stage"] == "opd") & (found.runs["taught by"] == "Qwen/Qwen3-8B")]
    assert numbers.loc[("opd", "Qwen3-1.7B", "Qwen3-8B"), "sum"] == pytest.approx(rows["total"].max() / 1e9 + 0.09 * 80)
    assert numbers.loc[("teacher_rollouts", "Qwen3-8B", ""), "vLLM's share"] == pytest.approx(0.6 * 80)
    found.runs.loc[found.runs["stage"] == "opd", "fit"] = False
    shown = tables_of(found)["Memory of each GPU, or process, of a run, GB"].set_index("stage")["fits"]
    assert (set(shown[["opd"]]), set(shown[["base"]])) == ({"NO"}, {"yes"})


def test_the_command_prints_and_writes_the_plan_with_how_sure_it_is(capsys, found, tmp_path, monkeypatch):
    monkeypatch.setattr("s2d_lib.cli.project_root", lambda: tmp_path)  # where it writes
    assert main(["plan", "--profile", "qwen3-single-gpu", "--gpu", "a100-80gb", "--utilisation", "0.3", "--write"]) == 0
    printed = capsys.readouterr().out
    assert "one a100-80gb at a utilisation of 0.3" in printed
    folder = tmp_path / "figures" / "qwen3-single-gpu"
    assert {path.name for path in folder.iterdir()} == {"plan.csv", "plan.md"}
    for sentence in uncertainty(plan("qwen3-single-gpu", "a100-80gb", 0.3)):
        assert f"\n- {sentence}\n" in printed
        assert f"- {sentence}\n" in (folder / "plan.md").read_text()
    assert main(["plan", "--gpu", "h100"]) == 1


def test_the_command_prints_a_pilot(capsys, monkeypatch):
    measured = pd.Series({"checkpoint": "student.grpo", "seconds a step": 2.345678})
    monkeypatch.setattr(
        pilot, "pilot", lambda plan, checkpoint: measured if checkpoint is None else pytest.fail("named")
    )
    assert main(["plan", "--profile", "micro", "--pilot"]) == 0
    assert "| student.grpo |             2.35 |" in capsys.readouterr().out
