"""Stand-ins for vLLM: an engine over a transformers model, and an HTTP server that behaves well or badly."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from s2d_lib.engines.answers import Answer, Request


@torch.no_grad()
def greedy(model, prompt: list[int], eos: int, tokens: int) -> Answer:
    """A model's own greedy answer, token by token."""
    ids, log_probs = [], []
    while len(ids) < tokens and (not ids or ids[-1] != eos):
        at = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1].float().log_softmax(-1)
        ids.append(int(at.argmax()))
        top = at.topk(5)
        log_probs.append(dict(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
    return Answer(ids, log_probs)


class Fake:
    """An engine that answers greedily, whatever it is asked."""

    dtype = "float32"

    def __init__(self, model, eos: int):
        self.model, self.eos, self.asked = model, eos, []

    def answer(self, prompts, request: Request, **options):
        self.asked.append(request)
        return [[greedy(self.model, p, self.eos, request.max_new_tokens)] * request.samples for p in prompts]

    def close(self):
        pass


class Behaviour:
    """What a server says; a test changes it."""

    def __init__(self, engine: Fake | None = None):
        self.model, self.version, self.wait, self.engine = "micro/chains-student", "0.31.0", 0.0, engine
        self.dtype, self.reply, self.requests = "torch.float32", None, []

    def get(self, path: str):
        if path == "/version":
            return {"version": self.version}
        if path == "/health":
            return {}
        if path == "/v1/models":
            return {"data": [{"id": self.model, "root": self.model}]}
        if path.startswith("/server_info") and self.dtype:
            return {"vllm_config": {"model_config": {"dtype": self.dtype}}}
        return None

    def post(self, content: dict):
        self.requests.append(content)
        if self.reply is not None:
            return self.reply
        (answers,) = self.engine.answer([content["prompt"]], Request(content["n"], content["max_tokens"]))
        choices = [
            {"index": i, "token_ids": a.ids, "logprobs": None if content["logprobs"] is None else written(a)}
            for i, a in enumerate(answers)
        ]
        return {"choices": choices[::-1]}


def written(answer: Answer) -> dict:
    """Log-probabilities as vLLM's server writes them."""
    tops = [{f"token_id:{token}": value for token, value in at.items()} for at in answer.log_probs]
    own = [at[token] for token, at in zip(answer.ids, answer.log_probs, strict=True)]
    return {"token_logprobs": own, "top_logprobs": tops}


@contextlib.contextmanager
def serving(behaviour: Behaviour):
    """A real HTTP server on a port of its own; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def _say(self, content):
            time.sleep(behaviour.wait)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

        def do_GET(self):
            self._say(behaviour.get(self.path))

        def do_POST(self):
            self._say(behaviour.post(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
