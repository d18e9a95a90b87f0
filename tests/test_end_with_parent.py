"""Processes that end with the one that started them, also when that is killed."""

import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")

SLEEP = "import time; time.sleep(100)"
PARENT = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "s2d_lib.end_with_parent", str(os.getpid()), sys.executable, "-c", {SLEEP!r}])
print(child.pid, flush=True)
child.wait()
"""


def test_a_killed_parent_takes_its_child_along():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child, until = psutil.Process(int(parent.stdout.readline())), time.monotonic() + 60
    while child.cmdline()[1:] != ["-c", SLEEP] and time.monotonic() < until:
        time.sleep(0.05)  # until it has become what it was told to
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([child], timeout=20)[0]


def test_nothing_is_started_for_a_parent_that_has_ended():
    command = [sys.executable, "-m", "s2d_lib.end_with_parent", "1", sys.executable, "-c", "print('started')"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, "has ended by now" in found.stderr) == (1, "", True)
