"""Grading under attack: runaway algebra, huge and broken text, threads, forks, killed graders."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade, graders
from s2d_lib.grading.graders import Graders, graders_of

BOUND_S = 15.0  # the limit is half a second of processor time and 5 s on the clock; the machine may be busy

# Run into the time limit (checked below): one endless C call, and endless Python.
RUNAWAYS = ["(10^9)!", "(x+y+z+w)^{500}-1"]


def boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


@pytest.fixture(scope="module", autouse=True)
def program() -> Graders:
    assert grade(boxed(r"\sqrt{16}+x"), "x+4", timeout_s=10).correct
    return graders_of("math-verify", os.getpid())


HOSTILE = {
    "tower": boxed("9^{9^{9^9}}"),
    "factorial": boxed("1000000000!"),
    "integral": boxed(r"\int_0^{1} e^{x^{x^x}} dx"),
    "deep roots": boxed(r"\sqrt{" * 300 + "2" + "}" * 300),
    "deep parentheses": boxed("(" * 400 + "1" + ")" * 400),
    "long sum": boxed("+".join("1" * 490)),
    "pounds of pounds": boxed("5" + " pound" * 160),
    "megabyte in a box": boxed("7" * 1_000_000),
    "unclosed megabyte": r"\boxed{" + "{" * 1_000_000,
    "megabytes without an answer": "step " * 400_000,
    "megabytes of answers": r"\boxed{1} " * 100_000,
    "megabytes of answer lines": "Answer: 1\n" * 100_000,
    "one long answer line": "Answer:" + " " * 1_000_000,
    "almost answers": "answer " * 150_000,
    "opened tags": "<answer>" * 200_000,
    "nested boxes": r"\boxed{" * 100_000 + "1" + "}" * 100_000,
    "backslashes": "\\" * 1_000_000,
    "dollars": "Answer: " + "$" * 1_000_000,
    "nul": boxed("\0" * 50 + "x"),
    "surrogates": boxed("\ud800\udfff x"),
    "unicode": boxed("\u202e\u0300\U0001f4a9" * 100),
    "code": boxed("__import__('os').system('exit 1')"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completions_are_incorrect_in_bounded_time(name):
    start = time.monotonic()
    verdict = grade(HOSTILE[name], "x^2+5", timeout_s=0.5)
    assert time.monotonic() - start < BOUND_S
    assert not verdict.correct
    assert verdict.reason
    assert len((verdict.extracted or "").encode()) <= 800  # short, and can be written to a file
    assert not any(grade("# " + HOSTILE[name], "v9", mode=mode).correct for mode in ("exact", "choice", "tool_calls"))


def test_hostile_gold_and_wrong_types_do_not_raise():
    assert not grade(boxed("x+1"), "9^{9^9} " * 3).correct
    assert not grade(boxed("x+1"), "7" * 3_000_000).correct
    assert not grade(None, "5").correct
    assert not grade(boxed("5"), 5).correct
    assert not grade(boxed(""), "").correct


def test_the_time_limit_is_the_reason_and_a_new_grader_is_forked_from_the_same_program(program):
    pid = program.program.pid
    for answer in RUNAWAYS:
        assert "did not finish within 0.5 s" in grade(boxed(answer), "x^2+5", timeout_s=0.5).reason
    assert grade(boxed("a(b+1)"), "ab+a", timeout_s=10).correct
    assert program.program.pid == pid  # a new grader is forked from the warm program: no new import of sympy
    (grader,) = psutil.Process(pid).children()
    assert grader.rlimit(psutil.RLIMIT_AS) == (graders.MEMORY_BYTES, graders.MEMORY_BYTES)


def test_threads_share_the_program_and_waiting_is_not_counted():
    verdicts: dict[str, bool] = {}
    answers = {f"{RUNAWAYS[0]}+{i}": "y" for i in range(3)} | {f"{i}(x+1)": f"{i}x+{i}" for i in range(2, 10)}

    def one(answer):
        verdicts[answer] = grade(boxed(answer), answers[answer], timeout_s=1.0).correct

    threads = [threading.Thread(target=one, args=(answer,)) for answer in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # three runaways take 3 s before some honest answers begin: far more than those answers' own limit
    assert verdicts == {answer: gold != "y" for answer, gold in answers.items()}


def test_who_is_killed_is_replaced_and_asked_again(program):
    for number, target in enumerate(("program", "grader at work")):
        was = psutil.Process(program.program.pid)
        if target == "program":
            was.kill()
        else:
            threading.Timer(0.5, was.children()[0].kill).start()
            assert program.ask("x^2+5", RUNAWAYS[0], 1.5) == "did not finish within 1.5 s"  # and not: killed
        assert program.ask(f"2x+{number}", f"{number}+2x", 10.0) is True
        assert program.program.pid != was.pid


def test_graders_that_cannot_start_say_so(monkeypatch):
    with pytest.raises(StudyError, match="did not start"):
        Graders("reasoning_gum").ask("x", "y", 1.0)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    mine = Graders("math-verify")
    with pytest.raises(StudyError, match="did not start"):
        mine.ask("x", "y", 1.0)
    assert mine.program is None


def test_without_main_guard_off_the_main_thread_after_a_fork_and_nothing_stays():
    script = r"""
        import os, psutil, threading
        from s2d_lib.grading import grade
        results = []
        thread = threading.Thread(target=lambda: results.append(grade(r"\boxed{(k+1)2}", "2k+2", timeout_s=9).correct))
        thread.start(); thread.join()
        started = psutil.Process().children()
        child = os.fork()
        if child == 0:
            ok = grade(r"\boxed{(m+1)3}", "3m+3", timeout_s=9).correct and len(psutil.Process().children()) == 1
            os._exit(0 if ok else 1)
        results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0)
        results.append(grade(r"\boxed{(n+1)3}", "3n+3", timeout_s=9).correct)
        results.append(psutil.Process().children() == started)
        print(*[process.pid for process in psutil.Process().children(recursive=True)])
        print(results, flush=True)
        os.kill(os.getpid(), 9)
    """
    command, how = [sys.executable, "-"], {"capture_output": True, "text": True, "timeout": 120, "check": False}
    done = subprocess.run(command, input=textwrap.dedent(script), **how)
    pids, results = done.stdout.splitlines() or ("", "")
    assert results == "[True, True, True, True]", done.stderr
    left = [psutil.Process(int(pid)) for pid in pids.split() if psutil.pid_exists(int(pid))]
    deadline = time.monotonic() + 20
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left):
        assert time.monotonic() < deadline, "graders outlived the process that asked them"
        time.sleep(0.1)
