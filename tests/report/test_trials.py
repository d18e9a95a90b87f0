"""Rates and steps: the rule on curves with known answers, and that the profiles have what it chose."""

import pandas as pd
import pytest

from s2d_lib.pipeline import regime_jobs, regime_trials
from s2d_lib.report.trials import choose, misfits, read_trials, trials_figure
from s2d_lib.study import load_profile, profile_names


def curves(tmp_path, *rows) -> pd.DataFrame:
    """Trials from (checkpoint, learning_rate, accuracies at the ends of runs of 25, 50, ... steps)."""
    table = [
        {
            "checkpoint": c,
            "stage": "opd",
            "role": "student",
            "learning_rate": rate,
            "steps": 25 * i,
            "step": step,
            "accuracy": a,
        }
        for c, rate, ends in rows
        for i, end in enumerate(ends, start=1)
        for step, a in [(0, 0.1), (10, 0.99), (25 * i, end)]
    ]
    pd.DataFrame(table).to_csv(tmp_path / "trials.csv", index=False)
    return read_trials(tmp_path / "trials.csv")


def test_the_rate_of_the_best_end_and_the_fewest_steps_within_a_point_of_it(tmp_path):
    trials = curves(tmp_path, ("a", 1e-3, [0.3, 0.695, 0.70, 0.69]), ("a", 2e-3, [0.695] * 4))
    row = choose(trials).iloc[0]
    assert (row["learning_rate"], row["steps"], row["accuracy"]) == (1e-3, 50, 0.695)
    assert row["tried"] == "rates 0.001 or 0.002; 25 or 50 or 75 or 100 steps"


def test_a_high_point_on_the_way_does_not_count(tmp_path):
    trials = curves(tmp_path, ("a", 1e-3, [0.4, 0.5]), ("a", 2e-3, [0.2, 0.3]))
    assert choose(trials).iloc[0]["accuracy"] == 0.5  # not the 0.99 that every curve has at step 10


def test_by_the_mean_a_run_counts_for_what_it_was_before_it_fell(tmp_path):
    path = tmp_path / "trials.csv"
    same = {"checkpoint": "a", "stage": "sdpo", "role": "student", "steps": 20}
    fallen = {1e-3: [0.1, 0.6, 0.0], 2e-3: [0.1, 0.2, 0.1]}
    rows = [
        same | {"learning_rate": rate, "step": 10 * i, "accuracy": a}
        for rate, curve in fallen.items()
        for i, a in enumerate(curve)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    assert choose(read_trials(path))["learning_rate"].item() == 2e-3
    assert choose(read_trials(path), by="mean")["learning_rate"].item() == 1e-3


def test_a_stage_tried_on_two_checkpoints_counts_by_their_mean(tmp_path):
    trials = curves(
        tmp_path, ("a", 1e-3, [0.8, 0.8]), ("b", 1e-3, [0.1, 0.1]), ("a", 2e-3, [0.6, 0.7]), ("b", 2e-3, [0.5, 0.7])
    )
    row = choose(trials).iloc[0]
    assert (row["learning_rate"], row["steps"]) == (2e-3, 50)


def test_a_rate_above_the_bound_is_not_chosen(tmp_path):
    trials = curves(tmp_path, ("a", 1e-3, [0.5, 0.6]), ("a", 2e-3, [0.5, 0.9]))
    assert choose(trials, up_to=1e-3).iloc[0].to_dict() | {"tried": ""} == choose(
        trials[trials["learning_rate"] == 1e-3]
    ).iloc[0].to_dict() | {"tried": ""}
    assert "0.001 or 0.002" in choose(trials, up_to=1e-3).iloc[0]["tried"]


def test_a_bridge_is_chosen_with_its_share_of_warmup(tmp_path):
    place = {
        "checkpoint": "student.bridge.rl_teacher",
        "stage": "bridge",
        "role": "student",
        "learning_rate": 1e-3,
        "steps": 200,
    }
    ends = {0.25: 0.5, 0.5: 0.7, 0.75: 0.6}
    rows = [place | {"warmup": share, "step": 150, "accuracy": end} for share, end in ends.items()]
    pd.DataFrame(rows).to_csv(tmp_path / "trials.csv", index=False)
    choice = choose(read_trials(tmp_path / "trials.csv"))
    row = choice.iloc[0]
    assert (row["warmup"], row["steps"], row["accuracy"]) == (0.5, 200, 0.7)
    assert row["tried"] == "rates 0.001; 200 steps; 0.25 or 0.5 or 0.75 of them warmup"
    (found,) = misfits(choice, load_profile("map", {"stages": {"forward_kl": {"steps": 50}, "opd": {"steps": 150}}}))
    assert found == "bridge of student: warmup is 0.25, chosen was 0.5"
    (axes,) = [axes for axes in trials_figure(read_trials(tmp_path / "trials.csv"), choice).axes if axes.get_visible()]
    assert axes.get_legend().get_title().get_text() == "share of warmup"


def regimes() -> list[str]:
    """Profiles that choose their own rates and steps."""
    return [name for name in profile_names() if load_profile(name).regime]


@pytest.mark.parametrize("profile", regimes())
def test_the_profile_has_what_was_chosen(root, profile):
    path = root / "figures" / profile / "trials.csv"
    if not path.is_file():
        assert not (root / "figures" / profile / "results").exists(), "results of a profile whose regime is not frozen"
        pytest.skip(f"the trials of profile {profile} have not been run")
    settings = load_profile(profile)
    assert misfits(choose(read_trials(path), settings.regime.count_by, settings.regime.rates_up_to), settings) == []


def test_a_profile_that_has_something_else_is_told_so(tmp_path):
    trials = curves(tmp_path, ("student.bridge.rl_teacher", 0.123, [0.1, 0.2, 0.3]))
    found = misfits(choose(trials), load_profile("micro"))
    assert len(found) == 2
    assert found[0].startswith("opd of student: learning_rate is ")
    assert found[0].endswith("chosen was 0.123")


def test_a_method_tried_on_several_profiles_counts_by_their_mean(tmp_path):
    first = curves(tmp_path, ("a", 1e-3, [0.9]), ("a", 2e-3, [0.5]))
    second = curves(tmp_path, ("a", 1e-3, [0.1]), ("a", 2e-3, [0.6]))
    both = pd.concat([first.assign(profile="one"), second.assign(profile="two")])
    assert choose(first)["learning_rate"].item() == 1e-3
    row = choose(both).iloc[0]
    assert (row["learning_rate"], row["accuracy"]) == (2e-3, 0.55)
    titles = {
        axes.get_title(loc="left").split("\n")[0]
        for axes in trials_figure(both, choose(both)).axes
        if axes.get_visible()
    }
    assert titles == {"one, a", "two, a"}


def test_trials_are_made_on_the_other_profiles_too():
    regime = load_profile("micro-arithmetic").regime
    found = regime_trials("micro-arithmetic")
    assert {trial.resolved.profile for trial in found} == {"micro-arithmetic", *regime.also_on}
    jobs = regime_jobs("micro-arithmetic")
    assert {trial.resolved.hash for trial in found} <= set(jobs)
    assert len({job.rule for job in jobs.values()}) == len(jobs)
