"""Processes that share a model: the config files of accelerate, and FSDP2 in two CPU processes beside one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import AutoModelForCausalLM
from transformers.integrations.fsdp import is_fsdp_managed_module

from s2d_lib.errors import StudyError
from s2d_lib.models import sharing
from s2d_lib.models.sharing import before_sharding, check_sharing
from s2d_lib.results.bundle import read_table
from s2d_lib.runs import open_run
from s2d_lib.stages import processes
from s2d_lib.stages.inputs import prepare
from s2d_lib.study import load_profile, profile_names
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import Hardware
from tests.stages.same_steps import same_steps
from tests.stages.seeded_rollouts import seed_rollouts

STAGES = ("sparse_rl", "forward_kl", "opd", "self_distillation")
QUICK = {
    "stages": {name: {"steps": 3, "warmup_steps": 0, "micro_batch": 4} for name in STAGES}
    | {"forward_kl": {"steps": 3, "warmup_steps": 0, "micro_batch": 4, "teacher_targets": "recompute"}}
}
QUICK["stages"]["opd"]["learning_rate"] = 1e-4  # at the family's own, ten times that, a step makes much of rounding


def shared(file: str) -> Hardware:
    return Hardware(device="cuda", processes=2, accelerate=file)


@pytest.fixture
def configs(tmp_path, monkeypatch, root):
    """A project whose accelerate files can be spoilt: (file, block, key, value)."""
    folder = tmp_path / "params" / "accelerate"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sharing, "project_root", lambda: tmp_path)

    def spoil(name: str, block: str | None, key: str, value) -> Hardware:
        content = yaml.safe_load((root / "params" / "accelerate" / name).read_text())
        (content[block] if block else content)[key] = value
        (folder / name).write_text(yaml.safe_dump(content))
        return shared(name)

    return spoil


def test_every_profile_that_shares_a_model_names_a_config_that_accelerate_understands():
    named = {load_profile(name).hardware for name in profile_names()}
    assert {hardware.accelerate for hardware in named} >= {None, "fsdp2.yaml"}
    for hardware in named:
        check_sharing(hardware)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("fsdp2.yaml", "fsdp_config", "fsdp_verion", 2), "accelerate knows no 'fsdp_verion'"),
        (("fsdp2.yaml", "fsdp_config", "fsdp_version", 1), "does not share a model by FSDP2 .*fsdp_version to 2"),
        (("fsdp2.yaml", None, "machines", 1), "is no config file of accelerate"),
        (("fsdp2.yaml", None, "distributed_type", "MULTI_GPU"), "does not share a model by FSDP2 .*MULTI_GPU"),
    ],
)
def test_a_config_that_does_not_share_a_model_is_refused_in_one_sentence(configs, change, sentence):
    with pytest.raises(StudyError, match=sentence) as error:
        check_sharing(configs(*change))
    assert "\n" not in str(error.value)


def test_a_config_that_is_not_there_is_refused(configs):
    with pytest.raises(StudyError, match=r"hardware.accelerate names none.yaml, which is not in"):
        check_sharing(shared("none.yaml"))


@pytest.mark.parametrize(
    ("checkpoint", "file", "sentence"),
    [
        ("student.grpo", "fsdp2.yaml", "adapters can't be trained on a model that processes share"),
        ("student.srpo", "fsdp2-offload.yaml", "keeps them in the machine's memory: name fsdp2.yaml"),
    ],
)
def test_what_can_not_share_a_model_is_refused(tiny, runs, checkpoint, file, sentence):
    over = deep_merge(tiny, {"hardware": {"device": "cuda", "processes": 2, "accelerate": file}})
    over = deep_merge(over, {"stages": {"sparse_rl": {"lora": {"rank": 2, "alpha": 4}}}})
    with pytest.raises(StudyError, match=sentence):
        prepare(open_run("micro-full", checkpoint, 0, over))


def test_sharded_models_sample_in_step_and_add_up_gradients_in_float32():
    half = MixedPrecisionPolicy(*[torch.bfloat16] * 3)
    plugin, model = SimpleNamespace(mixed_precision_policy=half), torch.nn.Linear(1, 1)
    before_sharding(model, SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    assert is_fsdp_managed_module(model)  # what generate asks
    exact = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
    assert plugin.mixed_precision_policy == exact


def test_what_sampling_leaves_gathered_goes_back_into_shards(runs, tmp_path, root):
    command = [sys.executable, "-m", "tests.stages.gathered_worker", str(tmp_path)]
    on_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=root, env=on_cpu, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("tied", "untied"):
        assert found[f"{name}: sharded"] == found[f"{name}: back"] == 0
        assert found[f"{name}: sampled"] > 0  # else accelerate needs no help any more
    assert found["synced"] == found["parameters"]
    assert found["validated"] == 0


def sharing_workers(tmp_path, monkeypatch, module: str) -> Path:
    """Has runs in several processes train in a worker of these tests; the file in which these say what they hold of a teacher."""
    shares = tmp_path / "shares"
    monkeypatch.setenv("S2D_TEST_SHARES", str(shares))
    monkeypatch.setenv("S2D_TEST_FILE", "fsdp2.yaml")
    monkeypatch.setattr(processes, "MODULE", f"tests.stages.{module}")
    seed_rollouts(monkeypatch.setattr)
    return shares


def halves(shares: Path) -> None:
    """Every process held half of it."""
    assert {round(float(share), 2) for share in shares.read_text().split()} == {0.5}


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["student.warm.raw_teacher", "student.grpo"])
def test_processes_that_share_a_model_take_the_steps_of_one(make, tiny, tmp_path, monkeypatch, checkpoint):
    shares = sharing_workers(tmp_path, monkeypatch, "sharded_worker")
    quick = deep_merge(tiny, QUICK)
    if checkpoint == "student.grpo":
        quick = deep_merge(quick, {"stages": {"sparse_rl": {"kl_coefficient": 1.0}}})
    one, two = (make(checkpoint, overrides=deep_merge(quick, {"hardware": {"processes": n}})) for n in (1, 2))
    same_steps(one, two)
    assert (
        pd.read_csv(one.path("metrics.csv"))["learning_rate"].min() > 0
    )  # so that every loss but the first shows an update
    rows = [read_table(run.path("validation.csv")) for run in (one, two)]
    assert rows[0]["correct"].tolist() == rows[1]["correct"].tolist()
    numbers = [part.drop(columns="correct") for part in rows]
    pd.testing.assert_frame_equal(*numbers, rtol=1e-3, atol=1e-4)
    if checkpoint != "student.grpo":
        halves(shares)
    model = AutoModelForCausalLM.from_pretrained(two.path("model"))
    assert all(torch.isfinite(weights).all() for weights in model.parameters())


@pytest.mark.slow
def test_an_interrupted_run_of_a_shared_model_goes_on(make, tiny, tmp_path, monkeypatch):
    told = tmp_path / "steps"
    shares = sharing_workers(tmp_path, monkeypatch, "interrupted_worker")
    monkeypatch.setenv("S2D_TEST_STEPS", str(told))
    saving = {"stages": {name: {"steps": 4, "save_steps": 2} for name in STAGES}}
    saving["stages"]["self_distillation"]["ema_rate"] = 0.5  # one that began anew at step 3 would be elsewhere
    quick = deep_merge(deep_merge(tiny, QUICK), saving)
    one, two = (make("student.srpo", overrides=deep_merge(quick, {"hardware": {"processes": n}})) for n in (1, 2))
    assert told.read_text().splitlines() == ["[1, 2, 3, 3, 4]"] * 2
    same_steps(one, two)
    halves(shares)
