"""Kernels of a batch that share their imports: a server imports torch, transformers and TRL once and forks for each run.

Importing takes as long as a third of a micro run, the same for each. Only third-party packages are imported before a
fork, so a kernel always runs the code that is there when it starts. Where there is no server (a notebook in JupyterLab,
a single `s2d run`, another host of a cluster, a system that isn't Linux) kernels start as ever.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

KERNEL = "s2d-warm"
ADDRESS = "S2D_WARM_KERNELS"  # environment variable: the server's socket
PRELOADED = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "IPython",
    "pandas",
    "pyarrow",
    "matplotlib.pyplot",
    "datasets",
)
PRELOADED += ("torch", "transformers", "accelerate", "trl", "trl.trainer.grpo_trainer", "trl.trainer.sft_trainer")
CLIENT = Path(__file__).with_name("warm_client.py")


@contextlib.contextmanager
def warm_kernels() -> Iterator[None]:
    """While the block runs, notebooks that `kernel_name` is asked about start from a server's imports (Linux)."""
    if sys.platform != "linux" or ADDRESS in os.environ:
        yield
        return
    # A socket's path has at most 107 bytes, and where TMPDIR is long only a few are left.
    short = None if len(os.fsencode(tempfile.gettempdir())) < 80 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="s2d-warm-", dir=short) as folder:
        spec = Path(folder) / "kernels" / KERNEL
        spec.mkdir(parents=True)
        argv = [sys.executable, "-I", "-S", str(CLIENT), "{connection_file}"]
        kernel = {"argv": argv, "display_name": KERNEL, "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join([folder, *([before] if before else [])])
        os.environ[ADDRESS] = str(Path(folder) / "socket")
        server = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, start_new_session=True)
        try:
            yield
        finally:
            server.stdin.close()  # which tells it to end
            server.wait()
            del os.environ[ADDRESS]
            os.environ.pop("JUPYTER_PATH")
            if before:
                os.environ["JUPYTER_PATH"] = before


def kernel_name(cold: str) -> str:
    """The kernel for a notebook: a warm one if this environment has a server here that answers, else `cold`."""
    with contextlib.suppress(KeyError, OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(os.environ[ADDRESS])
        return KERNEL
    return cold


def serve(address: str) -> None:
    """Import, then fork a kernel for every client, until standard input closes."""
    import gc
    import importlib

    gc.disable()  # as in `batch.KERNEL_ARGUMENTS`
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the supervisors
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _supervise(connection)
            connection.close()


def _supervise(connection: socket.socket) -> None:
    """Run one kernel for one client: end it when the client is gone, tell the client how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    if not message:  # `kernel_name` has only asked whether there is a server
        os._exit(0)
    request = json.loads(message)
    kernel = os.fork()
    if kernel == 0:
        connection.close()
        _become_kernel(request, streams)
    for stream in streams:
        os.close(stream)
    handle = os.pidfd_open(kernel)
    ready, _, _ = select.select([handle, connection], [], [])
    if handle not in ready:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(kernel, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(bytes([status if status >= 0 else 128 - status]))
    os._exit(0)


def _become_kernel(request: dict, streams: list[int]) -> None:
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])  # as `python -m ipykernel_launcher` has it
    sys.modules.pop(__package__, None)  # which running this module has imported: the kernel finds its own
    sys.argv = ["ipykernel_launcher", *request["arguments"]]
    code = 1
    try:
        IPKernelApp.launch_instance()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(os.environ[ADDRESS])
