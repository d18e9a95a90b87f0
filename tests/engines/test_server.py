"""A vLLM server that is not there, is slow, serves another model or something else: one sentence each."""

import copy
import shutil
import socket
import threading
import time

import pytest
import torch
from fakes import Behaviour, Fake, serving

from s2d_lib.check import check_runs
from s2d_lib.engines.answers import Request
from s2d_lib.engines.sampler import sampler
from s2d_lib.engines.server import Server
from s2d_lib.errors import StudyError
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import Decoding
from s2d_lib.study.vllm import Vllm


def options(url: str, timeout: float = 5.0) -> Vllm:
    return Vllm(mode="server", url=url, timeout=timeout)


@pytest.fixture
def behaviour(policy):
    """A server of the student's own weights, at first."""
    return Behaviour(Fake(copy.deepcopy(policy.model), policy.tokenizer.eos_token_id))


@pytest.fixture
def open_at(runs, tiny):
    """A run of the student that a server at some address samples."""

    def at(url: str):
        block = {"mode": "server", "url": url, "uses": ["rollouts", "evaluation"]}
        return open_run("micro-full", "student", 0, deep_merge(tiny, {"sampling": {"engine": "vllm", "vllm": block}}))

    return at


def test_a_server_that_is_not_there():
    with serving(Behaviour()) as url:
        pass
    with pytest.raises(StudyError, match=f"there is no vLLM server at {url} .*start it with `vllm serve`"):
        Server(options(url))


def test_a_server_that_answers_slowly(behaviour):
    behaviour.wait = 2.0
    with serving(behaviour) as url:
        began = time.perf_counter()
        with pytest.raises(StudyError, match=r"did not answer within 0\.2 seconds"):
            Server(options(url, timeout=0.2))
        assert time.perf_counter() - began < 1.5


def test_a_server_that_becomes_slow_ends_the_run_at_once(behaviour, policy, problems):
    with serving(behaviour) as url:
        server = Server(options(url, timeout=0.5), policy.tokenizer.eos_token_id)
        behaviour.wait, behaviour.reply = 2.0, {}
        began = time.perf_counter()
        many = policy.prompt_ids([p.prompt for p in problems]) * 100
        with pytest.raises(StudyError, match=r"did not answer within 0\.5 seconds"):
            server.answer(many, Request(samples=1, max_new_tokens=4))
        assert time.perf_counter() - began < 4  # not one timeout after the other


def test_a_server_that_serves_another_model(behaviour, open_at):
    behaviour.model = "org/other"
    with serving(behaviour) as url:
        run = open_at(url)
        with pytest.raises(StudyError, match="serves org/other, and what is to be sampled is micro/chains-student"):
            prepare(run)


def test_a_server_of_an_unsupported_version(behaviour):
    behaviour.version = "0.19.1"
    with (
        serving(behaviour) as url,
        pytest.raises(StudyError, match=r"vLLM 0\.19\.1 is what serves .* TRL 1\.16 supports"),
    ):
        Server(options(url))


def test_something_that_is_no_vllm_server(behaviour):
    behaviour.get = lambda path: {"hello": "world"}
    with serving(behaviour) as url, pytest.raises(StudyError, match="is no vLLM server"):
        Server(options(url))
    behaviour.get = lambda path: None
    with serving(behaviour) as url, pytest.raises(StudyError, match=r"refused /version \(404"):
        Server(options(url))


def test_an_address_that_is_none():
    with pytest.raises(StudyError, match="what answers at http://localhost:port is no vLLM server, or it has died"):
        Server(options("http://localhost:port"))


def test_something_that_speaks_no_http():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            caller, _ = listener.accept()
            with caller:
                caller.recv(1000)
                caller.sendall(b"hello\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(StudyError, match="is no vLLM server, or it has died"):
            Server(options(f"http://127.0.0.1:{listener.getsockname()[1]}"))


def test_a_server_built_from_a_branch(behaviour):
    behaviour.version = "nightly"
    with serving(behaviour) as url, pytest.raises(StudyError, match=r"vLLM nightly is what serves at .* supports"):
        Server(options(url))


def test_an_answer_that_is_not_what_was_asked_for(behaviour, policy):
    with serving(behaviour) as url:
        server = Server(options(url), policy.tokenizer.eos_token_id)
        for reply in ({"choices": []}, {"error": "x"}, {"choices": [{"index": 0, "token_ids": [1], "logprobs": None}]}):
            behaviour.reply = reply
            with pytest.raises(StudyError, match="answered a request for 1 completions with something else"):
                server.answer([[1, 2]], Request(samples=1, max_new_tokens=4, top=5))


def test_a_server_samples_as_the_rollouts_contract_says(behaviour, policy, problems, open_at):
    with serving(behaviour) as url:
        run = open_at(url)
        with sampler(run, policy, "evaluation", problems) as sample:
            behaviour.requests.clear()
            decoding = Decoding(top_p=0.9)
            rollouts = sample(
                problems, samples=2, sampling=run.resolved.sampling, seed=3, decoding=decoding, show=False
            )
            asked = list(behaviour.requests)
    assert [(r.problem, r.sample) for r in rollouts] == [(p.id, i) for p in problems for i in range(2)]
    eos = policy.tokenizer.eos_token_id
    assert all(r.finished == (r.ids[-1] == eos) and eos not in r.ids[:-1] for r in rollouts)
    assert all(r.text == policy.tokenizer.decode([i for i in r.ids if i != eos]) for r in rollouts)
    assert len({one["seed"] for one in asked}) == len(problems)
    wanted = {"n": 2, "top_p": 0.9, "temperature": 1.0, "top_k": 0, "stop_token_ids": [eos], "ignore_eos": True}
    assert all(wanted.items() <= one.items() for one in asked)
    assert run.facts["vllm"]["evaluation"]["version"] == "0.31.0"
    assert run.facts["vllm"]["evaluation"]["check"]["tokens"] > 10


def test_a_server_with_other_weights_is_caught_before_anything_is_sampled(behaviour, policy, problems, open_at):
    with torch.no_grad():
        behaviour.engine.model.get_input_embeddings().weight.mul_(1.01)
    with serving(behaviour) as url:
        run = open_at(url)
        with (
            pytest.raises(StudyError, match="vLLM does not hold the weights of 'student'"),
            sampler(run, policy, "evaluation", problems),
        ):
            pytest.fail("the block was entered")


def test_a_server_whose_weights_change_meanwhile_is_caught_in_the_end(behaviour, policy, problems, open_at):
    with serving(behaviour) as url:
        run = open_at(url)
        with (
            pytest.raises(StudyError, match="vLLM does not hold the weights of 'student'"),
            sampler(run, policy, "evaluation", problems),
            torch.no_grad(),
        ):
            behaviour.engine.model.get_input_embeddings().weight.mul_(1.01)
    assert "vllm" not in run.facts


def test_the_check_says_what_a_server_can_not_do(behaviour, root, tmp_path, monkeypatch):
    def says() -> str:
        return " ".join(str(line) for line in check_runs("served") if line.about == "vLLM")

    shutil.copytree(root / "params", tmp_path / "params")
    monkeypatch.setenv("S2D_HOME", str(tmp_path))
    with serving(behaviour) as url:
        text = f"extends: micro-full\nsampling: {{engine: vllm, vllm: {{mode: server, url: '{url}', uses: [evaluation]}}}}\n"
        (tmp_path / "params" / "served.yaml").write_text(text)
        found = says()
        assert "ok       vLLM: samples what it is asked for" in found
        assert "no server can hold the weights that 'student.grpo' is going to train" in found
    assert "there is no vLLM server" in says()
