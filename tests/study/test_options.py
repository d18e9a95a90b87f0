"""Options that not every run has: absent where nothing reads them, hashed by what they change."""

import hashlib
import json

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.study import Resolved, resolve
from s2d_lib.study.settings import Evaluation, Vllm
from tests.conftest import TINY

LORA = {"rank": 4, "alpha": 8}
SERVER = {"mode": "server", "url": "http://localhost:8000"}
PLAIN = {"steps": 8, "batch": 16, "micro_batch": 8, "group_size": 4, "learning_rate": 1e-3, "save_steps": 4}


def sampled_by(engine: str = "vllm", **options) -> dict:
    return {"sampling": {"engine": engine} | ({"vllm": options} if options else {})}


@pytest.mark.parametrize(
    ("profile", "checkpoint"),
    [("micro", "student.grpo"), ("smollm2", "student.srpo")],
)
def test_what_a_run_does_not_use_is_not_in_its_resolved_form(profile, checkpoint):
    resolved = resolve(profile, checkpoint, 0)
    before = resolved.model_dump(mode="json", exclude={"profile", "overrides", "logging"})
    assert set(before["sampling"]) == {"temperature", "top_p", "max_new_tokens", "batch"}
    assert "lora" not in resolved.params
    assert {"sampling_gpus", "processes", "accelerate"}.isdisjoint(before["hardware"])
    assert resolved.hash == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()
    for nothing in (sampled_by("transformers"), {"stages": {resolved.stage: {"lora": None}}}):
        assert resolve(profile, checkpoint, 0, nothing).hash == resolved.hash


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


def resolved(checkpoint, **block):
    stages = TINY["stages"] | {"self_distillation": PLAIN | block}
    return resolve("micro", checkpoint, 0, TINY | {"stages": stages})


def test_a_run_holds_what_its_method_reads_and_nothing_else():
    block = {"method": "srpo", "weight_beta": 2.0, "top_k": None, "epsilon_high": 0.3}
    srpo, sdpo, mix = (resolved(f"student.{name}", **block).params for name in ("srpo", "sdpo", "advantage_mix"))
    assert srpo["weight_beta"] == 2
    assert srpo["top_k"] is sdpo["top_k"] is None
    assert {"mix", "sdpo_on", "length_window"}.isdisjoint(srpo)
    assert {"epsilon_high", "weight_beta", "dynamic_weighting", "mix"}.isdisjoint(sdpo)
    assert (mix["epsilon_high"], mix["mix"]) == (0.3, 0.9)
    assert {"top_k", "beta", "ratio_clamp"}.isdisjoint(mix)
    assert "weight_beta" not in resolved("student.srpo.no_dw", **block).params
    run = resolved("student.sdpo.failed_only", **block)
    assert run.stage_params.sdpo_on == "failed"
    assert run.stage_params.model_dump() == run.params


def test_a_method_a_role_and_stage_3_can_have_settings_of_their_own():
    def of(set_: dict, **match) -> dict:
        return {"match": {"stage": "self_distillation"} | match, "set": set_}

    def found(name: str, *rules: dict, **block) -> dict:
        over = {"stages": {"self_distillation": PLAIN | block}} if block else {}
        return resolve("micro" if block else "micro-table-lookup", name, 0, over | {"rules": [*rules]}).params

    rate = of({"learning_rate": 0.123}, method="sdpo")
    assert [found(f"student.{name}", rate)["learning_rate"] for name in ("sdpo", "sdpo.failed_only")] == [0.123] * 2
    assert found("student.srpo", rate) == found("student.srpo")
    with pytest.raises(StudyError, match="`mix` is not read by method sdpo"):
        found("student.sdpo", of({"mix": 0.5}, method="sdpo"))
    unread = found("student.srpo", of({"dynamic_weighting": False, "steps": 6}, role="student"), method="srpo")
    assert (unread["dynamic_weighting"], unread["steps"]) == (False, 6)
    rules = [of({"learning_rate": 0.1, "weight_beta": 2.0}, method="srpo")]
    rules += [of({"learning_rate": 0.2}, role="teacher"), of({"learning_rate": 0.3}, goes_on=True)]
    for name, wanted in (("student.srpo", 0.1), ("teacher.srpo", 0.2), ("student.bridge.rl_teacher.srpo", 0.3)):
        params = found(name, *rules, method="srpo")
        assert (params["learning_rate"], params["weight_beta"]) == (wanted, 2.0)


def test_further_decodings_have_names_and_are_in_no_run_that_trains():
    also = {"greedy": {"temperature": 0}, "t1": {}}
    evaluation = Evaluation.model_validate({"temperature": 0.7, "top_p": 0.8, "top_k": 20, "also": also})
    assert [one.words for one in evaluation.decodings.values()] == ["T 0.7, top-p 0.8, top-k 20", "greedy", "T 1"]
    over = {"evaluation": {"untrained": [0.25, 0.5]}}
    base, trained = (resolve("micro", name, 0, over) for name in ("student", "student.grpo"))
    assert list(base.evaluation.decodings) == ["main", "t1", "greedy", "T 0.25", "T 0.5"]
    assert trained.evaluation == resolve("micro", "student.grpo", 0).evaluation
    assert "untrained" not in trained.model_dump()["evaluation"]
