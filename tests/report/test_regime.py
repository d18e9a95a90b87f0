"""The regime: criteria on accuracies made by hand; rates and steps by the rule, and that the profiles have what it chose."""

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.pipeline import regime_jobs, regime_trials
from s2d_lib.report.regime import choose, criteria, misfits, read_regime, regime_table, trials_figure, write_regime
from s2d_lib.runs import FinishedRun
from s2d_lib.study import load_profile, profile_names

ENDS = {  # grades of two problems at the main decoding, and greedily
    "student": ("0000", "1"), "teacher": ("1000", "1"), "teacher.rl": ("1111", "1"), "student.grpo": ("1100", "0"),
    "student.bridge.rl_teacher": ("1110", "1"), "student.opd_only.rl_teacher": ("1100", "1"),
    "student.teacher_sample_sft.rl_teacher": ("1000", "1"),
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    """A check of one cell whose untrained student is right greedily."""
    runs = []
    for checkpoint, grades in ENDS.items():
        (folder := tmp_path / checkpoint).mkdir()
        at = dict(zip(("main", "greedy"), grades, strict=True))
        rows = [(decoding, "hard", problem, bits, 3, 0) for decoding, bits in at.items() for problem in "ab"]
        names = ["decoding", "set", "id", "correct", "tokens", "cut_off"]
        pd.DataFrame(rows, columns=names).to_csv(folder / "evaluation.csv", index=False)
        stage = "sparse_rl" if "." in checkpoint else "base"
        run = FinishedRun(folder, {"resolved": {"checkpoint": checkpoint, "seed": 7, "stage": stage}})
        runs.append(("end=hard", run))
    write_regime(runs, tmp_path / "regime.csv")
    return tmp_path / "regime.csv"


def test_what_a_temperature_gives_is_no_room_to_learn(path):
    assert regime_table(path).loc[("end=hard", "student", "best"), "hard"] == "1.000"
    found = criteria(path, ["hard"]).set_index("criterion")
    assert found["points"].tolist() == [0.0, -25.0, 0.0, 0.0, -50.0]
    assert not found["met"].any()
    rows = pd.read_csv(path)
    rows.loc[rows["decoding"] == "best", "hard"] = [0.1, 0.4]
    rows.assign(known=0.5).to_csv(path, index=False)
    found = criteria(path, ["hard"]).set_index("criterion")
    assert found["points"].tolist() == pytest.approx([90.0, 65.0, 30.0, 60.0, 40.0, 0.0])
    assert found["met"].all()
    assert found.index[-1] == "the bridge keeps what was known outside the pool, known"
    path.unlink()
    with pytest.raises(StudyError, match="make it with `make regime`"):
        regime_table(path)


def curves(*rows, profile="one", warmup=0.0, stage="opd") -> pd.DataFrame:
    """Trials from (checkpoint, learning_rate, accuracies at the ends of runs of 25, 50, ... steps)."""
    of = {"profile": profile, "stage": stage, "role": "student", "warmup": warmup}
    return pd.DataFrame(
        of | {"checkpoint": checkpoint, "learning_rate": rate, "steps": 25 * i, "step": step, "accuracy": accuracy}
        for checkpoint, rate, ends in rows
        for i, end in enumerate(ends, start=1)
        for step, accuracy in [(0, 0.1), (10, 0.99), (25 * i, end)]
    )


def test_the_rate_of_the_best_end_and_the_fewest_steps_within_a_point_of_it():
    trials = curves(("a", 1e-3, [0.3, 0.695, 0.70, 0.69]), ("a", 2e-3, [0.695] * 4))
    row = choose(trials).iloc[0]  # and not the 0.99 that every curve has at step 10
    assert (row["learning_rate"], row["steps"], row["accuracy"]) == (1e-3, 50, 0.695)
    assert row["tried"] == "rates 0.001 or 0.002; 25 or 50 or 75 or 100 steps"
    assert choose(trials[trials["steps"] < 50], up_to=1e-3)["learning_rate"].item() == 1e-3
    assert choose(trials, by="best")["accuracy"].item() == 0.99


def test_a_stage_tried_on_several_checkpoints_or_profiles_counts_by_their_mean():
    ends = {("a", 1e-3): [0.8, 0.8], ("b", 1e-3): [0.1, 0.1], ("a", 2e-3): [0.6, 0.7], ("b", 2e-3): [0.5, 0.7]}
    row = choose(curves(*((*what, end) for what, end in ends.items()))).iloc[0]
    assert (row["learning_rate"], row["steps"]) == (2e-3, 50)
    first = curves(("a", 1e-3, [0.9]), ("a", 2e-3, [0.5]))
    both = pd.concat([first, curves(("a", 1e-3, [0.1]), ("a", 2e-3, [0.6]), profile="two")])
    assert choose(first)["learning_rate"].item() == 1e-3
    row = choose(both).iloc[0]
    assert (row["learning_rate"], row["accuracy"]) == (2e-3, 0.55)
    titles = [axes.get_title(loc="left").split("\n")[0] for axes in trials_figure(both, choose(both)).axes]
    assert titles == ["one, a", "two, a"]


def test_a_bridge_is_chosen_with_its_share_of_warmup():
    ends = {0.25: 0.5, 0.5: 0.7, 0.75: 0.6}
    trials = pd.concat(curves(("b", 1e-3, [end] * 8), warmup=share, stage="bridge") for share, end in ends.items())
    choice = choose(trials[trials["steps"] == 200])
    row = choice.iloc[0]
    assert (row["warmup"], row["steps"], row["accuracy"]) == (0.5, 200, 0.7)
    assert row["tried"] == "rates 0.001; 200 steps; 0.25 or 0.5 or 0.75 of them warmup"
    (found,) = misfits(choice, load_profile("map", {"stages": {"forward_kl": {"steps": 50}, "opd": {"steps": 150}}}))
    assert found == "bridge of student: warmup is 0.25, chosen was 0.5"
    labels = [text.get_text() for text in trials_figure(trials, choice).legends[0].get_texts()]
    assert labels == ["warmup 0.25", "warmup 0.5", "warmup 0.75"]


@pytest.mark.parametrize("profile", [name for name in profile_names() if load_profile(name).regime])
def test_the_profile_has_what_was_chosen(root, profile):
    path = root / "figures" / profile / "trials.csv"
    if not path.is_file():
        assert not (root / "figures" / profile / "results").exists(), "results of a profile whose regime is not frozen"
        pytest.skip(f"the trials of profile {profile} have not been run")
    settings = load_profile(profile)
    assert misfits(choose(read_regime(path), settings.regime.count_by, settings.regime.rates_up_to), settings) == []


def test_trials_are_made_on_the_other_profiles_too():
    regime, found, jobs = (f("micro-arithmetic") for f in (load_profile, regime_trials, regime_jobs))
    assert {trial.resolved.profile for trial in found} == {"micro-arithmetic", *regime.regime.also_on}
    assert {trial.resolved.hash for trial in found} <= set(jobs)
    assert len({job.rule for job in jobs.values()}) == len(jobs)
