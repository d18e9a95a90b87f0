"""Premises: a bound is missed only where the whole interval lies beyond it, and asked only of what a route was made from."""

import dataclasses
from math import nan

import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims import Claims, Results, evaluate, load_claims
from s2d_lib.claims.bootstrap import Estimate
from s2d_lib.claims.premises import ONLY, Measured
from s2d_lib.claims.schema import Condition
from s2d_lib.errors import StudyError
from tests.claims.conftest import ACCURACIES, RUNS
from tests.claims.synthetic import bundle_of

UNTRAINED = {"micro-math": 0.2, "micro-aime": 0.1}
TRAINED = {"teacher.rl": {"micro-math": 0.95, "micro-aime": 0.7}}
COLUMN = "forward_kl/teacher_states"
PREMISES = {
    "good": {
        "of": ["teacher.rl"],
        "conditions": [{"set": "MATH", "at_least": 0.8}, {"minus": "base", "at_least": 0.1}],
    },
    "room": {"of": ["student"], "conditions": [{"minus": "teacher.rl", "at_most": -0.2}]},
    "far": {"of": ["teacher.rl"], "conditions": [{"measure": COLUMN, "at_least": 0.25}]},
}


@pytest.mark.parametrize(
    ("bound", "value", "state"),
    [
        ({"at_least": 0.8}, (0.9, 0.8, 0.95), "present"),
        ({"at_least": 0.8}, (0.85, 0.79, 0.9), "unclear"),
        ({"at_least": 0.8}, (0.7, 0.6, 0.79), "absent"),
        ({"at_most": -0.2}, (-0.1, -0.15, -0.05), "absent"),
        ({"at_most": -0.2}, (-0.3, -0.4, -0.2), "present"),
        ({"at_least": 0.8}, (0.1, nan, nan), "unclear"),
        ({"at_least": 0.8}, None, "not measured"),
    ],
)
def test_a_premise_is_absent_only_with_its_whole_interval(bound, value, state):
    assert Measured("x", Condition(**bound), "a", estimate=value and Estimate(*value)).state == state


@pytest.fixture
def asking(claims):
    """The claims of the small study, C1 and C3 with every premise."""
    content = claims.model_dump()
    content["premises"] = {name: {"sentence": "S.", "source": "ours"} | premise for name, premise in PREMISES.items()}
    for name in ("C1", "C3"):
        content["claims"][name]["premises"] = list(PREMISES)
    return Claims.model_validate(content)


@pytest.fixture
def measured(results):
    """Results in which base models and the teacher are evaluated too."""
    accuracies = ACCURACIES | {"student": UNTRAINED, "teacher": UNTRAINED} | TRAINED
    made = bundle_of(accuracies, RUNS, 3, {"micro-math": 80, "micro-aime": 40}, np.random.default_rng(0))
    return {"Qwen3": dataclasses.replace(results["Qwen3"], bundle=made)}


def with_bundle(results: dict[str, Results], **changes) -> dict[str, Results]:
    bundle = dataclasses.replace(results["Qwen3"].bundle, **changes)
    return {"Qwen3": dataclasses.replace(results["Qwen3"], bundle=bundle)}


def states(outcome) -> list[tuple[str, str]]:
    return [(m.premise, m.state) for m in outcome.premises]


def test_a_premise_that_is_there_or_not_measured_changes_no_verdict(asking, study, measured, results):
    first = evaluate(asking, study, measured)[0]
    assert states(first) == [("good", "present")] * 2 + [("room", "present"), ("far", "not measured")]
    assert first.premises[2].decodings == {"student": ONLY}
    assert (first.verdict, first.by_numbers) == ("holds", "holds")
    unknown = evaluate(asking, study, results)[0]  # nothing but the routes themselves was evaluated
    assert {state for _, state in states(unknown)} == {"not measured"}
    assert unknown.verdict == "holds"


def test_base_models_count_at_their_best_decoding(asking, study, measured):
    rows = measured["Qwen3"].bundle.evaluation
    greedy = rows[rows["checkpoint"] == "student"].assign(correct="1")
    decoded = pd.concat([rows.assign(decoding="T 1"), greedy.assign(decoding="greedy")])
    outcomes = evaluate(asking, study, with_bundle(measured, decoded=decoded))
    room = outcomes[0].premises[2]
    assert (room.state, room.decodings) == ("absent", {"student": "greedy"})
    assert 0 < room.estimate.mean < 0.2  # all right greedily, where the teacher has a few wrong
    assert (outcomes[0].verdict, outcomes[0].by_numbers) == ("premise absent", "holds")


def test_what_is_measured_while_training_is_that_before_the_first_step(asking, study, measured):
    rows = [
        {"seed": seed, "checkpoint": "teacher.rl", "step": step, COLUMN: value + seed / 1000}
        for seed in range(3)
        for step, value in ((50, 9.0), (0, 0.1))
    ]
    far = evaluate(asking, study, with_bundle(measured, validation=pd.DataFrame(rows)))[0].premises[-1]
    assert (far.estimate.mean, far.state) == (pytest.approx(0.101), "absent")


def test_one_seed_misses_nothing(asking, study, measured):
    bundle = measured["Qwen3"].bundle
    rows = bundle.evaluation[bundle.evaluation["seed"] == 0]
    rows = rows.assign(correct=rows["correct"].where(rows["checkpoint"] != "student", "1"))
    records = {key: record for key, record in bundle.records.items() if key[1] == 0}
    outcome = evaluate(asking, study, with_bundle(measured, evaluation=rows, records=records))[0]
    assert ("room", "unclear") in states(outcome)


def test_a_premise_is_asked_only_of_what_the_routes_were_made_from(asking, study, measured):
    links = [o for o in evaluate(asking, study, measured) if o.claim == "C3"]
    assert [len(link.premises) for link in links] == [4, 1]  # the raw teacher's bridge has no RL teacher
    comparison = asking.claims["C3"].comparisons[0].model_copy(update={"premises": []})
    claim = asking.claims["C3"].model_copy(update={"comparisons": [comparison]})
    none = asking.model_copy(update={"claims": {"C3": claim}})
    assert not any(o.premises for o in evaluate(none, study, measured))


def test_a_premise_about_an_unknown_checkpoint_is_refused(asking, study, measured):
    room = asking.premises["room"].model_copy(update={"of": ["studnet"]})
    with pytest.raises(StudyError, match=r"premise 'room' is about 'studnet'.*did you mean 'student'"):
        evaluate(asking.model_copy(update={"premises": {"room": room}}), study, measured)


def test_every_committed_claim_presupposes_something_and_every_premise_is_used():
    claims = load_claims()
    assert all(claim.premises for claim in claims.claims.values())
    assert {name for claim in claims.claims.values() for name in claim.premises} == set(claims.premises)
