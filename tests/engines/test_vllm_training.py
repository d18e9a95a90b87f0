"""vLLM in TRL's trainers: their arguments, and the check after every update, with stand-ins for TRL's engine."""

import copy
import os
from types import SimpleNamespace

import pytest
import torch
from fakes import greedy
from trl import DistillationConfig, GRPOConfig
from trl.generation.vllm_generation import VLLMGeneration

from s2d_lib.engines.answers import room_for
from s2d_lib.engines.colocated import QUIET
from s2d_lib.engines.training import GREEDY, check_syncs, vllm_arguments
from s2d_lib.errors import StudyError
from s2d_lib.study import resolve
from s2d_lib.study.vllm import CHECK_TOKENS, Vllm

SERVER = {"mode": "server", "url": "http://localhost:8000/"}


def run_of(checkpoint: str = "student.grpo", options: dict | None = None):
    overrides = {"sampling": {"engine": "vllm", "vllm": options or {}}} if options is not None else {}
    return SimpleNamespace(resolved=resolve("micro-full", checkpoint, 0, overrides))


class Generation:
    """What SyncCheck knows of TRL's VLLMGeneration: updates copy the trainer's weights, unless told otherwise."""

    def __init__(self, model, eos):
        self.source, self.eos, self.works, self.syncs = model, eos, True, 0
        self.held = copy.deepcopy(model).eval()
        self.temperature, self.top_p, self.top_k, self.max_completion_length, self.logprobs = 0.7, 0.9, 5, 99, None
        self.asked, self.ended = [], False
        core = SimpleNamespace(shutdown=lambda: setattr(self, "ended", True))
        config = SimpleNamespace(dtype=torch.float32)
        self.llm = SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core, model_config=config))

    def sync_weights(self):
        self.syncs += 1
        if self.works:
            self.held.load_state_dict(self.source.state_dict())

    def generate(self, prompts, images, num_generations, profiler=None):
        self.asked.append({name: getattr(self, name) for name in GREEDY})
        answers = [greedy(self.held, p, self.eos, self.max_completion_length) for p in prompts]
        return (
            prompts,
            [a.ids for a in answers],
            *([[list(part(at)) for at in a.log_probs] for a in answers] for part in (dict.values, dict.keys)),
        )


@pytest.fixture
def trainer(policy):
    """A trainer of which only what SyncCheck reads is there."""
    engine = Generation(policy.model, policy.tokenizer.eos_token_id)
    found = SimpleNamespace(use_vllm=True, vllm_generation=engine, model_wrapped=policy.model, callbacks=[])
    found.args, found.state = SimpleNamespace(seed=3, process_index=0, bf16=False), SimpleNamespace(global_step=7)
    found.add_callback = found.callbacks.append
    return found


def train_a_step(policy):
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))


def test_every_update_is_checked_greedily_and_the_engine_is_left_as_it_was(trainer, policy, problems):
    check_syncs(trainer, run_of(options={}), policy, problems)
    engine = trainer.vllm_generation
    engine.sync_weights()  # as TRL calls it, right before it samples
    train_a_step(policy)
    engine.sync_weights()
    assert engine.syncs == 2
    assert engine.asked == [GREEDY, GREEDY]
    assert (engine.temperature, engine.top_p, engine.max_completion_length, engine.logprobs) == (0.7, 0.9, 99, None)


def test_an_update_that_did_not_arrive_is_caught_at_its_step(trainer, policy, problems):
    check_syncs(trainer, run_of(options={}), policy, problems)
    engine = trainer.vllm_generation
    engine.sync_weights()
    train_a_step(policy)
    engine.works = False
    with pytest.raises(
        StudyError, match=r"does not hold the weights of 'student.grpo' at step 7: at problem 'micro-math/"
    ):
        engine.sync_weights()
    assert engine.temperature == 0.7


def test_an_update_that_did_not_arrive_is_caught_although_it_is_smaller_than_the_rounding(trainer, policy, problems):
    check_syncs(trainer, run_of(options={"tolerance": 0.25}), policy, problems)  # bfloat16's
    engine = trainer.vllm_generation
    for works in (True, True, False):
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.mul_(1.002)
        engine.works = works
        if works:
            engine.sync_weights()
    with pytest.raises(StudyError, match=r"'student.grpo' at step 7: since an earlier check .* did not arrive"):
        engine.sync_weights()


def test_the_check_may_be_made_more_rarely(trainer, policy, problems):
    check_syncs(trainer, run_of(options={"check_every": 3}), policy, problems)
    for _ in range(7):
        trainer.vllm_generation.sync_weights()
    assert trainer.vllm_generation.syncs == 7
    assert len(trainer.vllm_generation.asked) == 3  # the first, the fourth and the seventh


def test_an_engine_of_the_trainers_own_ends_with_training(trainer, policy, problems):
    check_syncs(trainer, run_of(options={}), policy, problems)
    (callback,) = trainer.callbacks
    callback.on_train_end(None, None, None)
    assert trainer.vllm_generation.ended
    assert trainer.vllm_generation.llm is None


def test_a_server_has_the_last_weights_when_training_is_over(trainer, policy, problems):
    engine = trainer.vllm_generation
    engine.llm = None
    check_syncs(trainer, run_of(options=SERVER | {"check_every": 5}), policy, problems)
    engine.sync_weights()
    train_a_step(policy)
    trainer.callbacks[0].on_train_end(None, None, None)
    same = zip(engine.held.parameters(), policy.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    assert len(engine.asked) == 2  # the last weights are checked whenever the last check was


def test_a_trainer_that_transformers_samples_is_left_alone(policy, problems):
    check_syncs(SimpleNamespace(use_vllm=False), run_of(), policy, problems)


@pytest.mark.parametrize(
    ("checkpoint", "config"), [("student.grpo", GRPOConfig), ("student.bridge.rl_teacher", DistillationConfig)]
)
@pytest.mark.parametrize("options", [{"gpu_memory_utilization": 0.4, "max_model_len": 64}, SERVER])
def test_trl_takes_the_arguments(checkpoint, config, options, policy, problems, tmp_path, monkeypatch):
    for name in QUIET:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    arguments = vllm_arguments(run_of(checkpoint, options), policy, problems)
    args = config(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **arguments)
    assert args.use_vllm
    assert args.generation_kwargs["stop_token_ids"] == [policy.tokenizer.eos_token_id]
    if options is SERVER:
        assert (args.vllm_mode, args.vllm_server_base_url) == ("server", "http://localhost:8000")
        assert "VLLM_NO_USAGE_STATS" not in os.environ  # the engine is somebody else's
    else:
        assert (args.vllm_gpu_memory_utilization, args.vllm_max_model_length) == (0.4, 64)
        assert (os.environ["VLLM_NO_USAGE_STATS"], os.environ["VLLM_LOGGING_LEVEL"]) == ("1", "INFO")


def test_an_engine_has_room_for_the_longest_prompt_and_its_completion(policy, problems):
    longest = max(map(len, policy.prompt_ids([p.prompt for p in problems])))
    run = run_of(options={})
    new = run.resolved.sampling.max_new_tokens
    assert vllm_arguments(run, policy, problems)["vllm_max_model_length"] == longest + max(new, CHECK_TOKENS)
    prompts = [[7] * 60, [7] * 9]
    own = policy.model.config.max_position_embeddings
    assert room_for(Vllm(), policy, prompts, 3) == own == 64  # never more than the model's own
    assert room_for(Vllm(), policy, prompts[1:], 20) == 29
    assert room_for(Vllm(max_model_len=40), policy, prompts[1:], 20) == 40


def test_nothing_is_said_to_trl_where_transformers_samples_or_engines_are_made_afresh(policy, problems):
    assert vllm_arguments(run_of(), policy, problems) == {}
    assert vllm_arguments(run_of(options={"uses": ["evaluation"]}), policy, problems) == {}
    assert vllm_arguments(run_of("student.warm.rl_teacher", {}), policy, problems) == {}
    assert vllm_arguments(run_of(options={"fresh_each_update": True}), policy, problems) == {}


def test_trls_engine_still_has_what_the_check_uses():
    """Read from release 1.16."""
    import inspect

    source = inspect.getsource(VLLMGeneration)
    for name in GREEDY:
        assert f"self.{name} = {name}" in source
    assert "def sync_weights(self):" in source
    assert list(inspect.signature(VLLMGeneration.generate).parameters)[1:4] == ["prompts", "images", "num_generations"]
    from trl import DistillationTrainer, GRPOTrainer

    for trainer in (GRPOTrainer, DistillationTrainer):
        assert "self.vllm_generation.sync_weights()" in inspect.getsource(trainer._generate_single_turn)
