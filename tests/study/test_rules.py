"""Rules: what is laid over a profile's defaults for the runs that they match."""

from s2d_lib.study import load_profile, origins, resolve

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


def of(name: str, parameter: str, over: dict | None = None):
    """A hyperparameter of a micro run."""
    return resolve("micro", name, 0, over).params[parameter]


def test_a_later_rule_goes_before_an_earlier_one_and_both_before_the_defaults():
    found = {name: resolve("micro", name, 0, REFINED).hardware for name in ("student", "student.grpo", "teacher.rl")}
    settled = {name: (one.processes, one.threads, one.sampling_gpus) for name, one in found.items()}
    assert settled == {"student": (2, 1, 1), "student.grpo": (4, 2, 1), "teacher.rl": (8, 2, 2)}
    profile = load_profile("micro", REFINED)
    asked = [profile.block("cluster", "sparse_rl", role) for role in ("student", "teacher")]
    assert [(one.hours, one.partition) for one in asked] == [(3, None), (3, "long")]


def test_a_rule_sets_hyperparameters_and_blocks_at_once():
    over = rule({"hardware": {"threads": 3}, "learning_rate": 1e-4}, role="teacher", stage=["sparse_rl", "teacher_sft"])
    run = resolve("micro", "teacher.rl", 0, over)
    assert (run.hardware.threads, run.params["learning_rate"]) == (3, 1e-4)


def test_overrides_of_a_stage_stand_above_the_profiles_rules_and_below_their_own():
    names = ("teacher.rl", "student.grpo", "student.bridge.rl_teacher.grpo")
    own = {"stages": {"sparse_rl": {"steps": 7}}}
    again = own | rule({"steps": 9}, stage="sparse_rl", role="teacher")
    for over, steps in ({}, [140, 350, 175]), (own, [7, 7, 7]), (again, [9, 7, 7]):
        assert [of(name, "steps", over) for name in names] == steps


def test_it_is_said_where_every_hyperparameter_comes_from():
    said = origins(resolve("micro", "teacher.rl_1H", 0, {"stages": {"sparse_rl": {"learning_rate": 1e-4}}}))
    teacher = "rule 1 (stage sparse_rl, role ['teacher', 'large_teacher', 'split_teacher'])"
    assert said["steps"] == f"{teacher}, half of them on half of the labels"
    assert (said["learning_rate"], said["batch"], said["kl_coefficient"]) == ("overrides", "stages", "default")
    both = "study.yaml: steps of forward_kl and opd"
    assert origins(resolve("micro", "student.opd_only.rl_teacher", 0))["steps"] == both
    assert origins(resolve("micro", "student.bridge.rl_teacher.topk_tail", 0))["top_k"] == "study.yaml"
    assert origins(resolve("micro", "student.bridge.rl_teacher.grpo", 0))["steps"].startswith("rule 2 (stage [")
    assert origins(resolve("micro", "student", 0)) == {}
