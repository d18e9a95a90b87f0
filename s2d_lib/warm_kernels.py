"""Kernels of a batch that share their imports: a server imports torch, transformers and TRL once and forks for each run.

Importing takes as long as a third of a micro run. Only third-party packages are imported before a fork, so a kernel always runs
the code that is there when it starts. Where there is no server (JupyterLab, a single `s2d run`, another host of a cluster, a
system that isn't Linux) kernels start as ever. Jupyter starts this file as a kernel's process, too, with the standard library
alone: it hands its place to a fork of the server, and each of the two ends with the other.
"""

import contextlib
import ctypes
import fcntl
import importlib
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
PRELOADED = [
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "IPython",
    "pandas",
    "pyarrow",
    "matplotlib.pyplot",
    "datasets",
]
PRELOADED += ["torch", "transformers", "accelerate", "trl", "trl.trainer.grpo_trainer", "trl.trainer.sft_trainer"]
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PYTHON = [sys.executable, "-P"]  # without this file's folder, whose names are those of packages as well (vllm)


@contextlib.contextmanager
def warm_kernels() -> Iterator[dict[str, str]]:
    """While the block runs, notebooks that `kernel_name` is asked about start from a server's imports (Linux); yields the
    environment to ask in."""
    if sys.platform != "linux" or ADDRESS in os.environ:
        yield dict(os.environ)
        return
    # A socket's path has at most 107 bytes, too few for what TMPDIR may be.
    with tempfile.TemporaryDirectory(prefix="s2d-warm-", dir="/tmp") as folder:
        spec = Path(folder) / "kernels" / KERNEL / "kernel.json"
        spec.parent.mkdir(parents=True)
        argv = [*PYTHON, "-I", "-S", __file__, "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": KERNEL, "language": "python"}), encoding="utf-8")
        path = os.pathsep.join(filter(None, (folder, os.environ.get("JUPYTER_PATH"))))
        found = os.environ | {"JUPYTER_PATH": path, ADDRESS: str(Path(folder) / "socket")}
        server = subprocess.Popen([*PYTHON, __file__], stdin=subprocess.PIPE, start_new_session=True, env=found)
        try:
            yield found
        finally:
            server.stdin.close()  # which tells it to end
            if not Path(found[ADDRESS]).exists():  # it still imports, for nobody
                server.kill()
            server.wait()


def kernel_name(cold: str) -> str:
    """The kernel for a notebook: a warm one if this environment has a server here that answers, else `cold`."""
    with contextlib.suppress(KeyError, OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(os.environ[ADDRESS])
        return KERNEL
    return cold


def serve() -> None:
    """Import, then fork a kernel for every client, until standard input closes."""
    import gc

    gc.disable()  # as in `batch.KERNEL_ARGUMENTS`
    for name in PRELOADED:
        importlib.import_module(name)
    sys.modules["pandas"].set_option("display.max_columns", 20)  # what it is where pandas is imported in a kernel
    gc.freeze()
    gc.enable()
    kernels: dict[int, tuple[int, socket.socket]] = {}  # handle of a process -> its number, and who waits for it
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ[ADDRESS])
        listener.listen()
        while sys.stdin not in (ready := select.select([listener, sys.stdin, *kernels], [], [])[0]):
            for handle in kernels.keys() & {*ready}:
                number, client = kernels.pop(handle)
                os.waitpid(number, 0)
                os.close(handle)
                with contextlib.suppress(OSError), client:
                    client.send(b".")
            if listener in ready:
                client, _ = listener.accept()
                if (number := os.fork()) == 0:
                    for other in (listener, *(one for _, one in kernels.values())):
                        other.close()
                    _become_kernel(client)
                kernels[os.pidfd_open(number)] = number, client


def _become_kernel(client: socket.socket) -> None:
    """Be the kernel that a client asks for, with its environment, folder and streams, until either ends."""
    message, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
    if not message:  # `kernel_name` has only asked whether there is a server
        os._exit(0)
    request = json.loads(message)
    os.setsid()
    # The system ends this process and what it has started (SIGIO does, where nobody handles it) when the client is gone.
    fcntl.fcntl(client, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(client, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([client], [], [], 0)[0]:  # by now
        os._exit(1)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])  # as `python -m ipykernel_launcher` has it
    sys.argv = ["ipykernel_launcher", "-f", *request["arguments"]]
    from ipykernel.kernelapp import IPKernelApp

    try:
        IPKernelApp.launch_instance()
    finally:
        os._exit(0)


def ask(arguments: list[str]) -> None:
    """Ask the server for a kernel with this process's environment, folder and streams, and wait until it has ended."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[ADDRESS])
        request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))  # to end with its driver, however that ends
        server.recv(1)


if __name__ == "__main__":
    ask(sys.argv[1:]) if sys.argv[1:] else serve()
