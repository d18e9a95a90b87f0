"""`s2d check`: one line a check; what is missing, does not fit or is of another version gets its remedy. And the pilot."""

import importlib.util
import json
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest

from s2d_lib import check as check_module
from s2d_lib.check import check, check_problems, check_runs, model_folder
from s2d_lib.check import pilot as pilot_module
from s2d_lib.check.pilot import full_length, pilot
from s2d_lib.cli import main
from s2d_lib.errors import StudyError
from s2d_lib.plan import memory as plan_memory
from s2d_lib.plan import plan
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import RoleModel
from tests.conftest import TINY

HEADLINE = "map: null\ntables: [headline]\n"  # of the profile's own student, not of the ends of its map


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


def problems(lines) -> dict[str, str]:
    """What is wrong, by what was looked at; several sentences about one thing in one text."""
    found = {}
    for line in (line for line in lines if not line.ok):
        assert "\n" not in line.says
        found[line.about] = f"{found.get(line.about, '')} {line.says}".strip()
    return found


def test_everything_that_the_micro_profile_needs_is_here(runs, capsys):
    assert main(["check", "--profile", "micro"]) == 0
    said = capsys.readouterr().out
    assert all(line.startswith("ok ") for line in said.splitlines())
    assert said.count(" agree on ") == 2  # only pairs that some run brings together are compared
    for student in ("student-h0", "student-1e-4"):
        assert f"{student} and micro/chains-teacher agree on vocabulary, EOS, pad, chat template and head size" in said
    assert "label pool full: 2048 problems" in said
    assert "memory: opd of micro/chains-student-h0 fits" in said
    assert main(["check", "--profile", "micr"]) == 1
    assert capsys.readouterr().out == "problem  parameters: unknown profile 'micr'; did you mean 'micro'?\n"


def test_a_profile_whose_models_data_gpus_and_disk_are_elsewhere_gets_a_remedy_for_each(project, monkeypatch):
    for module in (plan_memory, check_module):
        monkeypatch.setattr(module, "visible_gpus", list)
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


FILES = ("config.json", "tokenizer_config.json", "a.safetensors", "b.safetensors")


def test_a_model_is_whole_when_all_its_shards_are_there(tmp_path):
    spec = RoleModel(model=str(tmp_path))
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in FILES:
        with pytest.raises(StudyError, match=rf"is not whole \(.* lacks {name}\)"):
            model_folder(spec)
        (tmp_path / name).touch()
    assert model_folder(spec) == tmp_path


def test_a_model_of_the_hub_is_looked_for_in_its_cache_and_a_name_that_none_can_have_is_said(project, tmp_path):
    with pytest.raises(StudyError, match=r"not in the Hub's local cache: .*`hf download org/model`"):
        model_folder(RoleModel(model="org/model"))
    snapshot = tmp_path / "hub" / "models--org--model" / "snapshots" / "abc"
    ref = snapshot.parents[1] / "refs" / "main"
    for folder in (snapshot, ref.parent):
        folder.mkdir(parents=True)
    ref.write_text("abc")
    for name in FILES[:3]:
        (snapshot / name).touch()
    assert model_folder(RoleModel(model="org/model")) == snapshot
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


SRPO = {"steps": 4, "batch": 16, "micro_batch": 8, "group_size": 4, "save_steps": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "checkpoint", "overrides"),
    [
        ("micro-full", "student.warm.rl_teacher", TINY),
        ("micro-table-lookup", "student.srpo", {"stages": {"self_distillation": SRPO}}),
    ],
)
def test_a_step_is_measured_at_full_length_and_nothing_is_kept(runs, monkeypatch, profile, checkpoint, overrides):
    seen = []
    monkeypatch.setattr(pilot_module, "full_length", lambda run: seen.append(full_length(run)) or seen[0])
    measured = pilot(plan(profile), checkpoint, overrides)
    (inputs,), limit = seen, resolve(profile, checkpoint, 0, overrides).sampling.max_new_tokens
    assert inputs.rollouts is None or {len(rollout.ids) for rollout in inputs.rollouts} == {limit}
    assert inputs.policy.model.generation_config.min_new_tokens == limit
    assert 0 <= measured["of them sampling"] < measured["seconds a step"]
    assert measured["hours of all steps"] == pytest.approx(4 * measured["seconds a step"] / 3600)
    assert measured["GB held"] > 0.1
    assert measured["GB planned"] > 0
    assert list(runs.iterdir()) == []


def test_what_trains_nothing_has_no_step(runs):
    with pytest.raises(StudyError, match="'student' trains nothing in profile 'micro'"):
        pilot(plan("micro"), "student")
