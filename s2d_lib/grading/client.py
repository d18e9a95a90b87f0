"""The near end of the grading worker: starts it when first needed, asks, and replaces it when it is gone."""

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from s2d_lib.errors import StudyError

Verifier = Literal["math-verify", "reasoning-gym"]

START_S = 180.0  # importing sympy on a busy machine
WALL_FACTOR = 3.0  # seconds on the clock per second of processor time that a request may take
GRACE_S = 15.0  # after its limits the kernel has ended a request; a worker silent for longer is stuck itself
ATTEMPTS = 3  # a worker killed from outside is replaced and asked again


class TimeLimit(Exception):
    """A request used up its time."""


class WorkerCrash(Exception):
    """The worker ended while it worked on a request: out of memory, out of stack, or killed again and again."""


class _Lost(Exception):
    """The worker is gone or silent."""


class Worker:
    """One worker process, shared by all threads of this process.

    A request's time limit starts when the worker begins it: neither waiting for other threads nor starting the worker
    counts.
    """

    def __init__(self, verifier: Verifier = "math-verify"):
        self.verifier = verifier
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._pending = b""
        self._requests = 0

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return self._process.pid if self._process else None

    def ask(self, pairs: Sequence[tuple[str, str]], timeout_s: float) -> list[bool]:
        """Whether the verifier holds each (gold, answer) pair equal.

        Args:
            pairs: LaTeX without dollars; for reasoning-gym the problem's gold as JSON and the answer's text.
            timeout_s: Processor seconds for all pairs together.

        Raises:
            TimeLimit: The pairs took longer.
            WorkerCrash: They ended the worker in another way.
            StudyError: The worker does not start.
        """
        if not pairs:
            return []
        with self._lock:
            try:
                for _ in range(ATTEMPTS):
                    try:
                        reply = self._exchange(pairs, timeout_s)
                    except (_Lost, OSError):
                        self.stop()
                        continue
                    died = reply.get("died")
                    if died in (signal.SIGPROF, signal.SIGALRM):
                        raise TimeLimit
                    if died in (signal.SIGKILL, signal.SIGTERM):  # from outside: not this request's fault
                        continue
                    if died or "error" in reply:
                        raise WorkerCrash(reply.get("error") or f"signal {died}")
                    return reply["equal"]
                raise WorkerCrash(f"killed {ATTEMPTS} times")
            except (TimeLimit, WorkerCrash, StudyError):
                raise
            except BaseException:  # Ctrl-C between request and reply: the next reply would be the wrong one
                self.stop()
                raise

    def stop(self) -> None:
        """End the worker, if there is one; the next request starts a new one."""
        process, self._process, self._pending = self._process, None, b""
        if process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads its own group: warm process and serving child
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()

    def _forget(self) -> None:
        """In a forked process: leave the worker to the parent, and let go of its pipes so that it ends with it."""
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # not ours to wait for
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()

    def _start(self) -> None:
        # By path and isolated from the working directory (-P), so that no module of the user's shadows a library.
        # Hash order is fixed: sympy's order of terms, and with it its running time, depends on it.
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(os.getpid()), self.verifier],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # a Ctrl-C in the terminal or notebook is not for the worker
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
            reply = self._read(START_S)
        except (_Lost, OSError) as error:
            self.stop()
            raise StudyError(f"The grading worker did not start ({error}): check the installation.") from error
        if "ready" not in reply:
            self.stop()
            raise StudyError(
                f"The grading worker could not import {self.verifier} ({reply.get('failed')}): reinstall it."
            )

    def _exchange(self, pairs: Sequence[tuple[str, str]], timeout_s: float) -> dict:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._process is None:
            self._start()
        self._requests += 1
        wall_s = WALL_FACTOR * timeout_s
        request = {"id": self._requests, "pairs": list(pairs), "cpu_s": timeout_s, "wall_s": wall_s}
        self._send(json.dumps(request).encode() + b"\n")  # ASCII: lone surrogates and NUL travel as escapes
        deadline = time.monotonic() + wall_s + GRACE_S
        while True:
            reply = self._read(deadline - time.monotonic())
            if "died" in reply or reply.get("id") == self._requests:
                return reply

    def _send(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[self._process.stdin.write(view) :]

    def _read(self, timeout_s: float) -> dict:
        """The next line of the worker."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise _Lost("no sign of life")
                chunk = self._process.stdout.read(1 << 16)
                if not chunk:
                    raise _Lost("it ended")
                self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)


def _workers() -> dict[str, Worker]:
    return {verifier: Worker(verifier) for verifier in get_args(Verifier)}


_shared = _workers()


def shared_worker(verifier: Verifier = "math-verify") -> Worker:
    """The worker of this process that runs a verifier."""
    return _shared[verifier]


def _after_fork() -> None:
    global _shared
    for worker in _shared.values():
        worker._forget()
    _shared = _workers()  # with locks of their own: another thread may have held an old one


os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: [worker.stop() for worker in _shared.values()])
