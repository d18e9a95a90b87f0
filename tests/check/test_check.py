"""`s2d check`: one line a check; what is missing, does not fit or is of another version gets its remedy."""

import json
import shutil
from collections import namedtuple

import pytest
from packaging.requirements import Requirement

from s2d_lib.check import Line, check
from s2d_lib.check import data as data_check
from s2d_lib.check import hardware as hardware_check
from s2d_lib.check.lora import check_lora
from s2d_lib.check.models import check_models, check_tokenizers, folder, pairs
from s2d_lib.check.packages import check_logging, misfit
from s2d_lib.cli import main
from s2d_lib.errors import StudyError
from s2d_lib.plan.memory import Memory
from s2d_lib.plan.phases import Phase
from s2d_lib.stages import trackers
from s2d_lib.study.load import deep_merge
from s2d_lib.study.problem_sets import BenchmarkSet, CompetitionSet
from s2d_lib.study.settings import RoleModel

HEADLINE = "map: null\ntables: [headline]\n"  # of the profile's own student, not of the ends of its map


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """A project of its own, with empty places for runs and data."""
    shutil.copytree(root / "params", tmp_path / "params")
    monkeypatch.setenv("S2D_HOME", str(tmp_path))
    monkeypatch.setenv("S2D_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("S2D_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda place, name: None)
    monkeypatch.setattr(data_check, "cached", lambda hub, config: False)
    return tmp_path


def problems(lines) -> dict[str, str]:
    return {line.about: line.says for line in lines if not line.ok}


def test_everything_that_the_micro_profile_needs_is_here(runs, capsys):
    assert main(["check", "--profile", "micro"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert any("student-h0 and micro/chains-teacher: agree" in line for line in lines)
    assert any("label pool full: 2048 problems" in line for line in lines)


def test_bad_parameters_are_the_only_line(capsys):
    assert main(["check", "--profile", "micr"]) == 1
    assert capsys.readouterr().out == "problem  parameters: unknown profile 'micr'; did you mean 'micro'?\n"


def test_a_profile_whose_models_and_data_are_elsewhere_gets_a_remedy_for_each(project, monkeypatch):
    monkeypatch.setattr(hardware_check.fitting, "visible_gpus", lambda: [])
    found = problems(check("llama3"))
    assert "accept its licence" in found["model of teacher"]
    assert "`hf download meta-llama/Llama-3.3-70B-Instruct`" in found["model of teacher"]
    assert "model of large_teacher" not in found  # of no table
    assert "before both models are here" in found[next(name for name in found if name.startswith("tokenizers"))]
    assert "put it as math500.jsonl into a folder that S2D_DATA names" in found["dataset math-500"]
    assert "torch sees none" in found["GPUs"]
    assert all("\n" not in sentence for sentence in found.values())


def test_a_student_and_a_teacher_of_two_families_are_told_apart(project):
    (project / "params" / "mixed.yaml").write_text(
        "extends: micro\n" + HEADLINE + "roles: {teacher: {model: micro/llama-teacher}}\n"
    )
    found = problems(check("mixed"))
    assert list(found) == ["tokenizers of micro/chains-student and micro/llama-teacher"]
    assert "they differ in their vocabularies" in next(iter(found.values()))
    assert next(iter(found.values())).endswith("or opd with estimator gold and beta 0.5.")


def test_a_teacher_that_is_learned_from_by_text_has_to_write_the_problems_words(project):
    text = "extends: micro\ntables: [vocabularies]\nroles: {split_teacher: {model: micro/%s}}\n"
    (project / "params" / "by-text.yaml").write_text(text % "llama-teacher")
    (line,) = [line for line in check_tokenizers("by-text") if "llama" in line.about]
    assert "can't be aligned: the teacher's tokenizer has no tokens for 'v" in line.says
    (project / "params" / "by-text.yaml").write_text(text % "chains-teacher")
    assert not problems(check_tokenizers("by-text"))


def test_only_pairs_that_some_run_brings_together_are_compared():
    names = [(student.model, teacher.model) for student, teacher, _ in pairs("micro-full")]
    taught = [("micro/chains-teacher", "micro/chains-outside"), ("micro/chains-large-teacher", "micro/chains-outside")]
    assert sorted(names) == sorted(
        [
            ("micro/chains-student", "micro/chains-teacher"),
            ("micro/chains-student", "micro/chains-large-teacher"),
            *taught,
        ]
    )


def test_a_cached_model_is_whole_when_all_its_shards_are_there(tmp_path, monkeypatch):
    for name in ("config.json", "tokenizer_config.json", "a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    in_cache = lambda place, name: str(tmp_path / name) if (tmp_path / name).exists() else None  # noqa: E731
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", in_cache)
    assert folder(RoleModel(model="org/model")) == tmp_path
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(StudyError, match=r"not whole .* \(1 files, the first b\.safetensors\)"):
        folder(RoleModel(model="org/model"))


def test_a_model_folder_without_its_config_is_not_whole(tmp_path):
    with pytest.raises(StudyError, match=r"holds no config\.json"):
        folder(RoleModel(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("requirement", "sentence"),
    [
        ("numpy>=1", None),
        ("numpy<1", "but numpy<1 is supported"),
        ("no-such-package>=2", "no-such-package is not installed"),
        ('no-such-package>=2; extra == "vllm"', None),
    ],
)
def test_versions(requirement, sentence):
    found = misfit(Requirement(requirement))
    assert found is None if sentence is None else sentence in found


GB = 1e9


def of(name: str, memory: Memory, gpus: int = 1, shared: bool = True) -> Phase:
    return Phase(name, memory, gpus, shared)


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        (Memory(weights=60 * GB), None),
        (
            Memory(weights=150 * GB),
            "the weights alone take 150.0 GB: take a smaller model, or let 3 GPUs hold the model together (hardware.samp",
        ),
        (
            Memory(weights=100 * GB, gradients=50 * GB),
            "train adapters of it (lora), or let 3 processes share it (hardware",
        ),
        (
            Memory(weights=10 * GB, kv_cache=90 * GB, activations=80 * GB),
            "KV cache takes 90.0 GB: lower sampling.batch",
        ),
        (Memory(gradients=10 * GB, activations=90 * GB), "activations take 90.0 GB: lower `micro_batch`"),
    ],
)
def test_what_does_not_fit_gets_the_remedy_for_its_largest_part(memory, sentence):
    line = hardware_check.fit("opd of m", of("training" if memory.gradients else "sampling", memory), 80 * GB, "a GPU")
    assert line.ok == (sentence is None)
    assert (sentence or "needs 60.0 GB of a GPU's 80.0") in line.says


def test_what_processes_share_does_not_count_for_each_of_them():
    memory = Memory(weights=100 * GB, gradients=50 * GB, kv_cache=160 * GB, copies=50 * GB, gathered=GB)
    whole, shared = (of("training", memory, 4, shared=shared) for shared in (False, True))
    assert "needs 240.0 GB of a GPU's 80.0 on each of 4" in hardware_check.fit("opd of m", whole, 80 * GB, "a GPU").says
    assert "needs 78.5 GB" in hardware_check.fit("opd of m", shared, 80 * GB, "a GPU").says
    assert hardware_check.fit("opd of m", shared, 100 * GB, "a GPU").ok
    spread = of("sampling", Memory(weights=60 * GB, kv_cache=60 * GB), 2)
    assert hardware_check.fit("base of m", spread, 80 * GB, "a GPU").ok


def test_vllms_share_is_taken_before_the_run_and_must_hold_the_engine():
    beside = of("sampling", Memory(weights=50 * GB, engine_share=0.3, engine_least=20 * GB))
    line = hardware_check.fit("base of m", beside, 80 * GB, "a GPU")
    assert not line.ok
    assert "needs 50.0 GB of a GPU's 80.0 beside vLLM's 30%" in line.says
    assert hardware_check.fit("base of m", beside, 100 * GB, "a GPU").ok
    small = of("sampling", Memory(weights=20 * GB, engine_share=0.2, engine_least=20 * GB))
    line = hardware_check.fit("base of m", small, 80 * GB, "a GPU")
    assert not line.ok
    assert "vLLM needs 20.0 GB of a GPU's 80.0 and is given 20%: raise vllm.gpu_memory_utilization" in line.says


def test_fewer_gpus_than_processes_and_a_missing_accelerate_config_are_problems(project, monkeypatch):
    monkeypatch.setattr(hardware_check.fitting, "visible_gpus", lambda: [("one", 80 * 10**9)] * 2)
    text = "extends: llama3\nby_role: {teacher: {hardware: {accelerate: none.yaml}}}\n"
    (project / "params" / "spread.yaml").write_text(text)
    found = problems(hardware_check.check_gpus("spread"))
    assert "2, but 'student' is given 8: lower hardware.processes or sampling_gpus" in found["number of GPUs"]
    assert "hardware.accelerate names none.yaml, which is not in" in found["accelerate"]


def test_every_kind_of_run_is_held_against_the_smallest_gpu(project, monkeypatch):
    monkeypatch.setattr(hardware_check.fitting, "visible_gpus", lambda: [("large", 141 * 10**9), ("small", 78 * 10**9)])
    assert [line.ok for line in hardware_check.check_gpus("qwen3-single-gpu")] == [True, True]
    found = problems(hardware_check.check_memory("qwen3-single-gpu"))
    assert list(found) == ["memory, sparse_rl of Qwen/Qwen3-8B"]


def test_without_a_gpu_memory_is_held_against_the_one_that_the_plan_assumes(project, monkeypatch):
    monkeypatch.setattr(hardware_check.fitting, "visible_gpus", lambda: [])
    assert "held against the plan's GPU, h100-80gb" in problems(hardware_check.check_gpus("qwen3-single-gpu"))["GPUs"]
    lines = list(hardware_check.check_memory("qwen3-single-gpu"))
    assert all(line.ok and "of one h100-80gb's 80.0" in line.says for line in lines)
    small = "extends: qwen3-single-gpu\nby_stage: {sparse_rl: {cluster: {gpu: rtx4090-24gb}}}\n"
    (project / "params" / "small.yaml").write_text(small)
    found = problems(hardware_check.check_memory("small"))
    assert list(found) == [f"memory, sparse_rl of Qwen/Qwen3-{size}" for size in ("1.7B", "8B")]
    assert all("of one rtx4090-24gb's 24.0" in says for says in found.values())


def test_the_machines_own_memory_is_held_against_what_gpu_runs_take_of_it(project, monkeypatch):
    monkeypatch.setattr(hardware_check.fitting, "visible_gpus", lambda: [("one", 80 * 10**9)] * 8)
    monkeypatch.setattr(hardware_check.host, "machine_memory", lambda: 1000 * 10**9)
    lacking = problems(hardware_check.check_machine("llama3"))
    assert list(lacking) == ["the machine's memory, sparse_rl of meta-llama/Llama-3.3-70B-Instruct"]
    assert "of the machine's 1000.0, of which fsdp2-offload.yaml keeps 1411.1 GB there" in next(iter(lacking.values()))
    monkeypatch.setattr(hardware_check.host, "machine_memory", lambda: 4000 * 10**9)
    (line,) = hardware_check.check_machine("llama3")
    assert line.ok
    assert line.says.endswith("GB (sparse_rl of meta-llama/Llama-3.3-70B-Instruct) of 4000.0")


def test_processes_that_each_read_the_model_count_each(project, monkeypatch):
    monkeypatch.setattr(hardware_check.fitting, "visible_gpus", lambda: [("one", 80 * 10**9)] * 4)
    monkeypatch.setattr(hardware_check.host, "machine_memory", lambda: 100 * 10**9)
    text = "extends: qwen3-single-gpu\nby_role: {teacher: {hardware: {processes: 4}}}\n"
    (project / "params" / "four.yaml").write_text(text)
    found = problems(hardware_check.check_machine("four"))
    assert list(found) == ["the machine's memory, sparse_rl of Qwen/Qwen3-8B"]
    says = next(iter(found.values()))
    assert "on their way to the GPUs: take a machine with more memory, let processes share the model" in says
    assert says.endswith("(hardware.accelerate: fsdp2.yaml), or lower hardware.processes.")


def test_a_machine_without_gpus_is_not_the_one_that_needs_the_memory(project, monkeypatch):
    monkeypatch.setattr(hardware_check.fitting, "visible_gpus", lambda: [])
    monkeypatch.setattr(hardware_check.host, "machine_memory", lambda: 10**9)
    (line,) = hardware_check.check_machine("llama3")
    assert line.ok
    assert line.says.endswith("of the machine with the GPUs")
    assert list(hardware_check.check_machine("micro")) == []  # its processes' memory is the machine's: check_memory


def test_processes_on_a_cpu_divide_the_machines_memory(project, monkeypatch):
    (project / "params" / "two.yaml").write_text("extends: micro\n" + HEADLINE + "hardware: {processes: 2}\n")
    monkeypatch.setattr(hardware_check.host, "machine_memory", lambda: 10**6)
    found = problems(hardware_check.check_memory("two"))
    assert "in each of 2 processes" in found["memory, opd of micro/chains-student by micro/chains-teacher"]
    assert "in each of" not in found["memory, teacher_rollouts of micro/chains-teacher"]


def test_adapters_are_asked_for_layers_that_the_model_has(project):
    lora = "stages: {{sparse_rl: {{lora: {{rank: 2, alpha: 4, target_modules: [{}]}}}}}}\n"
    for name, targets in (("right", "q_proj, mlp.up_proj"), ("wrong", "q_proj, up_porj")):
        (project / "params" / f"{name}.yaml").write_text("extends: micro\n" + HEADLINE + lora.format(targets))
    assert [str(line) for line in check_lora("right")] == [
        f"ok       lora on micro/chains-{name}: adapters on mlp.up_proj, q_proj" for name in ("student", "teacher")
    ]
    says = "lora.target_modules names 'up_porj', which is no linear layer of this architecture; did you mean 'up_proj'?"
    assert problems(check_lora("wrong")) == {f"lora on micro/chains-{name}": says for name in ("student", "teacher")}
    assert list(check_lora("micro")) == []


def test_the_package_that_a_profile_logs_to_is_looked_for(project, monkeypatch):
    (project / "params" / "logged.yaml").write_text("extends: micro\nlogging: trackio\n")
    assert list(check_logging("micro")) == []
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: name)
    assert [line.says for line in check_logging("logged")] == ["trackio is installed"]
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    assert "the package trackio is not installed" in problems(check_logging("logged"))["logging"]


def test_a_full_disk_is_a_problem(project, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(hardware_check.shutil, "disk_usage", lambda place: usage(10**9, 10**9, 1000))
    assert "let S2D_RUNS name a folder on a larger disk" in problems(hardware_check.check_disk("micro"))["disk"]


def test_a_dataset_is_looked_for_in_its_path_then_in_the_local_copies_then_in_the_cache(project, monkeypatch):
    named = CompetitionSet(dataset="aime-2024", path="data/mine.json")
    assert "its file data/mine.json is missing" in data_check.absent(named)
    (project / "data").mkdir()
    (project / "data" / "mine.json").touch()
    assert data_check.absent(named) is None
    plain = CompetitionSet(dataset="aime-2024")
    assert "(`datasets.load_dataset('HuggingFaceH4/aime_2024', split='train')`)" in data_check.absent(plain)
    monkeypatch.setattr(data_check, "cached", lambda hub, config: hub == "HuggingFaceH4/aime_2024")
    assert data_check.absent(plain) is None
    assert "put it as toolalpaca.json" in data_check.absent(BenchmarkSet(dataset="toolalpaca"))
    monkeypatch.setenv("S2D_DATA", "data")
    (project / "data" / "toolalpaca.json").touch()
    assert data_check.absent(BenchmarkSet(dataset="toolalpaca")) is None


def test_every_configuration_of_a_hub_dataset_is_asked_for_in_a_command_of_its_own(project, monkeypatch):
    missing = {name: data_check.absent(CompetitionSet(dataset=name)) for name in ("aime-2025", "gsm8k", "math-500")}
    both = [f"`datasets.load_dataset('opencompass/AIME2025', 'AIME2025-{n}', split='test')`" for n in ("I", "II")]
    assert f"where there is a network ({both[0]} and {both[1]})." in missing["aime-2025"]
    assert "(`datasets.load_dataset('openai/gsm8k', 'main', split='test')`)." in missing["gsm8k"]
    assert "(`datasets.load_dataset('HuggingFaceH4/MATH-500', split='test')`)." in missing["math-500"]
    science = data_check.absent(BenchmarkSet(dataset="sciknoweval-physics"))
    assert "(`datasets.load_dataset('hicai-zju/SciKnowEval', split='test')`)." in science
    copy = data_check.absent(CompetitionSet(dataset="aime-2025", path="some/copy"))
    assert "(`datasets.load_dataset('some/copy', split='test')`)." in copy  # which has none of the configurations
    monkeypatch.setattr(data_check, "cached", lambda hub, config: config == "AIME2025-I")
    half = data_check.absent(CompetitionSet(dataset="aime-2025"))
    assert both[1] in half
    assert both[0] not in half
    monkeypatch.setattr(data_check, "cached", lambda hub, config: config in ("AIME2025-I", "AIME2025-II"))
    assert data_check.absent(CompetitionSet(dataset="aime-2025")) is None


def test_what_counts_as_cached_is_what_datasets_finds_in_its_cache(tmp_path, monkeypatch):
    from datasets.packaged_modules.cache.cache import _find_hash_in_cache

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    for place, config in (("opencompass___aime2025", "AIME2025-I"), ("hicai-zju___sci_know_eval", "default")):
        made = tmp_path / place / config / "0.0.0" / "abc"
        made.mkdir(parents=True)
        (made / "dataset_info.json").write_text(json.dumps({"config_name": config}))
    (tmp_path / "openai___gsm8k" / "main").mkdir(parents=True)  # begun, and never finished

    def found(hub: str, config: str | None) -> bool:
        try:
            return bool(_find_hash_in_cache(hub, config, str(tmp_path), {}, None))
        except ValueError:
            return False

    asked = {
        ("opencompass/AIME2025", "AIME2025-I"): True,
        ("opencompass/AIME2025", "AIME2025-II"): False,
        ("hicai-zju/SciKnowEval", None): True,
        ("openai/gsm8k", "main"): False,
        ("openai/gsm8k", None): False,
    }
    assert {one: data_check.cached(*one) for one in asked} == asked
    assert {one: found(*one) for one in asked} == asked


def test_a_model_whose_name_no_hub_model_can_have_is_said_in_a_sentence(project, monkeypatch):
    monkeypatch.undo()  # the Hub's client itself is asked, which refuses such names
    monkeypatch.setenv("S2D_HOME", str(project))
    (project / "params" / "typo.yaml").write_text("extends: micro\nroles: {teacher: {model: Qwen/Qwen3 1.7B}}\n")
    found = problems(check_models("typo"))
    assert list(found) == ["model of teacher"]
    assert "'Qwen/Qwen3 1.7B' is no Hub id" in found["model of teacher"]
    assert "`roles.<role>.model: /path`" in found["model of teacher"]
    assert "\n" not in found["model of teacher"]


def test_pools_are_loaded_when_all_files_are_here_and_halves_once(project, monkeypatch):
    seen = []

    def load(spec, labels):
        seen.append(labels)
        raise StudyError("the label pool overlaps an evaluation set.")

    monkeypatch.setattr(data_check, "load_problems", load)
    assert problems(data_check.check_problems("micro-full")) == {
        "label pool full": "the label pool overlaps an evaluation set."
    }
    assert seen == ["full"]


STAGES = ("sparse_rl", "forward_kl", "opd", "teacher_sample_sft")
SMALL = {"stages": {stage: {"batch": 16, "micro_batch": 8} for stage in STAGES}}


@pytest.mark.parametrize(
    ("pool", "more", "sentence"),
    [
        ({}, {}, "the label pool 'full' has 30 problems but one optimiser step of sparse_rl takes 32: lower `batch`"),
        ({}, SMALL, None),
        (
            {"limit": 64},
            {"problems": {"labels": 30, "prompts": 40}, **SMALL},
            "ask for 30 problems of the pool 'full', which has 30 in the end: leave it out of `problems`, or lower it.",
        ),
    ],
)
def test_a_file_that_holds_less_than_is_asked_of_it_is_said(project, pool, more, sentence):
    """Of pools whose files alone know how many problems they hold."""
    text = "Find the number of ways in which {n} gardeners share {n} tulips, {m} bulbs and one greenhouse: case {n}."
    rows = [{"prompt": text.format(n=n, m=7 * n + 1), "answer": str(n)} for n in range(10, 40)]
    (project / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (project / "test.jsonl").write_text(json.dumps({"problem": "What is 1 + 1?", "answer": "2"}) + "\n")
    files = {
        "source": "competition_math",
        "pools": {"full": {"dataset": "dapo-math-17k", "path": "pool.jsonl"} | pool},
        "evaluations": {"math": {"dataset": "math-500", "path": "test.jsonl"}},
    }
    profile = deep_merge({"extends": "micro", "problems": files, "validation": None}, more)
    (project / "params" / "few.yaml").write_text(json.dumps(profile))
    found = problems(data_check.check_problems("few"))
    assert list(found) == (["label pool full"] if sentence else [])
    assert (sentence or "") in found.get("label pool full", "")


def test_a_line_reads_as_one():
    assert str(Line("disk", "is full.", ok=False)) == "problem  disk: is full."
    assert str(Line("disk", "is empty")) == "ok       disk: is empty"
