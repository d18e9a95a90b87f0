"""The plan for readers: totals are sums, the largest run counts for memory, and the command prints it."""

import pandas as pd
import pytest

from s2d_lib.cli import main
from s2d_lib.plan import plan
from s2d_lib.report.plan_figure import plan_figure
from s2d_lib.report.plan_tables import (
    calibration_table,
    cost_numbers,
    cost_table,
    figure,
    gpu_numbers,
    gpu_table,
    memory_numbers,
    memory_table,
    tables_of,
    uncertainty,
    write_plan,
)


@pytest.fixture(scope="module")
def found():
    return plan("qwen3-single-gpu")


def test_the_last_row_of_the_cost_is_the_sum_over_all_runs(found):
    numbers = cost_numbers(found)
    assert numbers.iloc[-1]["stage"] == "all"
    assert numbers.iloc[-1]["hours"] == pytest.approx(found.total("hours"))
    assert numbers.iloc[-1]["runs"] == numbers.iloc[:-1]["runs"].sum() == found.runs["seeds"].sum()
    assert len(cost_table(found)) == len(numbers)


def test_memory_is_the_largest_of_each_kind_and_what_fits_nowhere_says_so(found):
    numbers = memory_numbers(found)
    assert numbers["peak"].max() == pytest.approx(found.runs["peak"].max() / 1e9)
    found.runs.loc[found.runs["stage"] == "opd", "gpus"] = float("nan")
    shown = memory_table(found).set_index("stage")
    assert shown.loc["opd", "h100-80gb needed"] == "none is enough"


def test_each_gpu_is_shown_where_a_kind_takes_most_of_it():
    found = plan("qwen3-single-gpu")
    numbers = gpu_numbers(found).set_index(["stage", "model", "taught by"])
    assert len(numbers) == len(memory_numbers(found))
    rows = found.runs[(found.runs["stage"] == "opd") & (found.runs["role"] == "student")]
    engine = rows["each engine"]
    most = (rows["each"] + engine).max() / 1e9 + 8
    assert numbers.loc[("opd", "Qwen3-1.7B", "Qwen3-8B"), "sum"] == pytest.approx(most)
    shown = gpu_table(found)
    assert "sum, of 80" in shown
    assert "training on 1" in set(shown["most when"])
    assert set(shown["fits"]) == {"yes"}
    found.runs.loc[found.runs["stage"] == "opd", "fits"] = False
    assert set(gpu_table(found).set_index("stage").loc[["opd"], "fits"]) == {"NO"}


def test_a_profile_on_cpus_has_no_table_of_gpus():
    assert len(tables_of(plan("micro"))) == 3


def test_what_is_written_says_how_sure_it_is(found, tmp_path):
    write_plan(found, tmp_path)
    text = (tmp_path / "plan.md").read_text()
    for sentence in uncertainty(found):
        assert f"- {sentence}\n" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.00012, "1e-04"), (0.5, "0.5"), (12.345, "12.3"), (5973.4, "5,973")]
)
def test_numbers_have_three_digits(value, text):
    assert figure(value) == text


def test_a_stage_that_does_something_not_at_all_has_an_empty_cell():
    nothing = float("nan")
    row = {"stage": "forward_kl", "runs": 2}
    row |= {"sampled, predicted": 0.0, "sampled, recorded": 0.0, "sampled, recorded/predicted": nothing}
    row |= {"trained, predicted": 10.0, "trained, recorded": 9.0, "trained, recorded/predicted": 0.9}
    row |= {"training, GFLOP/s": 3.0, "sampling, GFLOP/s": nothing}
    shown = calibration_table(pd.DataFrame([row])).iloc[0]
    assert (shown["sampled, predicted, k"], shown["sampled, recorded/predicted"], shown["sampling, GFLOP/s"]) == (
        "",
    ) * 3
    assert (shown["trained, recorded, k"], shown["trained, recorded/predicted"]) == ("9", "0.900")


def test_the_figure_has_a_bar_for_every_kind(found):
    labels = [tick.get_text() for tick in plan_figure(found).axes[0].get_yticklabels()]
    assert "sparse_rl, Qwen3-8B" in labels
    assert len(labels) == len(memory_numbers(found))


def test_the_command_prints_the_plan_and_says_how_sure_it_is(capsys, found, tmp_path, monkeypatch):
    monkeypatch.setattr("s2d_lib.cli.project_root", lambda: tmp_path)  # where it writes
    assert main(["plan", "--profile", "qwen3-single-gpu", "--gpu", "a100-80gb", "--utilisation", "0.3"]) == 0
    printed = capsys.readouterr().out
    assert "one a100-80gb at a utilisation of 0.3" in printed
    assert "Qwen3-8B" in printed
    assert len(uncertainty(found)) == printed.count("\n- ")
    assert not list(tmp_path.glob("figures/*"))
    assert main(["plan", "--profile", "qwen3-single-gpu", "--write"]) == 0
    written = {path.name for path in (tmp_path / "figures" / "qwen3-single-gpu").iterdir()}
    assert written == {f"plan.{form}" for form in ("csv", "md", "png", "svg")}
    assert main(["plan", "--gpu", "h100"]) == 1
