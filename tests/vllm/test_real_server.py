"""A real vLLM server on the CPU: evaluation end to end, and the one that serves another checkpoint's weights."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch

from s2d_lib.engines.sampler import checked, sampler
from s2d_lib.engines.server import Server
from s2d_lib.errors import StudyError
from s2d_lib.evaluation import evaluate
from s2d_lib.policies.place import model_place
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.study.load import deep_merge

PATIENCE = float(os.environ.get("S2D_VLLM_PATIENCE", "300"))  # seconds that a server may take to start


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a server of the released teacher, under its name in the profile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--served-model-name",
        "micro/chains-teacher",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-num-seqs",
        "64",
    ]
    # `vllm serve` of 0.31.0 asks for the version of a package named vllm, which the CPU's is not.
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        model_place("micro/chains-teacher"),
        *options,
    ]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    quiet["VLLM_SERVER_DEV_MODE"] = "1"  # it then says its precision, by which the check is as sharp as it can be
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | quiet,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    address, began = f"http://127.0.0.1:{port}", time.perf_counter()
    try:
        while not _up(address):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.perf_counter() - began < PATIENCE, log.read_text()[-3000:]
            time.sleep(1)
        print(f"\nserver started: {time.perf_counter() - began:.1f} s", end="")
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _up(address: str) -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    return False


def test_evaluation_by_a_server_and_a_policy_that_it_does_not_hold(url, runs, tiny, clocked):
    block = {"mode": "server", "url": url, "uses": ["evaluation"]}
    overrides = deep_merge(tiny, {"sampling": {"engine": "vllm", "vllm": block}})
    run = open_run("micro", "teacher", 0, overrides)
    inputs = prepare(run)
    with clocked("evaluation by a server"):
        summary = evaluate(run, inputs)
    assert len(summary) == 2
    print(f"\n{run.facts['vllm']}", end="")
    problems = inputs.problems.evaluations["micro-math"]
    options, eos = run.resolved.sampling.vllm, inputs.policy.tokenizer.eos_token_id
    with sampler(run, inputs.policy, "evaluation", problems) as sample:
        arguments = {"samples": 4, "sampling": run.resolved.sampling, "show": False}
        first, again, other = (sample(problems, seed=seed, **arguments) for seed in (0, 0, 1))
    assert first == again != other
    assert all(r.finished == (r.ids[-1] == eos) and eos not in r.ids[:-1] for r in first)
    assert Server(options, eos).dtype == "float32"
    with torch.no_grad():
        inputs.policy.model.get_input_embeddings().weight.mul_(1.01)
    with pytest.raises(StudyError, match="vLLM does not hold the weights of a newer teacher"):
        checked(Server(options, eos), inputs.policy, problems, about="a newer teacher")
    with pytest.raises(
        StudyError, match=r"serves micro/chains-teacher \(.*\), and what is to be sampled is micro/chains-student"
    ):
        prepare(open_run("micro", "student", 0, overrides))
