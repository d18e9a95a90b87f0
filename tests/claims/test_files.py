"""claims.yaml and `stands_for`: what is committed is valid, what is wrong gets one sentence."""

import pytest

from s2d_lib.claims import evaluate, load_claims, load_published
from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile, load_study, resolve

HEAD = """
sets: [MATH]
gradings_tolerance: 0.05
families: {micro: {Qwen3: micro}}
claims:
  A1:
    sentence: s
    source: s
"""


def test_the_committed_claims_are_all_there():
    claims = load_claims()
    assert list(claims.claims) == [f"P{n}" for n in range(1, 4)] + [f"A{n}" for n in range(1, 14)]
    on = {name: {meant for c in claim.comparisons for meant in c.sets} for name, claim in claims.claims.items()}
    assert {name for name, sets in on.items() if sets == {"MATH"}} == {"A5", "A10", "A11"}
    assert on["A6"] == {"AIME 2024", "AIME 2025"}
    assert on["A4"] == {"MATH", "AIME 2024"}
    assert all(len(on[name]) == 3 for name in set(on) - {"A4", "A5", "A6", "A10", "A11"})


def test_every_comparison_of_a_claim_is_printed_by_the_paper():
    published = load_published()
    for outcome in evaluate(load_claims(), load_study(), {}):
        assert published.difference(outcome.family, outcome.better, outcome.than, outcome.meant), outcome


def test_every_claim_is_about_checkpoints_of_the_study_and_none_is_dropped():
    outcomes = evaluate(load_claims(), load_study(), {})
    assert {outcome.claim for outcome in outcomes} == set(load_claims().claims)
    assert all(outcome.missing for outcome in outcomes)


def test_paper_bs_claims_are_all_there_and_about_methods_of_their_table():
    study, courses = load_study(), load_claims().courses
    assert list(courses["micro-srpo"].claims) == [f"B{n}" for n in range(1, 9)]
    for spec in courses.values():
        moments = [m for claim in spec.claims.values() for c in claim.comparisons for m in c.better_first]
        assert set(spec.stands_for) <= set(spec.profiles)
        assert set(spec.stands_for.values()) <= set(load_published().problems["B"])
        named = {name for m in moments for name in (m.checkpoint, m.minus) if name}
        assert named <= set(study.tables[spec.table].rows)
        assert all(spec.table in load_profile(name).tables for name in spec.profiles)


def test_the_maps_predictions_are_about_the_study_and_say_what_would_contradict_them():
    predictions = load_claims().map
    assert {p.part for p in predictions.values()} == set("ABCDEF")
    assert {name for p in predictions.values() for name in p.compares} <= set(load_study().checkpoints)
    assert all(name.startswith(f"M{p.part}") for name, p in predictions.items())


def test_every_difference_in_labels_by_design_has_its_reason():
    for claim in load_claims().claims.values():
        for comparison in claim.comparisons:
            raw = any("raw_" in name for name in comparison.better_first)
            replayed = any(name.endswith("replay_1H") for name in comparison.better_first)
            assert bool(comparison.unequal_labels) >= (raw or replayed)
            assert not (replayed and comparison.unequal_gradings)  # at equal updates


@pytest.mark.parametrize(
    ("family", "comparisons", "sentence"),
    [
        ("Qwen3", "[{better_first: [a, b], sets: [MAHT]}]", "'MAHT', not in `sets`; did you mean 'MATH'"),
        ("Qwen", "[{better_first: [a, b], sets: [MATH]}]", "'Qwen', not in `families`; did you mean 'Qwen3'"),
        ("Qwen3", "[{better_first: [a], sets: [MATH]}]", "better_first"),
        ("Qwen3", "[{better_first: [a, b, a], sets: [MATH]}]", "stands twice"),
        ("Qwen3", "[{better_first: [a, b], sets: [MATH], margn: 1}]", "unknown parameter.*margn"),
        ("Qwen3", "[]", "comparisons"),
    ],
)
def test_broken_claims_get_one_sentence(tmp_path, family, comparisons, sentence):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "claims.yaml").write_text(f"{HEAD}    family: {family}\n    comparisons: {comparisons}\n")
    with pytest.raises(StudyError, match=sentence) as error:
        load_claims(tmp_path)
    assert "\n" not in str(error.value)


def test_a_stand_in_must_be_an_evaluation_set():
    with pytest.raises(StudyError, match=r"stands_for.MATH names 'micro-mat', which is no evaluation set"):
        load_profile("micro", {"stands_for": {"MATH": "micro-mat"}})
    with pytest.raises(StudyError, match="two meanings"):
        load_profile("micro", {"stands_for": {"MATH": "micro-math", "AIME 2024": "micro-math"}})


def test_what_a_set_stands_for_makes_no_run_stale():
    named = {"stands_for": {"MATH": "micro-aime", "AIME 2024": "micro-math"}}
    assert (
        resolve("micro", "student.bridge.rl_teacher", 0).hash
        == resolve("micro", "student.bridge.rl_teacher", 0, named).hash
    )
