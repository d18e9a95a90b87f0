"""`sampling`, `hardware` and `cluster` by stage and by role."""

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.several_processes import refuse_what_is_not_shared

REFINED = {
    "hardware": {"device": "cuda", "processes": 2},
    "by_stage": {"sparse_rl": {"hardware": {"threads": 2, "processes": 4}, "cluster": {"hours": 3}}},
    "by_role": {"teacher": {"hardware": {"processes": 8, "sampling_gpus": 2}, "cluster": {"partition": "long"}}},
}


def test_the_role_goes_before_the_stage_and_both_before_the_profile():
    found = {name: resolve("micro", name, 0, REFINED).hardware for name in ("student", "student.grpo", "teacher.rl")}
    settled = {name: (one.processes, one.threads, one.sampling_gpus) for name, one in found.items()}
    assert settled == {"student": (2, 1, 1), "student.grpo": (4, 2, 1), "teacher.rl": (8, 2, 2)}
    profile = load_profile("micro", REFINED)
    asked = {role: profile.block("cluster", "sparse_rl", role) for role in ("student", "teacher")}
    assert {role: (one.hours, one.partition) for role, one in asked.items()} == {
        "student": (3, None),
        "teacher": (3, "long"),
    }


def test_a_role_is_refined_together_with_its_stages():
    over = {"by_role": {"teacher": {"hardware": {"threads": 3}, "sparse_rl": {"learning_rate": 1e-4}}}}
    run = resolve("micro", "teacher.rl", 0, over)
    assert (run.hardware.threads, run.params["learning_rate"]) == (3, 1e-4)


def test_only_the_runs_that_are_refined_have_another_hash():
    changed = {"by_role": {"teacher": {"hardware": {"threads": 2}}}, "by_stage": {"opd": {"cluster": {"hours": 2}}}}
    for name, same in (("student.grpo", True), ("teacher", False), ("teacher.rl", False)):
        assert (resolve("micro", name, 0).hash == resolve("micro", name, 0, changed).hash) == same
    assert "sampling_gpus" not in resolve("micro", "student", 0).model_dump()["hardware"]


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        ({"by_role": {"student": {"hardware": {"procezzes": 1}}}}, "unknown parameter 'procezzes'"),
        (
            {"by_role": {"student": {"sampling": {"max_new_tokens": 0}}}},
            "max_new_tokens: Input should be greater than 0",
        ),
        ({"by_role": {"student": {"opdd": {}}}}, "unknown parameter 'by_role.student.opdd'"),
        ({"by_stage": {"opd": {"cluster": {"hours": -1}}}}, "hours: Input should be greater than 0"),
        ({"by_stage": {"base": {"hardware": {"accelerate": "fsdp2.yaml"}}}}, "raise `processes`, or leave it out"),
        ({"by_role": {"student": {"hardware": {"sampling_gpus": 2}}}}, "`sampling_gpus` are GPUs: set `device: cuda`"),
    ],
)
def test_what_does_not_fit_its_block_gets_one_sentence(over, sentence):
    with pytest.raises(StudyError) as error:
        resolve("micro", "student", 0, over)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dense_stage_needs_the_heads_on_its_gpus():
    over = {"by_stage": {"opd": {"hardware": {"accelerate": "fsdp2-offload.yaml"}}}}
    refuse_what_is_not_shared(resolve("qwen3", "student.bridge.raw_teacher", 0))
    with pytest.raises(StudyError, match=r"opd reads the models' heads .* name fsdp2\.yaml for it"):
        refuse_what_is_not_shared(resolve("qwen3", "student.bridge.raw_teacher", 0, over))
