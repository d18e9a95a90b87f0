"""Contrasts of chosen pairs: the right differences of the right pairs, and refusals."""

import dataclasses

import pandas as pd
import pytest

from s2d_lib.claims import Results
from s2d_lib.errors import StudyError
from s2d_lib.report.contrasts import CONTRASTS, contrasts, readable_contrasts, title_of, write_contrasts
from s2d_lib.results.bundle import Bundle
from s2d_lib.study import load_profile, load_study
from tests.report.synthetic import bundle_of_profile


def test_every_pair_is_declared_in_the_study():
    declared = load_study().checkpoints
    assert {side for _, pairs in CONTRASTS.values() for pair in pairs for side in pair} <= set(declared)


@pytest.fixture(scope="module")
def crossed():
    """Of the crossing's own profile, the only one with its routes."""
    bundle = bundle_of_profile("micro-crossing", tables=("crossing",))
    return Results("micro-crossing", load_profile("micro-crossing"), bundle)


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_difference_is_that_of_the_pairs_means(full, crossed, name):
    results = crossed if name == "crossing_pairs" else full
    numbers = contrasts(results, name)
    assert len(numbers) == len(CONTRASTS[name][1])
    for row in numbers.to_dict("records"):
        first, second = (
            results.bundle.accuracy(row[side], "micro-math").to_numpy().mean() for side in ("first", "second")
        )
        assert row["micro-math difference"] == pytest.approx(first - second)
        assert row["micro-math difference low"] < row["micro-math difference"] < row["micro-math difference high"]


def test_published_differences_stand_beside_and_budgets_of_both_sides(full):
    fresh = contrasts(full, "stage_3").iloc[1]
    assert (fresh["first"], fresh["second"]) == (
        "student.bridge.rl_teacher_1H.grpo_2H", "student.bridge.rl_teacher_1H.replay_1H",
    )  # fmt: skip
    assert fresh[["micro-math published", "micro-aime published", "AIME 2025 published"]].tolist() == [2.8, 2.1, 1.5]
    assert (fresh["labels first"], fresh["labels second"]) == (32, 16)
    assert fresh["gradings first"] == fresh["gradings second"]


def test_the_three_forms(full, tmp_path):
    numbers = contrasts(full, "transfers")
    write_contrasts(full, numbers, "transfers", tmp_path)
    assert pd.read_csv(tmp_path / "transfers.csv")["first"].tolist() == numbers["first"].tolist()
    text = (tmp_path / "transfers.md").read_text()
    assert text.startswith(f"**{title_of('transfers')}**")
    assert "[OPD only, RL teacher](runs/student.opd_only.rl_teacher.md)" in text
    assert readable_contrasts(full, numbers)["AIME 2025, published"].tolist()[0] == "-1.3 (18.9 - 20.2)"


def test_a_missing_run_is_named(full):
    records = {key: r for key, r in full.bundle.records.items() if key[0] != "student.bridge.rl_large_teacher"}
    partial = dataclasses.replace(full, bundle=Bundle(full.bundle.evaluation, full.bundle.curves, records))
    with pytest.raises(StudyError, match=r"hold no run of 'student\.bridge\.rl_large_teacher'"):
        contrasts(partial, "placement")


def test_pairs_with_other_seeds_are_refused(full):
    records = {key: r for key, r in full.bundle.records.items() if key != ("student.bridge.rl_teacher", 1)}
    partial = dataclasses.replace(full, bundle=Bundle(full.bundle.evaluation, full.bundle.curves, records))
    with pytest.raises(StudyError, match=r"'student.bridge.rl_teacher' was run with seeds \[0\].*with \[0, 1\]"):
        contrasts(partial, "placement")
