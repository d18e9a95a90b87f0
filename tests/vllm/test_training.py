"""vLLM in TRL's trainers: their arguments, and the check after every update, with a stand-in for TRL's engine."""

import inspect
import os
from types import SimpleNamespace

import pytest
import torch
from stand_ins import Generation
from trl import DistillationConfig, DistillationTrainer, GRPOConfig, GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from s2d_lib.errors import StudyError
from s2d_lib.study import resolve
from s2d_lib.vllm import GREEDY, QUIET, check_syncs, context_for, vllm_arguments

SERVER = {"mode": "server", "url": "http://localhost:8000/", "timeout": 9.0}


def run_of(checkpoint: str = "student.grpo", options: dict | None = None):
    overrides = {"sampling": {"engine": "vllm", "vllm": options or {}}} if options is not None else {}
    return SimpleNamespace(resolved=resolve("micro-full", checkpoint, 0, overrides))


@pytest.fixture
def trainer(policy):
    """A trainer of which only what SyncCheck reads is there."""
    callbacks = []
    return SimpleNamespace(
        vllm_generation=Generation(policy), model_wrapped=policy.model, callbacks=callbacks,
        add_callback=callbacks.append, args=SimpleNamespace(seed=3, process_index=0, bf16=False),
        state=SimpleNamespace(global_step=7),
    )  # fmt: skip


def test_updates_are_checked_and_the_engine_is_left_as_it_was_and_ended_in_the_end(trainer, policy, problems):
    check_syncs(trainer, run_of(options={"check_every": 3}), policy, problems)
    engine = trainer.vllm_generation
    for _ in range(5):
        engine.sync_weights()  # as TRL calls it, right before it samples
        with torch.no_grad():
            policy.model.model.norm.weight.mul_(1.1)
    assert (engine.syncs, engine.asked) == (5, [GREEDY, GREEDY])  # the first and the fourth
    assert (engine.temperature, engine.top_p, engine.max_completion_length, engine.logprobs) == (0.7, 0.9, 99, None)
    trainer.callbacks[0].on_train_end(None, None, None)
    assert engine.ended
    assert engine.llm is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "does not hold the weights of 'student.grpo' at step 7: at problem 'micro-math/"),
        (SERVER, r"\(tolerance 0\.(25|0625)\)"),  # as coarse as it may compute: bfloat16's
    ],
)
def test_an_update_that_did_not_arrive_is_caught_at_its_step(trainer, policy, problems, options, sentence):
    engine = trainer.vllm_generation
    if options is SERVER:
        del engine.llm  # TRL's has none
    check_syncs(trainer, run_of(options=options), policy, problems)
    engine.sync_weights()
    engine.works = False
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(StudyError, match=sentence):
        engine.sync_weights()
    assert engine.temperature == 0.7
    trainer.callbacks[0].on_train_end(None, None, None)
    assert engine.ended == (options is not SERVER)


def test_a_trainer_that_transformers_samples_is_left_alone(policy, problems):
    check_syncs(SimpleNamespace(use_vllm=False), run_of(), policy, problems)
    assert vllm_arguments(run_of(), policy, problems) == {}
    assert vllm_arguments(run_of(options={"uses": ["evaluation"]}), policy, problems) == {}
    assert vllm_arguments(run_of("student.warm.rl_teacher", {}), policy, problems) == {}


@pytest.mark.parametrize(
    ("checkpoint", "config"), [("student.grpo", GRPOConfig), ("student.bridge.rl_teacher", DistillationConfig)]
)
@pytest.mark.parametrize("options", [{"gpu_memory_utilization": 0.4, "tensor_parallel": 2}, SERVER])
def test_trl_takes_the_arguments(checkpoint, config, options, policy, problems, tmp_path, monkeypatch):
    for name in QUIET:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    run = run_of(checkpoint, options)
    arguments = vllm_arguments(run, policy, problems)
    args = config(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **arguments)
    assert (args.use_vllm, args.vllm_mode) == (True, options.get("mode", "colocate"))
    assert args.generation_kwargs == {"stop_token_ids": [policy.tokenizer.eos_token_id], "ignore_eos": True}
    if options is SERVER:
        assert (args.vllm_server_base_url, args.vllm_server_timeout) == ("http://localhost:8000", 9.0)
        assert "VLLM_NO_USAGE_STATS" not in os.environ  # the engine is somebody else's
    else:
        assert (args.vllm_gpu_memory_utilization, args.vllm_tensor_parallel_size) == (0.4, 2)
        assert args.vllm_max_model_length == context_for(run.resolved, policy, problems)
        assert (os.environ["VLLM_NO_USAGE_STATS"], os.environ["VLLM_LOGGING_LEVEL"]) == ("1", "INFO")


def test_trls_engine_still_has_what_the_check_uses():
    """Read from release 1.16."""
    source = inspect.getsource(VLLMGeneration)
    for name in GREEDY:
        assert f"self.{name} = {name}" in source
    assert "def sync_weights(self):" in source
    assert list(inspect.signature(VLLMGeneration.generate).parameters)[1:4] == ["prompts", "images", "num_generations"]
    for trainer in (GRPOTrainer, DistillationTrainer):
        assert "self.vllm_generation.sync_weights()" in inspect.getsource(trainer._generate_single_turn)
