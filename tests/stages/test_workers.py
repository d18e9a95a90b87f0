"""What a notebook makes of its workers, what processes can not share, and what a resumed run makes of half-written files."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import GradientAccumulationPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.trainer_pt_utils import AcceleratorConfig

from s2d_lib.errors import StudyError
from s2d_lib.grading import CorrectnessReward
from s2d_lib.models import sharing
from s2d_lib.models.sharing import before_sharding, check_sharing
from s2d_lib.runs import Run, open_run, write_json
from s2d_lib.stages import training
from s2d_lib.stages.common import PROGRESS, last_whole_checkpoint, trainer_arguments
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.rl import RecordedReward, read_account
from s2d_lib.study import load_profile, profile_names, resolve
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import Hardware


def placed(tmp_path, over) -> Run:
    return Run(resolve("micro-full", "student.grpo", 0, over), place=tmp_path)


def test_progress_reaches_the_notebook_in_whole_lines_and_what_follows_the_last_look_too(tmp_path, tiny, monkeypatch):
    seen, lines, run = [], [], placed(tmp_path, tiny)
    monkeypatch.setattr(training.LiveCurve, "on_log", lambda self, a, state, c: seen.append(state.global_step))

    def poll():
        lines.append(f'{{"step": {len(lines) + 1}, "loss": 0.5}}\n')
        run.path(PROGRESS).write_text("".join(lines) + '{"step')
        return 0 if len(lines) == 3 else None

    training._watch(run, SimpleNamespace(poll=poll))
    assert seen == [1, 2, 3]


def test_the_first_error_is_said_since_the_others_wait_for_it_or_else_the_end_of_the_log(tmp_path, tiny):
    run, log = placed(tmp_path, tiny), tmp_path / ".workers.log"
    log.write_text("loading\nstep 1\nKilled\n")
    assert training._what_failed(run, log) == (
        f"the workers of 'student.grpo' died without a word (out of memory?); {log} ends with: loading / step 1 / Killed"
    )
    for rank, (kind, message) in enumerate([("RuntimeError", "connection closed by peer"), ("ValueError", "no")]):
        write_json(tmp_path / training.ERROR.format(rank), {"kind": kind, "message": message, "when": -rank})
    assert training._what_failed(run, log) == (f"a worker of 'student.grpo' failed with ValueError: no (more in {log})")


@pytest.mark.parametrize("shared", [True, False])
def test_on_gpus_accelerate_understands_the_line_that_starts_the_workers(tmp_path, tiny, shared):
    hardware = {"device": "cuda", "processes": 2, "accelerate": "fsdp2.yaml" if shared else None}
    run = placed(tmp_path, deep_merge(tiny, {"hardware": hardware}))
    executable, dash, module, *arguments = training._command(run)
    assert (executable, dash, module) == (sys.executable, "-m", "accelerate.commands.launch")
    parsed = launch_command_parser().parse_args(arguments)
    assert (parsed.num_processes, parsed.module) == (2, True)
    assert (parsed.training_script, parsed.training_script_args) == (training.MODULE, [str(tmp_path)])
    if shared:
        assert parsed.config_file.endswith("params/accelerate/fsdp2.yaml")
    else:
        assert (parsed.multi_gpu, parsed.mixed_precision) == (True, "no")


# A shared model


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fsdp_config": {"fsdp_verion": 2}}, "accelerate knows no 'fsdp_verion'"),
        ({"fsdp_config": {"fsdp_version": 1}}, "does not share a model by FSDP2 .*fsdp_version to 2"),
        ({"machines": 1}, "is no config file of accelerate"),
        ({"distributed_type": "MULTI_GPU"}, "does not share a model by FSDP2 .*MULTI_GPU"),
        (None, "hardware.accelerate names fsdp2.yaml, which is not in"),
    ],
)
def test_a_config_that_does_not_share_a_model_is_refused_in_one_sentence(tmp_path, root, monkeypatch, change, sentence):
    place = "params/accelerate/fsdp2.yaml"
    (tmp_path / place).parent.mkdir(parents=True)
    if change:
        content = deep_merge(yaml.safe_load((root / place).read_text()), change)
        (tmp_path / place).write_text(yaml.safe_dump(content))
    monkeypatch.setattr(sharing, "project_root", lambda: tmp_path)
    with pytest.raises(StudyError, match=sentence) as error:
        check_sharing(Hardware(device="cuda", processes=2, accelerate="fsdp2.yaml"))
    assert "\n" not in str(error.value)


def test_every_profile_that_shares_a_model_names_a_config_that_accelerate_understands():
    named = {load_profile(name).hardware for name in profile_names()}
    assert {hardware.accelerate for hardware in named} >= {None, "fsdp2.yaml"}
    for hardware in named:
        check_sharing(hardware)


@pytest.mark.parametrize(
    ("checkpoint", "file", "stage", "sentence"),
    [
        ("student.grpo", None, {"micro_batch": 16}, "2 processes with micro_batch 16 take 32 sequences at a time"),
        ("student.grpo", "fsdp2.yaml", {"lora": {"rank": 2, "alpha": 4}}, "adapters can't be trained on a model"),
        ("student.srpo", "fsdp2-offload.yaml", {}, "keeps them in the machine's memory: name fsdp2.yaml"),
    ],
)
def test_what_processes_can_not_share_is_refused(tiny, runs, checkpoint, file, stage, sentence):
    hardware = {"device": "cuda", "processes": 2, "accelerate": file}
    over = deep_merge(tiny, {"hardware": hardware, "stages": {"sparse_rl": stage}})
    with pytest.raises(StudyError, match=sentence):
        prepare(open_run("micro-full", checkpoint, 0, over))


def test_sharded_models_sample_in_step_and_add_up_gradients_in_float32():
    half = MixedPrecisionPolicy(*[torch.bfloat16] * 3)
    plugin, model = SimpleNamespace(mixed_precision_policy=half), torch.nn.Linear(1, 1)
    before_sharding(model, SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    assert is_fsdp_managed_module(model)  # what generate asks
    exact = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
    assert plugin.mixed_precision_policy == exact


def test_every_micro_batch_is_summed_into_shards_under_fsdp_alone(runs, monkeypatch):
    run = open_run("micro-full", "student.grpo", 0)
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert "accelerator_config" not in trainer_arguments(run)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` says it to its workers
    config = AcceleratorConfig(**trainer_arguments(run)["accelerator_config"])
    asked = GradientAccumulationPlugin(num_steps=1, **config.gradient_accumulation_kwargs).to_kwargs()
    assert asked["sync_each_batch"] is True  # what Trainer asks before each micro-batch


def test_a_resumed_run_drops_half_written_checkpoints_and_gradings_after_the_last_whole_one(tmp_path, monkeypatch):
    for step, content in ((1, "{}"), (10, '{"glob'), *((step, None) for step in range(11, 30))):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if content:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(content)
    rows = [{"step": step, "problem": "old", "tokens": 9, "correct": 0} for step in (0, 1)]
    account = tmp_path / "gradings.jsonl"
    account.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 0, "prob')
    with monkeypatch.context() as patch:  # as a process that is not the first, which must not touch anything
        said = {"is_initialized": lambda: True, "get_rank": lambda: 1}
        said["broadcast_object_list"] = lambda found: found.__setitem__(0, "the first one's")
        for name, value in said.items():
            patch.setattr(torch.distributed, name, value)
        assert last_whole_checkpoint(tmp_path) == "the first one's"
        RecordedReward(CorrectnessReward("exact"), account, first_step=0)
        assert (len(list(tmp_path.iterdir())), len(account.read_text().splitlines())) == (22, 3)
    assert last_whole_checkpoint(tmp_path).endswith("checkpoint-1")
    reward = RecordedReward(CorrectnessReward("exact"), account, first_step=1)
    assert read_account(account)["problem"].tolist() == ["old"]
    state = SimpleNamespace(global_step=1, is_world_process_zero=True)
    assert reward(["p", "q"], ["# v1", "# v2"], [[1], [1, 2]], state, id=["p", "q"], answer=["v1", "v1"]) == [1, 0]
    assert read_account(account).to_numpy().tolist() == [[0, "old", 9, 0], [1, "p", 1, 1], [1, "q", 2, 0]]
    assert {path.name for path in tmp_path.iterdir()} == {"gradings.jsonl", "checkpoint-1"}
