"""A fresh engine before every sampling of a training on a CPU, with a stand-in that loads what an engine would load."""

from itertools import repeat

import pytest
import torch
from fakes import greedy

from s2d_lib.engines import fresh
from s2d_lib.engines import version as version_module
from s2d_lib.engines.answers import Answer
from s2d_lib.engines.training import SyncCheck
from s2d_lib.errors import StudyError
from s2d_lib.policies.policy import load_policy, save_policy
from s2d_lib.runs import open_run
from s2d_lib.stages.distillation import dense_trainer
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.self_distillation import self_distillation_trainer
from s2d_lib.stages.sparse_rl import sparse_trainer
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import Hardware, RoleModel

FRESH = {"sampling": {"engine": "vllm", "vllm": {"uses": ["training"], "fresh_each_update": True}}}
LORA = {"rank": 4, "alpha": 8}
SPEC = RoleModel(model="micro/chains-student")


@torch.no_grad()
def drawn(model, prompt: list[int], eos: int, tokens: int, seed: int) -> Answer:
    """A sample at temperature 1 with the log-probabilities of its tokens."""
    ids, log_probs, stream = [], [], torch.Generator().manual_seed(seed)
    while len(ids) < tokens and (not ids or ids[-1] != eos):
        at = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1].log_softmax(-1)
        ids.append(int(at.exp().multinomial(1, generator=stream)))
        log_probs.append({ids[-1]: float(at[ids[-1]])})
    return Answer(ids, log_probs)


class Loaded:
    """What Colocated is: weights that went through a folder, and answers from them."""

    made: list = []  # noqa: RUF012

    def __init__(self, policy, options, hardware, *, batch, context, place, logprobs_mode):
        save_policy(policy, place)
        self.model = load_policy(SPEC, hardware, place).model.eval()
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
        self.eos, self.context, self.batch = policy.tokenizer.eos_token_id, context, batch
        self.closed, self.requests = False, []
        self.llm = type(
            "Llm", (), {"llm_engine": type("E", (), {"model_config": type("C", (), {"dtype": torch.float32})})}
        )
        torch.manual_seed(0)  # as vLLM does
        Loaded.made.append(self)

    def answer(self, prompts, request):
        self.requests.append(request)
        assert max(map(len, prompts)) + request.max_new_tokens <= self.context
        tokens = request.max_new_tokens
        if request.temperature == 0:
            return [[greedy(self.model, p, self.eos, tokens)] for p in prompts]
        return [[drawn(self.model, *one)] for one in zip(prompts, repeat(self.eos), repeat(tokens), request.seeds)]

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    monkeypatch.setattr(fresh, "Colocated", Loaded)
    monkeypatch.setattr(version_module.metadata, "version", lambda name: "0.31.0")
    monkeypatch.setattr(Loaded, "made", [])
    return Loaded


def trainer_of(checkpoint: str, make, overrides: dict, *parents: str):
    overrides = deep_merge(overrides, FRESH)
    for parent in parents:
        open_run("micro-full", parent, 0, overrides).finish()
    run = open_run("micro-full", checkpoint, 0, overrides)
    inputs = prepare(run)
    return run, make(run, inputs)


def two_steps(trainer):
    trainer.args.max_steps = 2
    trainer.train()


@pytest.mark.parametrize("lora", [None, LORA])
def test_every_update_of_grpo_makes_a_checked_engine_from_the_weights_as_they_are(engines, runs, tiny, lora):
    stage = {"learning_rate": 1e-2, "warmup_steps": 0} | ({"lora": lora} if lora else {})
    tiny = deep_merge(tiny, {"stages": {"sparse_rl": stage}})
    run, trainer = trainer_of("student.grpo", sparse_trainer, tiny, "student")
    two_steps(trainer)
    assert len(engines.made) == 2  # one a step
    assert all(engine.closed for engine in engines.made)
    assert trainer.vllm_generation.llm is None
    assert not run.path(".engine").exists()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert all(row["sampling/sampling_logp_difference/max"] < 1e-4 for row in logged)  # TRL reads the engine's own
    start = load_policy(SPEC, Hardware()).model
    first, second = (dict(engine.model.named_parameters()) for engine in engines.made)
    assert all(torch.equal(first[name], weight) for name, weight in start.named_parameters())
    assert any(not torch.equal(first[name], weight) for name, weight in second.items())
    for engine in engines.made:  # the check, then the batch, each row with a seed of its own
        check, batch = engine.requests
        assert (check.temperature, check.top, check.max_new_tokens) == (0.0, 5, 16)
        assert (batch.temperature, batch.top_p, batch.top) == (1.0, 1.0, 0)
        assert len(set(batch.seeds)) == len(batch.seeds) == engine.batch == 16
    assert not set(engines.made[0].requests[1].seeds) & set(engines.made[1].requests[1].seeds)


@pytest.mark.parametrize(
    ("checkpoint", "make"),
    [("student.opd_only.rl_same_size", dense_trainer), ("student.srpo", self_distillation_trainer)],
)
def test_the_other_stages_that_sample_themselves(engines, runs, tiny, checkpoint, make):
    if make is dense_trainer:  # its teacher
        run, _ = trainer_of("student.grpo", sparse_trainer, tiny, "student")
        save_policy(load_policy(SPEC, Hardware()), run.path("model"))
        run.finish()
    _, trainer = trainer_of(checkpoint, make, tiny, "student")
    two_steps(trainer)
    assert len(engines.made) == 2
    assert all(len(engine.requests) == 2 for engine in engines.made)


@pytest.mark.parametrize(
    ("checkpoint", "make"), [("student.grpo", sparse_trainer), ("student.srpo", self_distillation_trainer)]
)
def test_top_k_and_the_cap_on_importance_weights_reach_what_samples(engines, runs, tiny, checkpoint, make):
    capped = {name: {"importance_cap": 0.5} for name in ("sparse_rl", "self_distillation")}
    _, trainer = trainer_of(checkpoint, make, deep_merge(tiny, {"sampling": {"top_k": 3}, "stages": capped}), "student")
    two_steps(trainer)
    assert [engine.requests[1].top_k for engine in engines.made] == [3, 3]
    assert trainer.args.top_k == 3
    for row in trainer.state.log_history[:2]:  # what this engine says and the model's own are the same: 1, over the cap
        assert row["sampling/importance_sampling_ratio/max"] == 0.5


def test_an_engine_of_other_weights_is_caught(engines, runs, tiny, monkeypatch):
    _, trainer = trainer_of("student.grpo", sparse_trainer, tiny, "student")
    made = Loaded.__init__

    def disturbed(self, *args, **options):
        made(self, *args, **options)
        with torch.no_grad():
            self.model.get_input_embeddings().weight.mul_(1.05)

    monkeypatch.setattr(Loaded, "__init__", disturbed)
    with pytest.raises(StudyError, match=r"vLLM does not hold the weights of 'student\.grpo' at step 0"):
        two_steps(trainer)


def test_making_an_engine_leaves_the_random_streams_alone(engines, runs, tiny):
    _, trainer = trainer_of("student.grpo", sparse_trainer, tiny, "student")
    assert any(isinstance(one, SyncCheck) for one in trainer.callback_handler.callbacks)
    before = torch.get_rng_state()
    trainer.vllm_generation.sync_weights()
    assert torch.equal(torch.get_rng_state(), before)
