"""Processes that end with the one that started them, also when that is killed."""

import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "s2d_lib.end_with_parent", sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
child.wait()
"""


def test_a_killed_parent_takes_its_child_along():
    script = PARENT.format(child="import time; time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    until = time.monotonic() + 20
    while "s2d_lib.end_with_parent" in child.cmdline() and time.monotonic() < until:
        time.sleep(0.05)  # until it has become what it was told to
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=20)
    assert gone
