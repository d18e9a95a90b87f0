"""What does not fit is refused before anything is loaded, and only what can't."""

import re

import psutil
import pytest
import torch

from s2d_lib.errors import StudyError
from s2d_lib.plan import fit, host
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.fit import refuse_what_does_not_fit, shortage
from s2d_lib.plan.memory import Memory
from s2d_lib.plan.phases import Phase, phases_of
from s2d_lib.runs import open_run
from s2d_lib.stages import inputs
from s2d_lib.study import resolve
from s2d_lib.study.settings import Lengths

GB = 10**9
LENGTHS = Lengths(prompt=1, completion=1)  # as a profile without any has them


@pytest.fixture
def gpu(monkeypatch):
    """Makes a GPU of so many GB visible."""

    def of(size: float):
        monkeypatch.setattr(fit, "visible_gpus", lambda: [("one", int(size * GB))])

    return of


@pytest.fixture
def machine(monkeypatch):
    """Gives the machine so many GB of memory."""

    def of(size: float):
        monkeypatch.setattr(host, "machine_memory", lambda: int(size * GB))

    return of


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": "7000"}, [7000]),  # v2
        ("0::/\n", {"memory.max": "5000"}, [5000]),  # v2 in a container
        (
            "9:cpu,cpuacct:/a\n4:memory:/docker/x\n",
            {"memory/memory.limit_in_bytes": "6000"},
            [6000],
        ),  # v1 in a container
        ("4:memory:/a/b\n", {f"memory/{at}memory.limit_in_bytes": n for at, n in (("a/b/", "8"), ("a/", "9"))}, [8, 9]),
        (None, {}, []),
    ],
)
def test_a_containers_limits_are_read(tmp_path, groups, files, limits):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    if groups is not None:
        (tmp_path / "cgroup").write_text(groups)
    assert host.cgroup_limits(tmp_path / "cgroup", tmp_path) == limits


@pytest.mark.parametrize(
    ("given", "mib"),
    [
        ({"SLURM_MEM_PER_NODE": "3"}, 3),
        ({"SLURM_MEM_PER_CPU": "2", "SLURM_CPUS_ON_NODE": "4"}, 8),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({}, None),
    ],
)
def test_the_smallest_of_machine_container_and_slurm_job_counts(monkeypatch, given, mib):
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(host, "cgroup_limits", lambda: [9 * GB])
    assert host.machine_memory() == (mib * 2**20 if mib else min(9 * GB, psutil.virtual_memory().total))


def test_of_a_gpu_counts_what_others_have_left(monkeypatch):
    for name, says in {
        "device_count": lambda: 1,
        "mem_get_info": lambda number: (30 * GB, 80 * GB),
        "memory_reserved": lambda number: 5 * GB,
        "get_device_name": lambda number: "one",
    }.items():
        monkeypatch.setattr(torch.cuda, name, says)
    assert fit.visible_gpus() == [("one", 35 * GB)]


def test_a_run_that_needs_more_than_a_gpu_has_is_refused_with_the_remedy(gpu):
    run = resolve("qwen3-single-gpu", "student.bridge.raw_teacher", 0)
    gpu(80)
    refuse_what_does_not_fit(run, "Qwen/Qwen3-8B")
    gpu(40)
    with pytest.raises(StudyError) as error:
        refuse_what_does_not_fit(run, "Qwen/Qwen3-8B")
    assert "'student.bridge.raw_teacher' needs 63.3 GB of a GPU's 40.0" in str(error.value)
    assert "take a smaller model" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_fits_without_a_reserve_is_not_refused():
    phase = Phase("sampling", Memory(weights=75 * GB), 1, shared=True)
    assert shortage(phase, 80 * GB, "a GPU")
    assert shortage(phase, 80 * GB, "a GPU", reserve=0.0) is None


def test_an_evaluation_that_would_not_fit_is_refused_before_the_training(gpu, machine):
    gpu(141)
    machine(2000)
    run = resolve("llama3", "teacher.rl", 0)
    refuse_what_does_not_fit(run, None)
    one = resolve("llama3", "teacher.rl", 0, {"by_role": {"teacher": {"hardware": {"sampling_gpus": 1}}}})
    with pytest.raises(StudyError) as error:
        refuse_what_does_not_fit(one, None)
    says = str(error.value)
    assert says.startswith(
        "'teacher.rl' (its evaluation, by one process) needs 282.2 GB of a GPU's 141.0 beside vLLM's 28%, 0% in reserve: "
    )
    assert says.endswith("or let 4 GPUs hold the model together (hardware.sampling_gpus).")


def test_state_that_is_kept_in_the_machines_memory_must_fit_there(gpu, machine):
    gpu(141)
    run = resolve("llama3", "teacher.rl", 0)
    machine(
        1500
    )  # 20 bytes, the reference's among them, of each of 70.6e9 parameters; what only loading takes is not certain
    refuse_what_does_not_fit(run, None)
    machine(1000)
    with pytest.raises(StudyError) as error:
        refuse_what_does_not_fit(run, None)
    says = str(error.value)
    assert says.startswith(
        "'teacher.rl' needs 1411.1 GB of the machine's 1000.0, of which fsdp2-offload.yaml keeps 1411.1 GB"
    )
    assert "take a machine with more memory, name fsdp2.yaml over more GPUs" in says
    assert "or train adapters (lora, without accelerate)." in says
    assert "\n" not in says


def test_processes_on_a_cpu_divide_its_memory(machine):
    alone = resolve("micro", "student.bridge.raw_teacher", 0)
    both = resolve("micro", "student.bridge.raw_teacher", 0, {"hardware": {"processes": 2}})
    (phase,) = phases_of(
        alone, architecture_of("micro/chains-student"), architecture_of("micro/chains-teacher"), LENGTHS
    )
    machine(1.5 * phase.each / GB)
    refuse_what_does_not_fit(alone, "micro/chains-teacher")
    with pytest.raises(StudyError) as error:
        refuse_what_does_not_fit(both, "micro/chains-teacher")
    assert re.search(r"GB of the machine's \d\.\d \(\d\.\d in each of 2 processes\), 0% in reserve", str(error.value))
    assert str(error.value).endswith(", lower hardware.processes, or take a machine with more memory.")


def test_nothing_that_only_gpus_can_do_is_advised_on_a_cpu():
    for name, gpus in (("training", 2), ("sampling", 1)):
        says = shortage(Phase(name, Memory(weights=6 * GB), gpus, shared=False), 5 * GB, "the machine", together=True)
        assert "accelerate" not in says
        assert "GPU" not in says
        assert ("lower hardware.processes" in says) == (gpus > 1)


def test_no_gpu_and_unknown_shapes_are_for_others_to_refuse(monkeypatch, gpu):
    run = resolve("qwen3-single-gpu", "student", 0)
    monkeypatch.setattr(fit, "visible_gpus", lambda: [])
    refuse_what_does_not_fit(run, None)
    gpu(1)
    unknown = run.model_copy(update={"model": run.model.model_copy(update={"model": "some/other"})})
    refuse_what_does_not_fit(unknown, None)


def test_nothing_is_loaded_by_then(runs, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(inputs, "load_policy", lambda *a, **k: pytest.fail("a model is being loaded"))
    gpu(1e-4)
    run = open_run("micro", "student", 0, {"hardware": {"device": "cuda"}})
    with pytest.raises(StudyError, match=r"'student' needs 0\.0 GB of a GPU's 0\.0"):
        inputs.prepare(run)
