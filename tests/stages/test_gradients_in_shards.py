"""Under FSDP2 no process keeps whole gradients between the micro-batches of a step."""

from accelerate.utils import GradientAccumulationPlugin
from transformers.trainer_pt_utils import AcceleratorConfig

from s2d_lib.runs import open_run
from s2d_lib.stages.common import trainer_arguments


def test_every_micro_batch_is_summed_into_shards_under_fsdp_alone(runs, monkeypatch):
    run = open_run("micro-full", "student.grpo", 0)
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert "accelerator_config" not in trainer_arguments(run, run.resolved.stage_params)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` says it to its workers
    config = AcceleratorConfig(**trainer_arguments(run, run.resolved.stage_params)["accelerator_config"])
    asked = GradientAccumulationPlugin(num_steps=1, **config.gradient_accumulation_kwargs).to_kwargs()
    assert asked["sync_each_batch"] is True  # what Trainer asks before each micro-batch
