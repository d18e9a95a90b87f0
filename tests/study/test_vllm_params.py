"""vLLM's parameters: absent where unset, hashed by what they change, and refused where nothing would read them."""

import hashlib
import json

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.study import Resolved, resolve
from s2d_lib.study.vllm import Vllm

SERVER = {"mode": "server", "url": "http://localhost:8000"}


def sampled_by(engine: str = "vllm", **options) -> dict:
    return {"sampling": {"engine": engine} | ({"vllm": options} if options else {})}


@pytest.mark.parametrize(
    ("profile", "checkpoint"),
    [("micro", "student.grpo"), ("micro-table-lookup", "student.srpo"), ("smollm2", "student.srpo")],
)
def test_runs_that_transformers_samples_have_the_hash_that_they_had(profile, checkpoint):
    resolved = resolve(profile, checkpoint, 0)
    before = resolved.model_dump(mode="json", exclude={"profile", "overrides", "logging"})
    assert set(before["sampling"]) == {"temperature", "top_p", "max_new_tokens", "batch"}
    assert resolved.hash == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()
    assert resolve(profile, checkpoint, 0, sampled_by("transformers")).hash == resolved.hash


def test_the_engine_and_its_uses_enter_the_hash_and_its_place_does_not():
    plain, engine, evaluation = (
        resolve("micro", "student.grpo", 0, overrides).hash
        for overrides in ({}, sampled_by(), sampled_by(uses=["evaluation"]))
    )
    assert len({plain, engine, evaluation}) == 3
    for options in ({"gpu_memory_utilization": 0.5, "check_every": 3}, SERVER, SERVER | {"timeout": 1.0}):
        assert resolve("micro", "student.grpo", 0, sampled_by(**options)).hash == engine


def test_what_is_recorded_can_be_read_again():
    for options in ({"tolerance": 0.1}, SERVER):
        resolved = resolve("micro", "student.grpo", 0, sampled_by(**options))
        again = Resolved.model_validate(resolved.model_dump(mode="json"))
        assert (again, again.hash) == (resolved, resolved.hash)


def test_a_profile_takes_back_what_the_one_says_that_it_extends():
    assert resolve("qwen3", "student.grpo", 0).sampling.vllm.tensor_parallel == 4
    found = resolve(
        "qwen3", "student.grpo", 0, {"sampling": {"vllm": SERVER | {"tensor_parallel": None}}}
    ).sampling.vllm
    assert (found.mode, found.tensor_parallel, found.gpu_memory_utilization) == ("server", 1, 0.22)
    assert "url" not in Vllm().model_dump()


def test_an_engines_context_is_what_the_run_needs():
    assert Vllm().context(9.5, 24) == 34
    assert Vllm().context(10, 4) == 26  # the check's answers have 16 tokens
    assert Vllm(max_model_len=50).context(10, 24) == 50


def test_an_engine_is_asked_for_by_use():
    sampling = resolve("micro", "student.grpo", 0, sampled_by(uses=["evaluation"])).sampling
    assert sampling.by_vllm("evaluation") is not None
    assert sampling.by_vllm("training") is None
    assert resolve("micro", "student.grpo", 0).sampling.by_vllm("evaluation") is None


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (sampled_by("transformers", uses=["evaluation"]), "read where `engine: vllm` is set"),
        (sampled_by(url="http://x"), "`url` belongs to mode server"),
        (sampled_by(**SERVER, uses=["evaluation"]), "mode server samples a training: add `training` to `uses`"),
        (sampled_by(fresh_each_update=True), "unknown parameter 'sampling.vllm.fresh_each_update'"),
        (sampled_by(mode="server"), "needs the server's `url`"),
        (sampled_by(mode="server", url="localhost:8000"), "needs the server's `url`"),
        (sampled_by(uses=[]), "at least 1 item"),
        (sampled_by(uses=["evaluation", "evaluation"]), "one use twice"),
        (sampled_by(uses=["validation"]), "sampling.vllm.uses.0"),
        (sampled_by("sglang"), "sampling.engine"),
        (sampled_by(gpu_memory=0.5), "unknown parameter 'sampling.vllm.gpu_memory'"),
    ],
)
def test_what_nothing_would_read_is_refused(overrides, sentence):
    with pytest.raises(StudyError, match=sentence) as error:
        resolve("micro", "student.grpo", 0, overrides)
    assert "\n" not in str(error.value)
