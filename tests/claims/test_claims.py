"""Claims against results: verdicts with known truth, nothing dropped, nothing unfair, nothing tested without its premises."""

import dataclasses
from math import nan

import pandas as pd
import pytest

from s2d_lib.claims import Claims, Estimate, Results, claim_verdict, evaluate
from s2d_lib.claims.fair import ONLY, Measured
from s2d_lib.claims.schema import Condition
from s2d_lib.errors import StudyError


def verdict(outcomes, claim):
    return claim_verdict([o.result for o in outcomes if o.claim == claim and o.verdict != "no set"])


def test_known_truths_get_their_verdicts_and_what_was_not_run_says_why(claims, study, results):
    outcomes = evaluate(claims, study, results)
    assert {name: verdict(outcomes, name) for name in claims.claims} == {
        "C1": "holds", "C2": "contradicted", "C3": "holds", "C4": "not run", "C5": "not run",
    }  # fmt: skip
    assert len(outcomes) == 7
    missing = {outcome.claim: outcome.missing for outcome in outcomes}
    assert missing["C1"] == ""
    assert "plays the Llama family" in missing["C4"]
    assert missing["C5"] == "no run of bridge.large in the results of profile micro"


def test_a_set_that_nothing_stands_for_is_said_and_not_in_the_verdict(claims, study, results):
    partly = standing_for(results, {"MATH": "micro-math"})
    outcomes = evaluate(claims, study, partly)
    assert [o.verdict for o in outcomes[:2]] == ["holds", "no set"]
    assert outcomes[1].missing == "no set stands for AIME 2024 in profile micro"
    assert verdict(outcomes, "C1") == "holds"
    assert verdict(evaluate(edited(claims, "C1", sets=["AIME 2024"]), study, partly), "C1") == "no set"


def edited(claims, name, **changes):
    """The claims with the first comparison of one of them changed."""
    claim = claims.claims[name]
    comparison = claim.comparisons[0].model_copy(update=changes)
    changed = claims.claims | {name: claim.model_copy(update={"comparisons": [comparison]})}
    return claims.model_copy(update={"claims": changed})


def standing_for(results, sets: dict[str, str]) -> dict[str, Results]:
    profile = results["Qwen3"].profile.model_copy(update={"stands_for": sets})
    return {"Qwen3": dataclasses.replace(results["Qwen3"], profile=profile)}


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


def test_unequal_budgets_have_a_reason_and_gradings_a_tolerance(claims, study, results):
    found = {(o.better, o.than): o for o in evaluate(claims, study, results) if o.claim == "C3"}
    assert found["bridge", "student.grpo"].reason == ""
    assert found["student.grpo", "bridge.raw"].reason == "raw uses none"
    assert [b.labels for b in found["student.grpo", "bridge.raw"].budgets] == [16, 0]
    for seed in range(3):
        results["Qwen3"].bundle.records["student.grpo", seed]["label_use"]["gradings"] = 155
    assert evaluate(claims, study, results)[0].reason == ""
    with pytest.raises(StudyError, match="160 and 155 gradings"):
        evaluate(claims.model_copy(update={"gradings_tolerance": 0.0}), study, results)


def test_names_that_are_unknown_are_refused(claims, asking, study, results):
    with pytest.raises(StudyError, match=r"`stands_for` has 'MAHT', unknown in claims.yaml; did you mean 'MATH'"):
        evaluate(claims, study, standing_for(results, {"MAHT": "micro-math"}))
    room = asking.premises["room"].model_copy(update={"of": ["studnet"]})
    with pytest.raises(StudyError, match=r"premise 'room' is about 'studnet'.*did you mean 'student'"):
        evaluate(asking.model_copy(update={"premises": {"room": room}}), study, results)


def without(bundle, **where):
    """Results that lack the rows of these values."""
    gone = bundle.evaluation[list(where)].eq(list(where.values())).all(axis=1)
    bundle.evaluation.drop(bundle.evaluation.index[gone], inplace=True)


def change(bundle, **settings):
    for seed in range(3):
        bundle.records["bridge", seed]["resolved"].update(settings)


PAIR = "claim 'C1', bridge against student.grpo on micro-math: "


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda b: b.records.pop(("bridge", 2)), r"'bridge' was run with seeds \[0, 1\] and 'student.grpo' with \[0, 1, 2\]"),
        (lambda b: without(b, checkpoint="bridge", problem="micro-math/7"), "the same problems of 'micro-math'"),
        (lambda b: without(b, checkpoint="bridge", problem="micro-math/7", seed=1), "'bridge' was not evaluated"),
        (lambda b: without(b, checkpoint="bridge", set="micro-math"), "no results of 'bridge' on 'micro-math'"),
        (lambda b: b.records["student.grpo", 2]["resolved"].update(params=7), "'student.grpo' have .*params differs"),
        (lambda b: b.records["teacher.rl", 1]["resolved"].update(params=7), "'teacher.rl' have .*params differs"),
        (lambda b: b.records["teacher.rl", 0].update(hash="another"), "'bridge', seed 0, was made from a run 'teacher.rl'"),
        (lambda b: b.records.pop(("teacher.rl", 0)), "lack the run 'teacher.rl', seed 0"),
        (lambda b: change(b, sampling={"temperature": 1.0, "max_new_tokens": 9}), "evaluated with different sampling"),
        # of two vocabularies limits may differ, as they count tokens, and the table `vocabularies` needs it; nothing else may
        (lambda b: change(b, sampling={}, model={}), "evaluated with different sampling"),
    ],
)  # fmt: skip
def test_runs_that_do_not_belong_together_are_refused(claims, study, results, spoil, sentence):
    spoil(results["Qwen3"].bundle)
    with pytest.raises(StudyError, match=f"{PAIR}.*{sentence}"):
        evaluate(claims, study, results)


COLUMN = "forward_kl/teacher_states"
PREMISES = {
    "good": {"of": ["teacher.rl"], "conditions": [{"set": "MATH", "at_least": 0.8}, {"minus": "base", "at_least": 0.1}]},
    "room": {"of": ["student"], "conditions": [{"minus": "teacher.rl", "at_most": -0.2}]},
    "far": {"of": ["teacher.rl"], "conditions": [{"measure": COLUMN, "at_least": 0.25}]},
}  # fmt: skip


def test_a_premise_is_absent_only_with_its_whole_interval():
    at_least, at_most = Condition(at_least=0.8), Condition(at_most=-0.2)
    state = lambda bound, *estimate: Measured("x", bound, "a", estimate=Estimate(*estimate)).state  # noqa: E731
    assert state(at_least, 0.9, 0.8, 0.95) == state(at_most, -0.3, -0.4, -0.2) == "present"
    assert state(at_least, 0.85, 0.79, 0.9) == state(at_least, 0.1, nan, nan) == "unclear"
    assert state(at_least, 0.7, 0.6, 0.79) == state(at_most, -0.1, -0.15, -0.05) == "absent"


@pytest.fixture
def asking(claims):
    """The claims of the small study, C1 and C3 with every premise."""
    content = claims.model_dump()
    content["premises"] = {name: {"sentence": "S.", "source": "ours"} | premise for name, premise in PREMISES.items()}
    for name in ("C1", "C3"):
        content["claims"][name]["premises"] = list(PREMISES)
    return Claims.model_validate(content)


def with_bundle(results: dict[str, Results], **changes) -> dict[str, Results]:
    bundle = dataclasses.replace(results["Qwen3"].bundle, **changes)
    return {"Qwen3": dataclasses.replace(results["Qwen3"], bundle=bundle)}


def states(outcome) -> list[tuple[str, str]]:
    return [(m.premise, m.state) for m in outcome.premises]


def test_a_premise_that_is_there_or_not_measured_changes_no_verdict(asking, study, results):
    outcomes = evaluate(asking, study, results)
    assert states(outcomes[0]) == [("good", "present")] * 2 + [("room", "present"), ("far", "not measured")]
    assert outcomes[0].premises[2].decodings == {"student": ONLY}
    assert (outcomes[0].verdict, outcomes[0].by_numbers) == ("holds", "holds")
    # asked only of what the routes were made from: the raw teacher's bridge has no RL teacher
    assert [len(link.premises) for link in outcomes if link.claim == "C3"] == [4, 1]
    assert not any(o.premises for o in evaluate(edited(asking, "C1", premises=[]), study, results)[:2])
    rows = results["Qwen3"].bundle.evaluation
    routes = rows[rows["checkpoint"].isin(["bridge", "student.grpo", "bridge.raw"])]
    unknown = evaluate(asking, study, with_bundle(results, evaluation=routes))[0]
    assert {state for _, state in states(unknown)} == {"not measured"}
    assert unknown.verdict == "holds"


def test_base_models_count_at_their_best_decoding(asking, study, results):
    rows = results["Qwen3"].bundle.evaluation
    greedy = rows[rows["checkpoint"] == "student"].assign(correct="1")
    decoded = pd.concat([rows.assign(decoding="T 1"), greedy.assign(decoding="greedy")])
    outcome = evaluate(asking, study, with_bundle(results, decoded=decoded))[0]
    room = outcome.premises[2]
    assert (room.state, room.decodings) == ("absent", {"student": "greedy"})
    assert 0 < room.estimate.mean < 0.2  # all right greedily, where the teacher has a few wrong
    assert (outcome.verdict, outcome.by_numbers) == ("premise absent", "holds")


def test_what_is_measured_while_training_is_that_before_the_first_step(asking, study, results):
    rows = [("teacher.rl", seed, *at) for seed in range(3) for at in ((50, 9.0), (0, 0.1 + seed / 1000))]
    validation = pd.DataFrame(rows, columns=["checkpoint", "seed", "step", COLUMN])
    far = evaluate(asking, study, with_bundle(results, validation=validation))[0].premises[-1]
    assert (far.estimate.mean, far.state) == (pytest.approx(0.101), "absent")


def test_one_seed_misses_nothing(asking, study, results):
    bundle = results["Qwen3"].bundle
    rows = bundle.evaluation[bundle.evaluation["seed"] == 0]
    rows = rows.assign(correct=rows["correct"].where(rows["checkpoint"] != "student", "1"))
    records = {key: record for key, record in bundle.records.items() if key[1] == 0}
    outcome = evaluate(asking, study, with_bundle(results, evaluation=rows, records=records))[0]
    assert ("room", "unclear") in states(outcome)
