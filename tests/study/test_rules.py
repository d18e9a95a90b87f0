"""Rules: what is laid over a profile's defaults for the runs that they match."""

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile, origins, resolve
from s2d_lib.study.several_processes import refuse_what_is_not_shared

REFINED = {
    "hardware": {"device": "cuda", "processes": 2},
    "rules": [
        {"match": {"stage": "sparse_rl"}, "set": {"hardware": {"threads": 2, "processes": 4}, "cluster": {"hours": 3}}},
        {
            "match": {"role": "teacher"},
            "set": {"hardware": {"processes": 8, "sampling_gpus": 2}, "cluster": {"partition": "long"}},
        },
    ],
}


def rule(set_: dict, **match) -> dict:
    """Overrides of one rule."""
    return {"rules": [{"match": match, "set": set_}]}


def test_a_later_rule_goes_before_an_earlier_one_and_both_before_the_defaults():
    found = {name: resolve("micro", name, 0, REFINED).hardware for name in ("student", "student.grpo", "teacher.rl")}
    settled = {name: (one.processes, one.threads, one.sampling_gpus) for name, one in found.items()}
    assert settled == {"student": (2, 1, 1), "student.grpo": (4, 2, 1), "teacher.rl": (8, 2, 2)}
    profile = load_profile("micro", REFINED)
    asked = {role: profile.block("cluster", "sparse_rl", role) for role in ("student", "teacher")}
    assert {role: (one.hours, one.partition) for role, one in asked.items()} == {
        "student": (3, None),
        "teacher": (3, "long"),
    }


def test_a_rule_sets_hyperparameters_and_blocks_at_once():
    over = rule({"hardware": {"threads": 3}, "learning_rate": 1e-4}, role="teacher", stage=["sparse_rl", "teacher_sft"])
    run = resolve("micro", "teacher.rl", 0, over)
    assert (run.hardware.threads, run.params["learning_rate"]) == (3, 1e-4)


def test_overrides_of_a_stage_stand_above_the_profiles_rules_and_below_their_own():
    steps = lambda name, over: resolve("micro", name, 0, over).params["steps"]  # noqa: E731
    assert (steps("teacher.rl", {}), steps("student.grpo", {})) == (140, 350)
    over = {"stages": {"sparse_rl": {"steps": 7}}}
    assert (
        steps("teacher.rl", over) == steps("student.grpo", over) == steps("student.bridge.rl_teacher.grpo", over) == 7
    )
    over |= rule({"steps": 9}, stage="sparse_rl", role="teacher")
    assert (steps("teacher.rl", over), steps("student.grpo", over)) == (9, 7)


def test_only_the_runs_that_are_refined_have_another_hash():
    own, cluster = rule({"hardware": {"threads": 2}}, role="teacher"), rule({"cluster": {"hours": 2}}, stage="opd")
    changed = {"rules": own["rules"] + cluster["rules"]}
    for name, same in (("student.grpo", True), ("teacher", False), ("teacher.rl", False)):
        assert (resolve("micro", name, 0).hash == resolve("micro", name, 0, changed).hash) == same
    assert "sampling_gpus" not in resolve("micro", "student", 0).model_dump()["hardware"]


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        (rule({"hardware": {"procezzes": 1}}, role="student"), "unknown parameter 'procezzes'"),
        (rule({"sampling": {"max_new_tokens": 0}}, role="student"), "max_new_tokens: Input should be greater than 0"),
        (rule({"steps": 2}, role="student"), "a rule that sets steps must match a stage: name it under `match`"),
        (rule({"stepz": 2}, stage="opd"), "sets 'stepz', which stage opd does not have"),
        (rule({"steps": 0}, stage="opd"), "steps: Input should be greater than 0"),
        (rule({"steps": 2}, stage="opdd"), "rules.2.match.stage"),
        (rule({"hardware": 3}, stage="opd"), "`hardware` is set key by key: give a mapping"),
        (rule({"cluster": {"hours": -1}}, stage="opd"), "hours: Input should be greater than 0"),
        (rule({"hardware": {"accelerate": "fsdp2.yaml"}}, stage="base"), "raise `processes`, or leave it out"),
        (rule({"hardware": {"sampling_gpus": 2}}, role="student"), "`sampling_gpus` are GPUs: set `device: cuda`"),
    ],
)
def test_what_does_not_fit_its_block_gets_one_sentence(over, sentence):
    with pytest.raises(StudyError) as error:
        resolve("micro", "student", 0, over)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dense_stage_needs_the_heads_on_its_gpus():
    over = rule({"hardware": {"accelerate": "fsdp2-offload.yaml"}}, stage="opd")
    refuse_what_is_not_shared(resolve("qwen3", "student.bridge.raw_teacher", 0))
    with pytest.raises(StudyError, match=r"opd reads the models' heads .* name fsdp2\.yaml for it"):
        refuse_what_is_not_shared(resolve("qwen3", "student.bridge.raw_teacher", 0, over))


def test_it_is_said_where_every_hyperparameter_comes_from():
    said = origins(resolve("micro", "teacher.rl_1H", 0, {"stages": {"sparse_rl": {"learning_rate": 1e-4}}}))
    teacher = "rule 1 (stage sparse_rl, role ['teacher', 'large_teacher', 'split_teacher'])"
    assert said["steps"] == f"{teacher}, half of them on half of the labels"
    assert (said["learning_rate"], said["batch"], said["kl_coefficient"]) == ("overrides", "stages", "default")
    assert (
        origins(resolve("micro", "student.opd_only.rl_teacher", 0))["steps"]
        == "study.yaml: steps of forward_kl and opd"
    )
    assert origins(resolve("micro", "student.bridge.rl_teacher.topk_tail", 0))["top_k"] == "study.yaml"
    assert origins(resolve("micro", "student.bridge.rl_teacher.grpo", 0))["steps"].startswith("rule 2 (stage [")
    assert origins(resolve("micro", "student", 0)) == {}
