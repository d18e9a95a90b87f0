"""Options that not every run has: absent where nothing reads them, hashed by what they change. And rules, which are laid over a
profile's defaults for the runs that they match."""

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.study import Resolved, load_profile, origins, resolve
from s2d_lib.study.settings import Evaluation, Vllm

SERVER = {"mode": "server", "url": "http://localhost:8000"}
PLAIN = {"steps": 8, "batch": 16, "micro_batch": 8, "group_size": 4, "learning_rate": 1e-3, "save_steps": 4}


def sampled_by(engine: str = "vllm", **options) -> dict:
    return {"sampling": {"engine": engine} | ({"vllm": options} if options else {})}


def rule(set_: dict, **match) -> dict:
    """Overrides of one rule."""
    return {"rules": [{"match": match, "set": set_}]}


def test_saying_that_there_is_no_engine_and_are_no_adapters_makes_no_run_stale():
    plain = resolve("smollm2", "student.srpo", 0)
    for nothing in (sampled_by("transformers"), {"stages": {"self_distillation": {"lora": None}}}):
        assert resolve("smollm2", "student.srpo", 0, nothing).hash == plain.hash


def test_the_engine_and_its_uses_enter_the_hash_and_its_place_does_not():
    asked = ({}, sampled_by(), sampled_by(uses=["evaluation"]))
    plain, engine, evaluation = (resolve("micro", "student.grpo", 0, overrides) for overrides in asked)
    assert len({plain.hash, engine.hash, evaluation.hash}) == 3
    for options in ({"gpu_memory_utilization": 0.5, "check_every": 3}, SERVER, SERVER | {"timeout": 1.0}):
        resolved = resolve("micro", "student.grpo", 0, sampled_by(**options))
        again = Resolved.model_validate(resolved.model_dump(mode="json"))
        assert (again, again.hash, resolved.hash) == (resolved, engine.hash, engine.hash)
    assert plain.sampling.by_vllm("evaluation") is None
    assert evaluation.sampling.by_vllm("evaluation") is not None
    assert evaluation.sampling.by_vllm("training") is None


def test_a_profile_takes_back_what_the_one_says_that_it_extends():
    assert resolve("qwen3", "student.grpo", 0).sampling.vllm.tensor_parallel == 4
    over = {"sampling": {"vllm": SERVER | {"tensor_parallel": None}}}
    found = resolve("qwen3", "student.grpo", 0, over).sampling.vllm
    assert (found.mode, found.tensor_parallel, found.gpu_memory_utilization) == ("server", 1, 0.22)
    assert "url" not in Vllm().model_dump()


def test_a_method_a_role_and_stage_3_can_have_settings_of_their_own():
    def of(set_: dict, **match) -> dict:
        return {"match": {"stage": "self_distillation"} | match, "set": set_}

    def found(name: str, *rules: dict, **block) -> dict:
        over = {"stages": {"self_distillation": PLAIN | block}} if block else {}
        return resolve("micro" if block else "micro-table-lookup", name, 0, over | {"rules": [*rules]}).params

    with pytest.raises(StudyError, match="`mix` is not read by method sdpo"):
        found("student.sdpo", of({"mix": 0.5}, method="sdpo"))
    unread = found("student.srpo", of({"dynamic_weighting": False, "steps": 6}, role="student"), method="srpo")
    assert (unread["dynamic_weighting"], unread["steps"]) == (False, 6)
    rules = [of({"learning_rate": 0.1, "weight_beta": 2.0}, method="srpo")]
    rules += [of({"learning_rate": 0.2}, role="teacher"), of({"learning_rate": 0.3}, goes_on=True)]
    for name, wanted in (("student.srpo", 0.1), ("teacher.srpo", 0.2), ("student.bridge.rl_teacher.srpo", 0.3)):
        params = found(name, *rules, method="srpo")
        assert (params["learning_rate"], params["weight_beta"]) == (wanted, 2.0)


def test_a_later_rule_goes_before_an_earlier_one_and_both_before_the_defaults():
    of_stage = {"hardware": {"threads": 2, "processes": 4}, "cluster": {"hours": 3}}
    of_role = {
        "hardware": {"processes": 8, "sampling_gpus": 2},
        "cluster": {"partition": "long"},
        "learning_rate": 0.25,
    }
    over = {"hardware": {"device": "cuda", "processes": 2}}
    over["rules"] = [
        {"match": {"stage": "sparse_rl"}, "set": of_stage},
        {"match": {"role": "teacher", "stage": ["sparse_rl", "teacher_sft"]}, "set": of_role},
    ]
    found = {name: resolve("micro", name, 0, over) for name in ("student", "student.grpo", "teacher.rl")}
    hardware = {name: run.hardware for name, run in found.items()}
    settled = {name: (one.processes, one.threads, one.sampling_gpus) for name, one in hardware.items()}
    assert settled == {"student": (2, 1, 1), "student.grpo": (4, 2, 1), "teacher.rl": (8, 2, 2)}
    assert found["teacher.rl"].params["learning_rate"] == 0.25 != found["student.grpo"].params["learning_rate"]
    asked = [load_profile("micro", over).block("cluster", "sparse_rl", role) for role in ("student", "teacher")]
    assert [(one.hours, one.partition) for one in asked] == [(3, None), (3, "long")]


def test_overrides_of_a_stage_stand_above_the_profiles_rules_and_below_their_own():
    names = ("teacher.rl", "student.grpo", "student.bridge.rl_teacher.grpo")
    own = {"stages": {"sparse_rl": {"steps": 7}}}
    again = own | rule({"steps": 9}, stage="sparse_rl", role="teacher")
    for over, steps in ({}, [140, 350, 175]), (own, [7, 7, 7]), (again, [9, 7, 7]):
        assert [resolve("micro", name, 0, over).params["steps"] for name in names] == steps


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


def test_further_decodings_have_names_and_are_in_no_run_that_trains():
    also = {"greedy": {"temperature": 0}, "t1": {}}
    evaluation = Evaluation.model_validate({"temperature": 0.7, "top_p": 0.8, "top_k": 20, "also": also})
    assert [one.words for one in evaluation.decodings.values()] == ["T 0.7, top-p 0.8, top-k 20", "greedy", "T 1"]
    over = {"evaluation": {"untrained": [0.25, 0.5]}}
    base, trained = (resolve("micro", name, 0, over) for name in ("student", "student.grpo"))
    assert list(base.evaluation.decodings) == ["main", "t1", "greedy", "T 0.25", "T 0.5"]
    assert trained.evaluation == resolve("micro", "student.grpo", 0).evaluation
    assert "untrained" not in trained.model_dump()["evaluation"]
