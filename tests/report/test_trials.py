"""Rates and steps: the rule on curves with known answers, and that the profiles have what it chose."""

import pandas as pd
import pytest

from s2d_lib.report.trials import choose, misfits, read_trials
from s2d_lib.study import load_profile, profile_names


def curves(tmp_path, *rows) -> pd.DataFrame:
    """Trials from (checkpoint, learning_rate, accuracies at 0, 25, 50, ...)."""
    table = [
        {"checkpoint": c, "stage": "opd", "role": "student", "learning_rate": rate, "step": 25 * i, "accuracy": a}
        for c, rate, accuracies in rows
        for i, a in enumerate(accuracies)
    ]
    pd.DataFrame(table).to_csv(tmp_path / "trials.csv", index=False)
    return read_trials(tmp_path / "trials.csv")


def test_the_rate_with_the_highest_point_and_the_fewest_steps_within_a_point_of_it(tmp_path):
    trials = curves(
        tmp_path,
        ("a", 1e-3, [0.1, 0.3, 0.5, 0.69, 0.70, 0.71, 0.70]),
        ("a", 2e-3, [0.1, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]),
    )
    row = choose(trials).iloc[0]  # means over three: 0.3, 0.497, 0.63, 0.70, 0.703
    assert (row["learning_rate"], row["steps"]) == (1e-3, 100)
    assert row["accuracy"] == pytest.approx((0.70 + 0.71 + 0.70) / 3)


def test_one_high_measurement_between_low_ones_does_not_decide(tmp_path):
    trials = curves(tmp_path, ("a", 1e-3, [0.1, 0.1, 0.9, 0.1, 0.1]), ("a", 2e-3, [0.1, 0.5, 0.5, 0.5, 0.5]))
    assert choose(trials).iloc[0]["learning_rate"] == 2e-3


def test_a_stage_tried_on_two_checkpoints_has_a_rate_for_both_and_the_steps_of_the_first(tmp_path):
    trials = curves(
        tmp_path,
        ("a", 1e-3, [0.1, 0.8, 0.8, 0.8, 0.8]),
        ("b", 1e-3, [0.1, 0.1, 0.1, 0.1, 0.1]),
        ("a", 2e-3, [0.1, 0.7, 0.7, 0.7, 0.7]),
        ("b", 2e-3, [0.1, 0.2, 0.3, 0.7, 0.7]),
    )
    row = choose(trials).iloc[0]
    assert (row["learning_rate"], row["steps"]) == (2e-3, 50)


def regimes() -> list[str]:
    """Profiles that choose their own rates and steps."""
    return [name for name in profile_names() if load_profile(name).regime]


@pytest.mark.parametrize("profile", regimes())
def test_the_profile_has_what_was_chosen(root, profile):
    path = root / "figures" / profile / "trials.csv"
    if not path.is_file():
        assert not (root / "figures" / profile / "results").exists(), "results of a profile whose regime is not frozen"
        pytest.skip(f"the trials of profile {profile} have not been run")
    assert misfits(choose(read_trials(path)), load_profile(profile)) == []


def test_a_profile_that_has_something_else_is_told_so(tmp_path):
    trials = curves(tmp_path, ("student.bridge.rl_teacher", 0.123, [0.1, 0.2, 0.3, 0.3, 0.3]))
    found = misfits(choose(trials), load_profile("micro"))
    assert len(found) == 2
    assert found[0].startswith("opd of student: learning_rate is ")
    assert found[0].endswith("chosen was 0.123")
