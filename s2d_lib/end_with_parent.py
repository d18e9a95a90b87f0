"""A process that ends when the one that started it does: `python -m s2d_lib.end_with_parent <its pid> <command>`. A killed
notebook would leave its workers training, and a second attempt would write the same files beside them."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """From now on (on Linux) this process gets a signal when its parent ends; what replaces it by exec does too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


if __name__ == "__main__":
    end_with_parent(signal.SIGTERM)  # torchrun and accelerate pass it on
    if os.getppid() != int(sys.argv[1]):
        sys.exit("whoever started this has ended by now")
    os.execvp(sys.argv[2], sys.argv[2:])
