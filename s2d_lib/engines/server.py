"""vLLM in server mode, by its HTTP interface: is it there, does it serve the right model, and its completions."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm.auto import tqdm

from s2d_lib.engines.answers import Answer, Request
from s2d_lib.engines.version import refuse_misfit
from s2d_lib.errors import StudyError
from s2d_lib.study.vllm import Vllm

PATIENCE = 20.0  # seconds at most for a question that a server which is up answers at once
CONNECTIONS = 64


class Server:
    """A vLLM server that somebody has started.

    Attributes:
        model: The name under which it serves its model.
        root: Where it has that model from.
        version: Of vLLM.
        dtype: Of its computation, where it says so; else taken to be the coarsest.
    """

    def __init__(self, options: Vllm, eos: int | None = None):
        """Ask the server who it is.

        Raises:
            StudyError: It is not there, does not answer in time, is no vLLM server, or one of an unsupported version.
        """
        self.url, self.timeout, self.eos = options.url.rstrip("/"), options.timeout, eos
        patience = min(PATIENCE, self.timeout)
        try:
            self.version = str(self._ask("/version", timeout=patience)["version"])
            served = self._ask("/v1/models", timeout=patience)["data"][0]
            self.model, self.root = str(served["id"]), str(served.get("root") or served["id"])
        except (KeyError, IndexError, TypeError):
            raise StudyError(f"what answers at {self.url} is no vLLM server: mend `sampling.vllm.url`.") from None
        refuse_misfit(self.version, f"what serves at {self.url}", "start a server of such a version")
        self.dtype = self._dtype(patience)

    def _dtype(self, patience: float) -> str:
        try:
            found = self._ask("/server_info?config_format=json", timeout=patience)["vllm_config"]["model_config"][
                "dtype"
            ]
        except (StudyError, KeyError, TypeError):  # only a server in development mode tells
            return "bfloat16"
        return str(found).removeprefix("torch.")

    def refuse_another_model(self, names: Sequence[str]) -> None:
        """Refuse a server that serves something else; `names` are what the policy may be called, the best one first.

        Raises:
            StudyError: It does.
        """
        if not {self.model, self.root} & set(names):
            whose = self.model if self.root == self.model else f"{self.model} ({self.root})"
            raise StudyError(
                f"the vLLM server at {self.url} serves {whose}, and what is to be sampled is {names[0]}: start it with `vllm "
                f"serve {names[0]}`, or mend `sampling.vllm.url`."
            )

    def answer(self, prompts: Sequence[list[int]], request: Request, *, show: bool = False, about: str = "") -> list:
        """Completions of every prompt; one request a prompt, many at a time.

        Raises:
            StudyError: No answer in time, or none that can be read.
        """
        seeds = request.seeds or [None] * len(prompts)
        with ThreadPoolExecutor(CONNECTIONS) as pool, tqdm(total=len(prompts), desc=about, disable=not show) as bar:

            def one(prompt: list[int], seed: int | None) -> list[Answer]:
                found = self._complete(prompt, request, seed)
                bar.update()
                return found

            try:
                return list(pool.map(one, prompts, seeds))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what waits would wait for the same
                raise

    def _complete(self, prompt: list[int], request: Request, seed: int | None) -> list[Answer]:
        content = {"model": self.model, "prompt": prompt, "seed": seed}
        content |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
        reply = self._ask("/v1/completions", content | request.fields(self.eos), self.timeout)
        try:
            choices = sorted(reply["choices"], key=lambda choice: choice["index"])
            asked = request.top is not None
            found = [Answer(list(c["token_ids"]), _log_probs(c) if asked else []) for c in choices]
        except (KeyError, TypeError, ValueError, AttributeError):
            found = []
        if len(found) != request.samples or any(values and len(ids) != len(values) for ids, values in found):
            raise StudyError(
                f"the vLLM server at {self.url} answered a request for {request.samples} completions with something else: see "
                "its log."
            )
        return found

    def _ask(self, path: str, content: dict | None = None, timeout: float = PATIENCE) -> dict:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            said = " ".join(error.read().decode(errors="replace").split())[:200]
            raise StudyError(f"the vLLM server at {self.url} refused {path} ({error.code}: {said}).") from None
        except TimeoutError:
            raise StudyError(late(self.url, timeout)) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise StudyError(late(self.url, timeout)) from None
            raise StudyError(
                f"there is no vLLM server at {self.url} ({error.reason}): start it with `vllm serve`, or mend "
                "`sampling.vllm.url`."
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise StudyError(gone(self.url, error)) from None

    def close(self) -> None:
        """Nothing to free: the server is somebody else's."""


def late(url: str, timeout: float) -> str:
    """The sentence about a server that has not answered in time (seconds)."""
    return (
        f"the vLLM server at {url} did not answer within {timeout:g} seconds: see whether it is still loading or "
        "overloaded, or raise `sampling.vllm.timeout`."
    )


def gone(url: str, error: Exception) -> str:
    """The sentence about a server with which one can't talk, or no longer."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"what answers at {url} is no vLLM server, or it has died ({reason}): start one with `vllm serve`, or mend "
        "`sampling.vllm.url`."
    )


def _log_probs(choice: dict) -> list[dict[int, float]]:
    """By token id, at each token; the server writes an id as `token_id:7`."""
    said, tops = choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]
    return [
        {token: own} | {int(name.removeprefix("token_id:")): value for name, value in (top or {}).items()}
        for token, own, top in zip(choice["token_ids"], said, tops, strict=True)
    ]
