"""Verifiers under limits, since algebra on what a model wrote may take forever or all memory.

A verifier is a program of its own (`serve`), which imports it once and keeps a pebble pool of one grader, forked from it: one
that the kernel or pebble has ended at a limit is replaced in milliseconds. No `__main__` guard is needed, threads share the
program, and a process that a user forks starts its own. POSIX only.
"""

import atexit
import contextlib
import hashlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from s2d_lib.errors import StudyError
from s2d_lib.grading.compare import compare

# Seconds on the clock per second of processor time that a grading may take. Sums that never end use their processor time up, so
# that many cost nothing on an idle machine; with few an overloaded one would call right answers wrong.
WALL_FACTOR = 10.0
WALL_S = {"math-verify": 0.0, "reasoning-gym": 15.0}  # and more: to make a problem again from its note
MEMORY_BYTES = 4 << 30
GRADINGS = 5_000  # of one grader: sympy's caches never grow for long
ATTEMPTS = 3  # a grader killed from outside is replaced and asked again
OTHER_PROBLEM = "generates other problems in another process"


# ------------------------------------------------------------------ the asking process
class Graders:
    """A verifier's program as seen by the process that asks it; it ends when that one does."""

    def __init__(self, verifier: str):
        self.verifier = verifier
        self.program: subprocess.Popen | None = None
        self._lock = threading.Lock()

    def ask(self, gold: str, answer: str, seconds: float) -> bool | str:
        """Whether the verifier holds an answer right; a phrase where it has no verdict. Of reasoning-gym `gold` is a note.

        The seconds are of processor time, from when a grader begins: neither waiting nor starting counts. Raises StudyError where
        the program does not start.
        """
        with self._lock:
            for _ in range(ATTEMPTS):
                try:
                    if self.program is None:
                        self._start()
                    self._connection.send((gold, answer, seconds))
                    return self._connection.recv()
                except (OSError, EOFError):  # it was killed, or its grader was
                    self.stop()
                except BaseException:  # Ctrl-C between request and reply: the next reply would be the wrong one
                    self.stop()
                    raise
        return f"broke down (killed {ATTEMPTS} times)"

    def _start(self) -> None:
        self._connection, far = Pipe()
        serving = "import sys; from s2d_lib.grading.graders import serve; serve(*sys.argv[1:])"
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        try:
            self.program = subprocess.Popen(
                [sys.executable, "-P", "-c", serving, self.verifier, str(far.fileno())],
                **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL),
                pass_fds=[far.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal or notebook is not for it
                # -P: no module of the user's shadows a library. sympy's order of terms, and its time, depends on the hash seed.
                env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": path.rstrip(os.pathsep)},
            )
            far.close()
            failure = self._connection.recv()
        except (OSError, EOFError) as error:
            failure = repr(error)
        if failure:
            raise StudyError(f"The graders of {self.verifier} did not start ({failure}): check its installation.")

    def stop(self) -> None:
        """End the program, if there is one; the next question starts a new one."""
        program, self.program = self.program, None
        if program:
            with contextlib.suppress(OSError):
                os.killpg(program.pid, signal.SIGKILL)  # with its grader
            program.wait()
            self._connection.close()


@lru_cache
def graders_of(verifier: str, process: int) -> Graders:
    """What a process, by its id, asks: threads share it, what the process forks gets its own."""
    graders = Graders(verifier)
    atexit.register(lambda: graders.stop() if os.getpid() == process else None)
    return graders


# ------------------------------------------------------------------ the verifier's program
Prepare = Callable[[str], Callable[[str], bool | str]]
"""From a gold answer to what judges an answer: right or not, or a phrase why there is no verdict."""


def serve(verifier: str, end: str) -> None:
    """Reply with True, False or a phrase, until nobody is left to ask, or the grader is killed from outside."""
    connection = Connection(int(end))
    try:
        prepare = {"math-verify": _math_verify, "reasoning-gym": _reasoning_gym}[verifier]()
    except Exception as error:
        return connection.send(f"{type(error).__name__}: {error}"[:500])
    connection.send("")
    pool = ProcessPool(1, GRADINGS, _limit, (connection, prepare), get_context("fork"))
    while True:
        gold, answer, seconds = connection.recv()
        late = f"did not finish within {seconds:g} s"
        try:
            timeout = WALL_FACTOR * seconds + WALL_S[verifier]
            reply = pool.schedule(_judge, (gold, answer, seconds), timeout=timeout).result()
        except TimeoutError:
            reply = late
        except ProcessExpired as error:
            if error.exitcode in (-signal.SIGKILL, -signal.SIGTERM):
                raise
            reply = late if error.exitcode == -signal.SIGPROF else f"broke down (exit code {error.exitcode})"
        connection.send(reply)


def _limit(connection: Connection, prepare: Prepare) -> None:
    """A grader begins: with little memory, and ended by signals at once, even in the middle of one endless C call."""
    global _prepare
    _prepare = prepare
    connection.close()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)


def _judge(gold: str, answer: str, seconds: float) -> bool | str:
    try:
        judge = _prepare(gold)  # golds are ours, not a model's: what this takes is not limited
        signal.setitimer(signal.ITIMER_PROF, seconds)
        return judge(answer)
    except BaseException as error:  # MemoryError, RecursionError and whatever a parser thinks of
        return f"broke down ({type(error).__name__})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


# ------------------------------------------------------------------ the verifiers
# Compared once before the first fork: antlr builds its tables while parsing, and every grader inherits them.
_WARM_UP = {
    r"\frac{\sqrt{3}}{2}+2^{10}-3!": r"\sqrt{3}/2(k+1)",
    r"(-\infty, 2) \cup [3, \infty)": r"[3,\infty)\cup(-\infty,2)",
    r"(2,\infty)": "x > 2",
    r"\begin{pmatrix} 1/3 \\ -2\pi \end{pmatrix}": r"\begin{pmatrix} \frac13 \\ \cot x \end{pmatrix}",
    "y = 2x + 3": r"y - 2x = \log_2 8 e^{2}-\ln 5i",
}
_DIGITS = 2_000  # tell apart what differs after 40 digits, such as 1 - 2^{-200} times a root and that root
_POINTS = [(3, 7), (-19, 11), (31, 13), (-5, 9), (64, 9), (125, 3), (-70, 3), (2141, 2), (-9**5, 2),
           (60001, 7), (1, 90), (-1, 270)]  # fmt: skip


def _math_verify() -> Prepare:
    """The rules of `compare`, and for what they leave open math-verify: gold and answer are parsed as LaTeX, separately, and no
    number is picked out of text that does not parse."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, grader, parse, verify

    logging.disable(logging.CRITICAL)  # one warning per unparsable answer helps nobody
    # units: single letters such as t and m would be dropped as units; the rules drop the real ones
    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    config = [LatexExtractionConfig(normalization_config=spelling)]
    # math-verify 0.9 calls numbers equal when they differ by less than 1e-15, or as decimals when they round alike.
    grader.sympy_numeric_eq = lambda gold, pred, *_: same_number(gold, pred)

    def algebra(gold: str, pred: str) -> bool:
        read = [parse(f"${text}$", config, parsing_timeout=None) for text in (gold, pred)]
        return bool(verify(*read, allow_set_relation_comp=True, timeout_seconds=None))

    for gold, pred in _WARM_UP.items():
        algebra(gold, pred)
    return lambda gold: lambda answer: compare(gold, answer, algebra)


def same_number(gold, pred) -> bool:
    r"""Whether two sympy expressions are the same: exactly, without decimals; else to one part in a million of the gold one.

    Expressions with roots or logarithms also where they are real at the same points and equal there: \sqrt{1/n} and 1/\sqrt{n},
    but neither \ln|x| and \ln x nor \sqrt{x^2} and x.
    """
    import sympy

    if isinstance(gold, sympy.MatrixBase | sympy.MatrixExpr):
        gold, pred = gold.doit(), pred.doit()
        alike = isinstance(gold, sympy.MatrixBase) and gold.shape == getattr(pred, "shape", None)
        return alike and all(map(same_number, gold.flat(), pred.flat()))
    exact = [{f: sympy.Rational(str(f)) for f in one.atoms(sympy.Float)} for one in (gold, pred)]
    gold, pred = gold.xreplace(exact[0]).doit(), pred.xreplace(exact[1]).doit()
    symbols = sorted(gold.free_symbols | pred.free_symbols, key=str)
    if gold == pred:
        return True
    if symbols and any(exact):
        return sympy.expand(gold - pred) == 0
    if any(exact):
        return not (gold.is_Integer or pred.is_Integer) and _close(gold, pred, 30, 6)
    if not symbols:
        rational = gold.is_Rational and pred.is_Rational
        return not rational and _close(gold, pred, 50, 40) and _close(gold, pred, _DIGITS, _DIGITS - 10)
    rooted = (one.has(sympy.log) or any(not p.exp.is_Integer for p in one.atoms(sympy.Pow)) for one in (gold, pred))
    if gold.free_symbols != pred.free_symbols or not all(rooted):
        return False  # simplification alone can tell
    met = 0
    for index in range(2 * len(_POINTS)):
        at = {s: sympy.Rational(*_POINTS[(index + (5 + index) * i) % len(_POINTS)]) for i, s in enumerate(symbols)}
        one, other = gold.subs(at), pred.subs(at)
        real = bool(one.evalf(30).is_extended_real)
        if real != bool(other.evalf(30).is_extended_real) or (real and not _close(one, other, 50, 30)):
            return False
        met += real
    return met >= 4


def _close(gold, pred, digits: int, alike: int) -> bool:
    """Whether two numbers, worked out to so many digits, are alike in their first ones, relative to the gold one."""
    gold, pred = gold.evalf(digits), pred.evalf(digits)
    return bool(abs(gold - pred) * 10**alike <= abs(gold))


def _reasoning_gym() -> Prepare:
    """A task's own verifier must give full marks. A note of `s2d_lib.problems.sources.load_gym` makes its problem again."""
    import reasoning_gym

    @lru_cache(maxsize=64)
    def dataset(task: str, config: str):
        return reasoning_gym.create_dataset(task, **json.loads(config))

    @lru_cache(maxsize=4096)
    def prepare(gold: str) -> Callable[[str], bool | str]:
        noted = json.loads(gold)
        tasks = dataset(noted["task"], json.dumps(noted["config"]))
        entry = tasks[noted["index"]]
        if hashlib.sha256(entry["question"].encode()).hexdigest() != noted["question_sha256"]:
            return lambda answer: OTHER_PROBLEM
        return lambda answer: float(tasks.score_answer(answer, entry)) >= 1.0

    return prepare
