"""TRL's client of a vLLM server, in training: it waits no longer than the profile says, and says in one sentence what fails."""

import contextlib
from functools import partial

import requests
from trl.generation.vllm_generation import VLLMGeneration
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry

from s2d_lib.engines.server import gone, late
from s2d_lib.errors import StudyError
from s2d_lib.study.vllm import Vllm


def bound(engine: VLLMGeneration, options: Vllm) -> None:
    """Let an engine that is a server sample and take weights within `timeout` seconds a request, or end the run.

    TRL's client (1.16) waits for ever. Afterwards `engine.generate` and `engine.sync_weights` raise a StudyError where the
    server is late or gone.

    Args:
        engine: TRL's, in mode server.
        options: The profile's.
    """
    client = getattr(engine, "vllm_client", None)  # the first process's, which alone talks to the server
    if client is None:
        return
    client.session.request = partial(client.session.request, timeout=options.timeout)
    for adapter in client.session.adapters.values():
        adapter.max_retries = _UnlessLate(**vars(adapter.max_retries))
    engine.generate, engine.sync_weights = (_named(options)(asks) for asks in (engine.generate, engine.sync_weights))


class _UnlessLate(Retry):
    """TRL's second tries after a hiccup of the network; not at a server that is late, which it would ask five times more."""

    def increment(self, method=None, url=None, response=None, error=None, *rest, **named):
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, *rest, **named)


@contextlib.contextmanager
def _named(options: Vllm):
    url = options.url.rstrip("/")
    try:
        yield
    except requests.Timeout:
        raise StudyError(late(url, options.timeout)) from None
    except requests.RequestException as error:
        raise StudyError(gone(url, getattr(error.args[0], "reason", error))) from None
