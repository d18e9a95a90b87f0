"""What Jupyter starts as a warm kernel's process (see warm_kernels.py): it hands its place to a fork of the server.

Only the standard library, so that it starts at once. The kernel dies with this process and this process with the kernel.
"""

import json
import os
import signal
import socket
import sys


def main() -> int:
    """Ask for a kernel with this process's environment, folder and streams; end as it ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["S2D_WARM_KERNELS"])
        request = {
            "arguments": ["-f", *sys.argv[1:]],
            "environment": dict(os.environ),
            "folder": os.getcwd(),
        }
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status = connection.recv(1)
    return status[0] if status else 1


if __name__ == "__main__":
    sys.exit(main())
