"""Grading under attack: runaway algebra, huge and broken text, threads, forks, killed workers."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.grading import client, grade
from s2d_lib.grading.client import Worker, shared_worker

BOUND_S = 6.0  # the limit is 1 s of processor time and 3 s on the clock; the machine may be busy

# Run into the time limit (checked below): one endless C call, and endless Python.
RUNAWAYS = ["(10^9)!", "(x+y+z+w)^{500}-1"]


@pytest.fixture(scope="module", autouse=True)
def warm():
    assert grade(r"\boxed{\sqrt{16}+x}", "x+4").correct


def boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


HOSTILE = {
    "power": boxed("10**10**10"),
    "power of power": boxed("10^{10^{10}}"),
    "tower": boxed("9^{9^{9^9}}"),
    "factorial": boxed("(10^9)!"),
    "big factorial": boxed("1000000000!"),
    "double factorial": boxed("99999!!"),
    "expansion": boxed("(x+y+z+w)^{500}-1"),
    "integral": boxed(r"\int_0^{1} e^{x^{x^x}} dx"),
    "product": boxed(r"\prod_{k=1}^{99999} k"),
    "deep roots": boxed(r"\sqrt{" * 300 + "2" + "}" * 300),
    "deep fractions": boxed(r"\frac{1}{" * 24 + "x" + "}" * 24),
    "deep parentheses": boxed("(" * 400 + "1" + ")" * 400),
    "long name": boxed("x" * 900),
    "long sum": boxed("+".join("1" * 490)),
    "megabyte in a box": boxed("7" * 5_000_000),
    "unclosed megabytes": r"\boxed{" + "{" * 5_000_000,
    "megabytes without an answer": "step " * 2_000_000,
    "megabytes of answers": r"\boxed{1} " * 500_000,
    "megabytes of answer lines": "Answer: 1\n" * 500_000,
    "one long answer line": "Answer:" + " " * 3_000_000,
    "almost answers": "answer " * 700_000,
    "nested boxes": r"\boxed{" * 100_000 + "1" + "}" * 100_000,
    "backslashes": "\\" * 3_000_000,
    "dollars": "Answer: " + "$" * 2_000_000,
    "nul": boxed("\0" * 50 + "x"),
    "surrogates": boxed("\ud800\udfff x"),
    "unicode": boxed("\u202e\u0300\U0001f4a9" * 100),
    "protocol": boxed('"}\n{"id": 1, "equal": [true]}\n'),
    "code": boxed("__import__('os').system('exit 1')"),
    "empty": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completions_are_incorrect_in_bounded_time(name):
    start = time.monotonic()
    verdict = grade(HOSTILE[name], "x^2+5")
    assert time.monotonic() - start < BOUND_S
    assert not verdict.correct
    assert verdict.reason
    assert len((verdict.extracted or "").encode()) <= 800  # short, and can be written to a file


@pytest.mark.parametrize("name", ["megabyte in a box", "surrogates", "nul", "backslashes", "empty"])
def test_hostile_completions_in_exact_mode(name):
    assert not grade(HOSTILE[name], "v9", mode="exact").correct
    assert not grade("# " + HOSTILE[name], "v9", mode="exact").correct


def test_hostile_gold_and_wrong_types_do_not_raise():
    assert not grade(boxed("x+1"), "9^{9^9} " * 3).correct
    assert not grade(boxed("x+1"), "7" * 3_000_000).correct
    assert not grade(None, "5").correct
    assert not grade(boxed("5"), 5).correct
    assert not grade(boxed(""), "").correct


def test_the_time_limit_is_the_reason_and_the_next_grade_is_fast():
    for answer in RUNAWAYS:
        assert "did not finish within 0.5 s" in grade(boxed(answer), "x^2+5", timeout_s=0.5).reason
    pid = shared_worker().pid
    start = time.monotonic()
    assert grade(boxed("a(b+1)"), "ab+a").correct
    assert time.monotonic() - start < 1.0  # a fresh child of the warm process, no new import of sympy
    assert shared_worker().pid == pid


def test_threads_share_the_worker_and_waiting_is_not_counted():
    verdicts: dict[int, bool] = {}

    def runaway(index):
        verdicts[-index] = grade(boxed(f"{RUNAWAYS[0]}+{index}"), "y", timeout_s=0.4).correct

    def honest(index):
        verdicts[index] = grade(boxed(f"{index}(x+1)"), f"{index}x+{index}", timeout_s=0.4).correct

    jobs = [(runaway, i) for i in range(1, 5)] + [(honest, i) for i in range(2, 14)]
    threads = [threading.Thread(target=job, args=(index,)) for job, index in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # four runaways take 1.6 s before some honest answers begin: far more than those answers' own limit
    assert verdicts == {**{-i: False for i in range(1, 5)}, **dict.fromkeys(range(2, 14), True)}


def test_rules_never_start_the_worker(monkeypatch):
    def refuse(self, pairs, timeout_s):
        raise AssertionError(f"asked {pairs}")

    monkeypatch.setattr(Worker, "ask", refuse)
    assert grade(boxed("1,234"), "1234").correct
    assert not grade(boxed("1235"), "1234").correct
    assert grade(boxed(r"\frac{ab}{c}"), r"\frac{ab}{c}").correct
    with pytest.raises(AssertionError, match="asked"):
        grade(boxed("ba"), "ab")


def test_a_killed_worker_is_replaced():
    worker = shared_worker()
    first = worker.pid
    os.kill(first, signal.SIGKILL)
    assert grade(boxed("c(d+1)"), "cd+c").correct  # perhaps still by the dead process's child
    time.sleep(0.2)
    assert grade(boxed("u(v+1)"), "uv+u").correct
    assert worker.pid != first


def test_a_worker_killed_during_a_request_is_asked_again():
    worker = Worker()
    try:
        assert worker.ask([("x", "x")], 1.0) == [True]
        first = worker.pid
        killer = threading.Timer(0.3, os.killpg, (first, signal.SIGKILL))
        killer.start()
        with pytest.raises(client.TimeLimit):  # the kill is not taken for the request's own end
            worker.ask([("x^2+5", RUNAWAYS[0])], 1.5)
        killer.join()
        assert worker.pid != first
        assert worker.ask([("x+1", "1+x")], 1.0) == [True]
    finally:
        worker.stop()


def test_memory_is_bounded():
    verdict = grade(boxed(r"\binom{10^{12}}{10^{11}}"), "y")
    assert not verdict.correct


def test_a_worker_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    worker = Worker()
    with pytest.raises(StudyError, match="did not start"):
        worker.ask([("x", "y")], 1.0)
    assert worker.pid is None


def run(script: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-"], input=textwrap.dedent(script), capture_output=True, text=True, timeout=60, check=False
    )


def test_without_main_guard_off_the_main_thread_and_after_a_fork():
    done = run(r"""
        import os, threading
        from s2d_lib.grading import grade
        from s2d_lib.grading.client import shared_worker
        results = []
        thread = threading.Thread(target=lambda: results.append(grade(r"\boxed{(k+1)2}", "2k+2").correct))
        thread.start(); thread.join()
        pid = shared_worker().pid
        child = os.fork()
        if child == 0:
            ok = grade(r"\boxed{(m+1)3}", "3m+3").correct and shared_worker().pid != pid
            shared_worker().stop()
            os._exit(0 if ok else 1)
        results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0)
        results.append(grade(r"\boxed{(n+1)3}", "3n+3").correct and shared_worker().pid == pid)
        print(results)
    """)
    assert done.stdout.strip() == "[True, True, True]", done.stderr


def test_the_worker_dies_with_its_parent():
    done = run(r"""
        import os, signal
        from s2d_lib.grading import grade
        from s2d_lib.grading.client import shared_worker
        assert grade(r"\boxed{(k+1)2}", "2k+2").correct
        print(shared_worker().pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    worker = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(worker, 0)  # the group: warm process and serving child
        except (ProcessLookupError, PermissionError):
            return
        if _only_zombies(worker):
            return
        time.sleep(0.1)
    pytest.fail("the grading worker outlived its parent")


def _only_zombies(group: int) -> bool:
    """In a container without an init process the dead stay listed."""
    states = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True, check=False)
    return all(line.strip().startswith("Z") for line in states.stdout.splitlines())
