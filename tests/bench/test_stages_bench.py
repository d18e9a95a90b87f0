"""The stages' and sampling's part of the benchmark: both sides do the same work, and the numbers mean what they say."""

import numpy as np
import pandas as pd
import pytest
import torch

from s2d_lib.bench.sampling import UNITS, Grid, fit_law, r_squared, sampling_cost, sampling_plot
from s2d_lib.bench.stages import (
    SIDES,
    STAGES,
    UNTIMED,
    build,
    peak_memory,
    step_seconds,
    summary,
    teacher_samples,
    with_steps,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def rollouts(tiny):
    """The released teacher's rollouts on the tiny pool."""
    return teacher_samples(tiny)


def test_every_timed_step_is_there_and_its_tokens_are_those_with_loss(tiny, rollouts):
    steps = step_seconds(rollouts, rounds=1, steps=2, overrides=tiny)
    assert list(steps["stage"].unique()) == list(STAGES)
    assert set(steps.groupby(["stage", "side"])["step"].agg(tuple)) == {(UNTIMED + 1, UNTIMED + 2)}
    assert (steps["seconds"] > steps["sampling"]).all()
    assert (steps.groupby("stage")["sampling"].min()[["GRPO", "OPD"]] > 0).all()
    # The two timed batches of 16 are one pass over the 32 stored rollouts
    for _, own in steps[steps["stage"].isin(["forward KL", "teacher-sample SFT"])].groupby(["stage", "side"]):
        assert own["tokens"].sum() == sum(len(r.ids) for r in rollouts)


@pytest.mark.parametrize("name", STAGES)
def test_both_sides_first_batch_is_the_same_to_the_token(tiny, rollouts, tmp_path, name):
    batches, tokens = [], []
    for side in SIDES:
        (tmp_path / side).mkdir()
        trainer = build(name, side, tmp_path / side, rollouts, with_steps(tiny, 1))
        trainer.train()
        batches.append(trainer.first_batch)
        tokens.append([row["tokens"] for row in trainer.state.log_history if "loss" in row])
    assert torch.equal(*batches)
    assert tokens[0] == tokens[1]


def test_peak_memory_is_measured_in_processes_of_their_own(tiny, rollouts):
    peaks = peak_memory(rollouts, tiny, ("OPD",))
    assert list(peaks.index) == [("OPD", side) for side in SIDES]
    assert (peaks > 0).all()


def test_summary_of_known_seconds():
    ours, theirs = [[1.0, 2.0, 9.0], [3.0, 3.0, 3.0]], [[4.0, 4.0, 4.0], [4.0, 2.0, 9.0]]
    rows = [
        {"stage": "OPD", "round": r, "side": side, "step": i, "seconds": s, "sampling": s / 2, "tokens": 500}
        for side, rounds in zip(SIDES, (ours, theirs), strict=True)
        for r, seconds in enumerate(rounds)
        for i, s in enumerate(seconds)
    ]
    peaks = pd.Series({("OPD", "s2d"): 10.0, ("OPD", "TRL"): 20.0})
    table = summary(pd.DataFrame(rows), peaks).set_index("side")
    assert table.loc["s2d", "seconds_step"] == 3.0
    assert table.loc["s2d", "seconds_sampling"] == 1.5
    assert table.loc["s2d", "seconds_1k_tokens"] == 6.0
    assert table.loc["s2d", ["over_trl", "smallest", "largest"]].tolist() == [0.625, 0.5, 0.75]
    assert table.loc["TRL", ["over_trl", "peak_mib"]].tolist() == [1.0, 20.0]


LAW = {"s": 3e-3, "a": 1e-3, "p": 3e-5, "b": 8e-6, "c": 1e-7}


def synthetic() -> pd.DataFrame:
    """Timings that obey LAW exactly."""
    table = pd.DataFrame(Grid().points(), columns=["rollouts", "batch", "tokens", "held_out"])
    batches, n, t = np.ceil(table["rollouts"] / table["batch"]), table["rollouts"], table["tokens"]
    seconds = batches * (LAW["s"] + LAW["a"] * t) + n * (LAW["p"] + LAW["b"] * t + LAW["c"] * t**2)
    return table.assign(seconds=seconds)


def test_a_known_law_is_found_again():
    timings = synthetic()
    fit = fit_law(timings)
    assert fit.coefficients == pytest.approx(LAW, rel=1e-6)
    assert (fit.r2, fit.r2_held_out) == pytest.approx((1, 1))
    assert fit.seconds(1600, 256, 8) == pytest.approx(7 * 11e-3 + 1600 * (3e-5 + 6.4e-5 + 6.4e-6))
    assert dict(zip(fit.table()["coefficient"], fit.table()["value"], strict=True)) == pytest.approx(
        {"s": 3, "a": 1, "p": 30, "b": 8, "c": 100}
    )
    assert 0 < timings["held_out"].sum() < len(timings) / 2


def test_held_out_points_have_no_say_in_the_fit_but_in_their_r2():
    timings = synthetic()
    timings.loc[timings["held_out"], "seconds"] *= 2
    fit = fit_law(timings)
    assert fit.coefficients == pytest.approx(LAW, rel=1e-6)
    measured = timings.loc[timings["held_out"], "seconds"].to_numpy()
    errors, spread = np.sum((measured / 2) ** 2), np.sum((measured - measured.mean()) ** 2)
    assert fit.r2_held_out == pytest.approx(1 - errors / spread)
    assert r_squared(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])) == 0


def test_no_coefficient_is_negative_when_the_law_has_none_of_it():
    timings = synthetic()
    timings["seconds"] -= 2e-5 * timings["rollouts"] * np.where(timings["tokens"] > 8, 1, 0.5)
    assert min(fit_law(timings).coefficients.values()) >= 0


def test_real_sampling_gives_every_completion_its_length():
    grid = Grid(rollouts=(32, 64), batches=(16, 32, 64), tokens=(2, 3, 4), rounds=1)
    timings, fits = sampling_cost(("student",), grid)
    assert len(timings) == len(grid.points()) == 15
    assert (timings["seconds"] > 0).all()
    assert (timings["predicted"] > 0).all()
    assert list(fits["student"].coefficients) == list(UNITS)
    assert sampling_plot(timings, fits).axes[0].get_xlabel() == "tokens a completion"
