"""Hyperparameters of self-distillation: what a method does not read is refused, and stays behind where methods change."""

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge
from tests.conftest import TINY

PLAIN = {"steps": 8, "batch": 16, "micro_batch": 8, "group_size": 4, "learning_rate": 1e-3, "save_steps": 4}


def resolved(checkpoint, **block):
    stages = {name: value for name, value in TINY["stages"].items() if name != "self_distillation"}
    overrides = deep_merge(TINY, {"stages": stages})
    overrides = {**overrides, "stages": {**stages, "self_distillation": PLAIN | block}}
    return resolve("micro", checkpoint, 0, overrides)


@pytest.mark.parametrize(
    ("checkpoint", "block", "sentence"),
    [
        ("student.srpo", {"method": "srpo", "mix": 0.9}, "`mix` is not read by method srpo (only by advantage_mix)"),
        ("student.srpo", {"method": "sdpo", "weight_beta": 1.0}, "`weight_beta` is not read by method sdpo"),
        ("student.srpo", {"method": "sdpo", "epsilon_high": 0.2}, "`epsilon_high` is not read by method sdpo"),
        ("student.srpo", {"method": "advantage_mix", "top_k": 4}, "`top_k` is not read by method advantage_mix"),
        ("student.srpo", {"method": "grpo", "ema_rate": 0.1}, "`ema_rate` is not read by method grpo"),
        ("student.srpo", {"method": "srpo", "sdpo_on": "failed"}, "`sdpo_on` is not read by method srpo"),
        ("student.srpo", {"method": "srpo", "dynamic_weighting": False, "weight_beta": 2}, "srpo without dynamic_weighting"),
        ("student.srpo", {"method": "srpo", "length_window": 5}, "a run without length_floor"),
        ("student.srpo", {"method": "srop"}, "Input should be 'grpo', 'sdpo', 'srpo' or 'advantage_mix'"),
        ("student.srpo", {"method": "srpo", "reprompt": "{solution"}, "not a template"),
        ("student.srpo", {"method": "srpo", "reprompt": "{solution} {question} {answer}"}, "each once and no others"),
        ("student.srpo", {"method": "srpo", "feedback_reprompt": "{question}"}, "{question} and {feedback}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_gets_one_sentence(checkpoint, block, sentence):
    with pytest.raises(StudyError) as error:
        resolved(checkpoint, **block)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_holds_what_its_method_reads_and_nothing_else():
    block = {"method": "srpo", "weight_beta": 2.0, "top_k": None, "epsilon_high": 0.3}
    srpo, sdpo, mix = (resolved(f"student.{name}", **block).params for name in ("srpo", "sdpo", "advantage_mix"))
    assert srpo["weight_beta"] == 2
    assert srpo["top_k"] is sdpo["top_k"] is None
    assert {"mix", "sdpo_on", "length_window"}.isdisjoint(srpo)
    assert {"epsilon_high", "weight_beta", "dynamic_weighting", "mix"}.isdisjoint(sdpo)
    assert mix["epsilon_high"] == 0.3
    assert mix["mix"] == 0.9
    assert {"top_k", "beta", "ratio_clamp"}.isdisjoint(mix)
    assert "weight_beta" not in resolved("student.srpo.no_dw", **block).params
    run = resolved("student.sdpo.failed_only", **block)
    assert run.stage_params.sdpo_on == "failed"
    assert run.stage_params.model_dump() == run.params


def test_a_rule_may_leave_other_options_unread():
    overrides = {"stages": {"self_distillation": PLAIN | {"method": "srpo"}}}
    match = {"stage": "self_distillation", "role": "student"}
    role = {"rules": [{"match": match, "set": {"dynamic_weighting": False, "steps": 6}}]}
    params = resolve("micro", "student.srpo", 0, deep_merge(overrides, role)).params
    assert (params["dynamic_weighting"], params["steps"]) == (False, 6)
    with pytest.raises(
        StudyError, match="there are no hyperparameters of stage 'self_distillation': add them under `stages`"
    ):
        resolve("micro", "student.srpo", 0, role)


def test_a_profile_without_the_stage_says_so():
    with pytest.raises(StudyError) as error:
        resolve("micro", "student.srpo", 0)
    assert str(error.value) == (
        "profile 'micro', checkpoint 'student.srpo': there are no hyperparameters of stage 'self_distillation': add them "
        "under `stages`."
    )


def test_a_benchmark_makes_every_method():
    for name in ("sdpo", "srpo", "advantage_mix", "srpo.no_dw", "sdpo.failed_only", "sdpo.correct_only"):
        assert resolve("micro-table-lookup", f"student.{name}", 0).stage == "self_distillation"


def rule(set_: dict, method: str = "sdpo") -> dict:
    """Overrides of one rule for a method."""
    return {"rules": [{"match": {"stage": "self_distillation", "method": method}, "set": set_}]}


def test_a_method_can_have_settings_of_its_own():
    rate = lambda name, given: resolve("micro-table-lookup", name, 0, given).params["learning_rate"]  # noqa: E731
    given = rule({"learning_rate": 0.123})
    assert rate("student.sdpo", given) == rate("student.sdpo.failed_only", given) == 0.123
    assert rate("student.srpo", given) == rate("student.srpo", {})
    with pytest.raises(StudyError, match="`mix` is not read by method sdpo"):
        resolve("micro-table-lookup", "student.sdpo", 0, rule({"mix": 0.5}))
    with pytest.raises(StudyError, match=r"rules\.\d+\.match\.method"):
        resolve("micro-table-lookup", "student.sdpo", 0, rule({"learning_rate": 0.1}, "spdo"))


def test_rules_of_a_method_a_role_and_of_stage_3():
    stage = {"stage": "self_distillation"}
    given = {
        "stages": {"self_distillation": PLAIN | {"method": "srpo"}},
        "rules": [
            {"match": stage | {"method": "srpo"}, "set": {"learning_rate": 0.1, "weight_beta": 2.0}},
            {"match": stage | {"role": "teacher"}, "set": {"learning_rate": 0.2}},
            {"match": stage | {"goes_on": True}, "set": {"learning_rate": 0.3}},
        ],
    }
    found = {name: resolve("micro", name, 0, given).params for name in ("student.srpo", "teacher.srpo")}
    assert [params["learning_rate"] for params in found.values()] == [0.1, 0.2]
    assert found["teacher.srpo"]["weight_beta"] == 2.0
    after_the_bridge = resolve("micro", "student.bridge.rl_teacher.srpo", 0, given).params
    assert (after_the_bridge["learning_rate"], after_the_bridge["weight_beta"]) == (0.3, 2.0)
