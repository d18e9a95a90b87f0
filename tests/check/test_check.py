"""`s2d check`: one line a check; what is missing, does not fit or is of another version gets its remedy."""

import importlib.util
import json
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest

from s2d_lib import check as check_module
from s2d_lib.check import check, check_problems, check_runs, model_folder
from s2d_lib.cli import main
from s2d_lib.errors import StudyError
from s2d_lib.plan import memory as plan_memory
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import RoleModel

HEADLINE = "map: null\ntables: [headline]\n"  # of the profile's own student, not of the ends of its map
GB = 10**9


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """A project of its own, with empty places for runs, data and models; returns what writes a profile."""
    shutil.copytree(root / "params", tmp_path / "params")
    for name, place in {"S2D_HOME": tmp_path, "S2D_RUNS": tmp_path / "runs"}.items():
        monkeypatch.setenv(name, str(place))
    monkeypatch.delenv("S2D_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return lambda name, text: (tmp_path / "params" / f"{name}.yaml").write_text(text)


@pytest.fixture
def gpus(monkeypatch):
    """Makes GPUs of so many GB visible."""

    def of(*sizes: float):
        for module in (plan_memory, check_module):
            monkeypatch.setattr(module, "visible_gpus", lambda: [("one", int(size * GB)) for size in sizes])

    return of


def problems(lines) -> dict[str, str]:
    """What is wrong, by what was looked at; several sentences about one thing in one text."""
    found: dict[str, str] = {}
    for line in lines:
        if not line.ok:
            assert "\n" not in line.says
            found[line.about] = f"{found.get(line.about, '')} {line.says}".strip()
    return found


def test_everything_that_the_micro_profile_needs_is_here(runs, capsys):
    assert main(["check", "--profile", "micro"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert any("student-h0 and micro/chains-teacher agree" in line for line in lines)
    assert any("label pool full: 2048 problems" in line for line in lines)
    assert any("memory: opd of micro/chains-student-h0 fits" in line for line in lines)


def test_bad_parameters_are_the_only_line(capsys):
    assert main(["check", "--profile", "micr"]) == 1
    assert capsys.readouterr().out == "problem  parameters: unknown profile 'micr'; did you mean 'micro'?\n"


def test_a_profile_whose_models_data_gpus_and_disk_are_elsewhere_gets_a_remedy_for_each(project, gpus, monkeypatch):
    gpus()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(check_module.shutil, "disk_usage", lambda place: usage(10**9, 10**9, 1000))
    found = problems(check("llama3"))
    assert set(found) == {"model", "tokenizers", "vLLM", "label pool full", "GPUs", "disk"}
    assert "accept its licence" in found["model"]
    assert "`hf download meta-llama/Llama-3.3-70B-Instruct`" in found["model"]
    absent = "dapo-math-17k-processed.parquet, math500.jsonl, aime24.json, aime25.json are missing"
    assert absent in found["label pool full"]
    assert "a run is given up to 8, and torch sees none: lower hardware.processes" in found["GPUs"]
    assert "let S2D_RUNS name a folder on a larger disk" in found["disk"]


OTHER_STUDENT = "roles: {student: {model: micro/llama-student}, teacher: {model: micro/llama-teacher}}\n"
OTHER_TEACHER = "roles: {teacher: {model: micro/llama-teacher}}\n"
BY_TEXT = "extends: micro\ntables: [vocabularies]\nroles: {split_teacher: {model: micro/%s}}\n"


@pytest.mark.parametrize(
    ("profile", "about", "sentence"),
    [
        ("extends: micro\n" + HEADLINE + OTHER_TEACHER, "tokenizers", "they differ in their vocabularies"),
        (BY_TEXT % "llama-teacher", "tokenizers", "can't be aligned: the teacher's tokenizer has no tokens for 'v"),
        ("extends: micro\n" + HEADLINE + OTHER_STUDENT, "label pool full", "student's tokenizer has no tokens for 'v"),
        (BY_TEXT % "chains-teacher", None, ""),
    ],
)
def test_models_that_do_not_fit_each_other_or_the_problems_are_told_apart(project, profile, about, sentence):
    """Of a pair of one vocabulary none of whose tokens is a word of the problems, too."""
    project("mixed", profile)
    found = problems([*check_runs("mixed"), *check_problems("mixed")])
    assert about in (found or {None})
    assert sentence in found.get(about, "")


def test_only_pairs_that_some_run_brings_together_are_compared():
    said = [line.says.replace("micro/chains-", "") for line in check_runs("micro") if line.about == "tokenizers"]
    assert [words.split()[:3:2] for words in said] == [["student-h0", "teacher"], ["student-1e-4", "teacher"]]


def test_a_model_is_whole_when_all_its_shards_are_there(tmp_path):
    spec = RoleModel(model=str(tmp_path))
    with pytest.raises(StudyError, match=r"is not whole \(.* lacks config\.json\)"):
        model_folder(spec)
    for name in ("config.json", "tokenizer_config.json", "a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert model_folder(spec) == tmp_path
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(StudyError, match=r"lacks b\.safetensors"):
        model_folder(spec)


def test_a_model_of_the_hub_is_looked_for_in_its_cache_and_a_name_that_none_can_have_is_said(project, tmp_path):
    with pytest.raises(StudyError, match=r"not in the Hub's local cache: .*`hf download org/model`"):
        model_folder(RoleModel(model="org/model"))
    folder = tmp_path / "hub" / "models--org--model"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (folder / "snapshots" / "abc" / name).touch()
    assert model_folder(RoleModel(model="org/model")) == folder / "snapshots" / "abc"
    project("typo", "extends: micro\n" + HEADLINE + "roles: {teacher: {model: Qwen/Qwen3 1.7B}}\n")
    assert "'Qwen/Qwen3 1.7B' is no Hub id" in problems(check_runs("typo"))["model"]


def test_versions(monkeypatch):
    said = "s2d 0.1.0 requires nothing-such, which is not installed.\nother 1 has requirement numpy<1, but you have numpy 2.\n"
    monkeypatch.setattr(check_module.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=said))
    found = problems(check("micro"))
    assert list(found) == ["packages"]
    assert found["packages"].startswith("s2d 0.1.0 requires nothing-such, which is not installed: `make install`")


def test_a_missing_accelerate_config_adapters_on_no_layer_and_an_absent_tracker_are_said(project, monkeypatch):
    project("spread", "extends: llama3\nrules: [{match: {role: teacher}, set: {hardware: {accelerate: none.yaml}}}]\n")
    assert "hardware.accelerate names none.yaml, which is not in" in problems(check_runs("spread"))["accelerate"]
    lora = "stages: {{sparse_rl: {{lora: {{rank: 2, alpha: 4, target_modules: [{}]}}}}}}\n"
    for name, targets in (("right", "q_proj, up_proj"), ("wrong", "q_proj, up_porj")):
        project(name, "extends: micro\n" + HEADLINE + lora.format(targets))
    assert not problems(check_runs("right"))
    assert "'up_porj', which is no linear layer of the model: choose from" in problems(check_runs("wrong"))["lora"]
    project("logged", "extends: micro\nlogging: trackio\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    assert "the package trackio is not installed" in problems(check_runs("logged"))["logging"]


def test_pools_are_loaded_once_with_their_halves(project, monkeypatch):
    seen = []

    def load(spec, labels):
        seen.append(labels)
        raise StudyError("the label pool overlaps an evaluation set.")

    monkeypatch.setattr(check_module, "load_problems", load)
    assert problems(check_problems("micro-full")) == {"label pool full": "the label pool overlaps an evaluation set."}
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
def test_a_file_that_holds_less_than_is_asked_of_it_is_said(project, tmp_path, pool, more, sentence):
    """Of pools whose files alone know how many problems they hold."""
    text = "Find the number of ways in which {n} gardeners share {n} tulips, {m} bulbs and one greenhouse: case {n}."
    rows = [{"prompt": text.format(n=n, m=7 * n + 1), "answer": str(n)} for n in range(10, 40)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({"problem": "What is 1 + 1?", "answer": "2"}) + "\n")
    files = {
        "source": "competition_math",
        "pools": {"full": {"dataset": "dapo-math-17k", "path": "pool.jsonl"} | pool},
        "evaluations": {"math": {"dataset": "math-500", "path": "test.jsonl"}},
    }
    # Models that can write text and are not here
    roles = {role: {"model": f"Qwen/{role}"} for role in ("student", "teacher", "large_teacher", "outside")}
    profile = {"extends": "micro", "map": None, "tables": ["headline"], "problems": files, "validation": None}
    profile |= {"roles": roles, "pretraining": None}
    project("few", json.dumps(deep_merge(profile, more)))
    found = problems(check_problems("few"))
    assert list(found) == (["label pool full"] if sentence else [])
    assert (sentence or "") in found.get("label pool full", "")
