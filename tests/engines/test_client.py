"""TRL's client of a server that becomes slow or dies in the middle of training: a sentence, and no endless wait."""

import copy
import time

import pytest
from accelerate import Accelerator
from fakes import Behaviour, Fake, serving
from trl.generation import vllm_client, vllm_generation

from s2d_lib.engines.client import bound
from s2d_lib.errors import StudyError
from s2d_lib.study.vllm import Vllm


@pytest.fixture
def behaviour(policy):
    return Behaviour(Fake(copy.deepcopy(policy.model), policy.tokenizer.eos_token_id))


@pytest.fixture
def engine_at(policy, monkeypatch):
    """TRL's own engine of a server at some address, as a training has it; but no weights go there."""
    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda *args, **options: True)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda self, device: None)

    def at(url: str, timeout: float):
        options = Vllm(mode="server", url=url + "/", timeout=timeout)
        engine = vllm_generation.VLLMGeneration(
            policy.model,
            Accelerator(cpu=True),
            policy.tokenizer,
            mode="server",
            server_base_url=url,
            server_timeout=0.0,
        )
        for adapter in engine.vllm_client.session.adapters.values():
            adapter.max_retries = adapter.max_retries.new(backoff_factor=0.01)  # else a minute between its tries
        bound(engine, options)
        return engine

    return at


def sampled(engine):
    return engine.generate(prompts=[[5, 6, 7]] * 2, images=None, num_generations=2)


def synced(engine):
    return engine.sync_weights()


ASKS = pytest.mark.parametrize("ask", [sampled, synced])


@ASKS
def test_a_server_that_becomes_slow_ends_the_training_in_time(behaviour, engine_at, ask):
    with serving(behaviour) as url:
        engine = engine_at(url, timeout=0.4)
        behaviour.wait, behaviour.reply = 3.0, {}
        began = time.perf_counter()
        with pytest.raises(StudyError, match=rf"{url} did not answer within 0\.4 seconds: .*`sampling\.vllm\.timeout`"):
            ask(engine)
        assert time.perf_counter() - began < 2  # it is not asked again and again


@ASKS
def test_a_server_that_dies_is_said_to_be_dead(behaviour, engine_at, ask):
    with serving(behaviour) as url:
        engine = engine_at(url, timeout=5.0)
    with pytest.raises(StudyError, match=rf"{url} is no vLLM server, or it has died \(.*refused\): start one") as error:
        ask(engine)
    assert "\n" not in str(error.value)


def test_a_server_that_stumbles_once_is_asked_again(behaviour, engine_at):
    answers = [{"index": i, "token_ids": [8], "prompt_token_ids": [5, 6, 7], "logprobs": None} for i in range(2)]
    tries = []

    def post(content):
        tries.append(content)
        if len(tries) == 1:
            raise ConnectionResetError
        return {"choices": answers}

    behaviour.post = post
    with serving(behaviour) as url:
        assert sampled(engine_at(url, timeout=5.0))[1] == [[8], [8]]
    assert len(tries) == 2


def test_an_engine_that_is_no_server_stays_as_it_is():
    engine = object()
    bound(engine, Vllm())
