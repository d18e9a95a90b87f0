"""A claims file against results: verdicts with known truth, nothing dropped, nothing unfair."""

import dataclasses

import pytest

from s2d_lib.claims import Results, claim_verdict, evaluate
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle


def verdict(outcomes, claim):
    return claim_verdict([o.result for o in outcomes if o.claim == claim and o.verdict != "no set"])


def test_known_truths_get_their_verdicts(claims, study, results):
    outcomes = evaluate(claims, study, results)
    assert {name: verdict(outcomes, name) for name in claims.claims} == {
        "C1": "holds", "C2": "contradicted", "C3": "holds", "C4": "not run", "C5": "not run",
    }  # fmt: skip
    assert len(outcomes) == 7


def test_what_was_not_run_says_why(claims, study, results):
    missing = {outcome.claim: outcome.missing for outcome in evaluate(claims, study, results)}
    assert missing["C1"] == ""
    assert "plays the Llama family" in missing["C4"]
    assert missing["C5"] == "no run of bridge.large in the results of profile micro"


def test_a_set_that_nothing_stands_for_is_said_and_not_in_the_verdict(claims, study, results):
    profile = results["Qwen3"].profile.model_copy(update={"stands_for": {"MATH": "micro-math"}})
    partly = {"Qwen3": dataclasses.replace(results["Qwen3"], profile=profile)}
    outcomes = evaluate(claims, study, partly)
    assert [(o.verdict, o.missing) for o in outcomes[:2]] == [
        ("holds", ""),
        ("no set", "no set stands for AIME 2024 in profile micro"),
    ]
    assert verdict(outcomes, "C1") == "holds"
    assert verdict(evaluate(edited(claims, "C1", sets=["AIME 2024"]), study, partly), "C1") == "no set"


def test_reasons_show_only_where_budgets_differ(claims, study, results):
    outcomes = {(o.better, o.than): o for o in evaluate(claims, study, results) if o.claim == "C3"}
    assert outcomes["bridge", "student.grpo"].reason == ""
    assert outcomes["student.grpo", "bridge.raw"].reason == "raw uses none"
    assert [b.labels for b in outcomes["student.grpo", "bridge.raw"].budgets] == [16, 0]


def edited(claims, name, **changes):
    """The claims with the first comparison of one of them changed."""
    claim = claims.claims[name]
    comparison = claim.comparisons[0].model_copy(update=changes)
    changed = claims.claims | {name: claim.model_copy(update={"comparisons": [comparison]})}
    return claims.model_copy(update={"claims": changed})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"better_first": ["bridge", "student.grpo_2H"]}, "use 16 and 8 distinct labeled problems.*`unequal_labels`"),
        ({"better_first": ["bridge", "bridge.raw"], "unequal_labels": "x"}, "160 and 0 gradings.*`unequal_gradings`"),
        ({"better_first": ["bridge", "student.grop"]}, "'C1' is about 'student.grop'.*did you mean 'student.grpo'"),
    ],
)
def test_unfair_or_unknown_comparisons_are_refused(claims, study, results, changes, sentence):
    with pytest.raises(StudyError, match=sentence):
        evaluate(edited(claims, "C1", **changes), study, results)


def test_gradings_within_the_tolerance_are_equal(claims, study, results):
    for seed in range(3):
        results["Qwen3"].bundle.records["student.grpo", seed]["label_use"]["gradings"] = 155
    assert evaluate(claims, study, results)[0].reason == ""
    with pytest.raises(StudyError, match="160 and 155 gradings"):
        evaluate(claims.model_copy(update={"gradings_tolerance": 0.0}), study, results)


def test_a_meaning_that_no_claim_knows_is_refused(claims, study, results):
    profile = results["Qwen3"].profile.model_copy(update={"stands_for": {"MAHT": "micro-math"}})
    with pytest.raises(StudyError, match=r"stands_for.MAHT is unknown in claims.yaml; did you mean 'MATH'"):
        evaluate(claims, study, {"Qwen3": Results("micro", profile, results["Qwen3"].bundle)})


def without(bundle, **where):
    """The bundle without the evaluation rows that match, and without the records of a removed seed."""
    rows = bundle.evaluation
    gone = rows[list(where)].eq(list(where.values())).all(axis=1)
    records = {
        key: record
        for key, record in bundle.records.items()
        if set(where) != {"checkpoint", "seed"} or key != (where["checkpoint"], where["seed"])
    }
    return Bundle(rows[~gone], bundle.curves, records)


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (
            {"checkpoint": "bridge", "seed": 2},
            r"'bridge' was run with seeds \[0, 1\] and 'student.grpo' with \[0, 1, 2\]",
        ),
        ({"checkpoint": "bridge", "problem": "micro-math/7"}, "not evaluated on the same problems of 'micro-math'"),
        ({"checkpoint": "bridge", "problem": "micro-math/7", "seed": 1}, "not evaluated on the same problems"),
        ({"checkpoint": "bridge", "set": "micro-math"}, "no results of 'bridge' on 'micro-math'"),
    ],
)
def test_missing_seeds_and_problems_are_refused(claims, study, results, where, sentence):
    partial = dataclasses.replace(results["Qwen3"], bundle=without(results["Qwen3"].bundle, **where))
    with pytest.raises(StudyError, match=f"claim 'C1', bridge against student.grpo on micro-math: .*{sentence}"):
        evaluate(claims, study, {"Qwen3": partial})


@pytest.mark.parametrize(
    ("run", "path", "sentence"),
    [
        (
            ("student.grpo", 2),
            ("params", "learning_rate"),
            "'student.grpo' have different parameters.*params.learning_rate",
        ),
        (("teacher.rl", 1), ("params", "learning_rate"), "'teacher.rl' have different parameters.*0.001 with seed 0"),
        (("bridge", 0), ("sampling", "temperature"), "'bridge' have different parameters"),
    ],
)
def test_runs_of_different_parameters_under_one_name_are_refused(claims, study, results, run, path, sentence):
    results["Qwen3"].bundle.records[run]["resolved"][path[0]][path[1]] = 0.5
    with pytest.raises(StudyError, match=sentence):
        evaluate(claims, study, results)


def test_sides_that_were_sampled_differently_are_refused(claims, study, results):
    for seed in range(3):
        results["Qwen3"].bundle.records["bridge", seed]["resolved"]["sampling"]["temperature"] = 0.5
    with pytest.raises(StudyError, match="evaluated with different sampling"):
        evaluate(claims, study, results)


def test_a_lost_ancestor_is_named(claims, study, results):
    del results["Qwen3"].bundle.records["teacher.rl", 0]
    with pytest.raises(StudyError, match=r"lack the run 'teacher.rl', seed 0"):
        evaluate(claims, study, results)
