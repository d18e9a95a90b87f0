"""The process that runs a verifier: a small program, started by path, that reads requests and may be killed.

It imports its verifier (sympy and math-verify, or reasoning-gym) once, then forks a child that serves requests from
standard input, one JSON object a line. The kernel ends the child when a request overruns its limits - default signal
actions, so that not even one endless C call (10**10**10) survives - and a new child is forked from the warm process in
milliseconds.

It imports nothing of s2d_lib and needs no ``__main__`` guard in the program that uses it. POSIX only (fork, itimers).
"""

import contextlib
import hashlib
import json
import os
import select
import signal
import sys

MEMORY_BYTES = 4 << 30
REQUESTS_PER_CHILD = 5_000  # then a fresh child: sympy's caches never grow for long
RECYCLE = 3
IDLE_CHECK_S = 10.0

DIGITS = 2_000  # for numbers that agree in their first 40
POINTS = [(3, 7), (-19, 11), (31, 13), (-5, 9), (64, 9), (125, 3), (-70, 3), (2141, 2), (-9**5, 2),
          (60001, 7), (1, 90), (-1, 270)]  # fmt: skip

# Parsed once before the first fork: antlr builds its tables while parsing, and every child inherits them.
WARM_UP = (
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2"),
    ("2k+2", "2(k+1)"),
    (r"\left(\frac{\pi}{2}, 3\right)", r"(\pi/2, 3)"),
    (r"(-\infty, 2) \cup [3, \infty)", r"[3,\infty)\cup(-\infty,2)"),
    (r"\begin{pmatrix} 1/3 \\ -2 \end{pmatrix}", r"\begin{pmatrix} \frac13 \\ -2 \end{pmatrix}"),
    ("y = 2x + 3", "y - 2x = 3"),
    ("6 - 5i", "-5i + 6"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"2^{10} + 3!", "1030"),
    ("x^3 + 3x - 6", "x(x^2+3)-6"),
    (r"\log_2 8 e^{2}", r"\ln 5"),
    ("x > 2", r"(2,\infty)"),
)


def make_equal():
    """Import math-verify and return ``equal(gold, pred)`` for two LaTeX strings without dollars; it has no time limit.

    Only LaTeX is parsed, gold and answer separately, and no number is picked out of text that does not parse.
    """
    import logging

    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, grader, parse, verify

    logging.disable(logging.CRITICAL)  # one warning per unparsable answer helps nobody
    # units: single letters such as t and m would be dropped as units; s2d_lib.grading drops the real ones itself
    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    config = [LatexExtractionConfig(normalization_config=spelling)]

    def read(text):
        return parse(f"${text}$", config, parsing_timeout=None)

    # math-verify 0.9 calls numbers equal when they differ by less than 1e-15, or as decimals when they round alike.
    grader.sympy_numeric_eq = lambda gold, pred, *_: same_number(gold, pred)

    def equal(gold, pred):
        return bool(verify(read(gold), read(pred), allow_set_relation_comp=True, timeout_seconds=None))

    return equal


def same_number(gold, pred):
    """Whether two expressions are the same: exactly, without decimals; else to one part in a million of the gold one."""
    import sympy

    if isinstance(gold, sympy.MatrixBase | sympy.MatrixExpr):
        gold, pred = gold.doit(), pred.doit()
        alike = isinstance(gold, sympy.MatrixBase) and gold.shape == getattr(pred, "shape", None)
        return alike and all(map(same_number, gold.flat(), pred.flat()))
    decimals = gold.has(sympy.Float) or pred.has(sympy.Float)
    gold, pred = (
        one.xreplace({f: sympy.Rational(str(f)) for f in one.atoms(sympy.Float)}).doit() for one in (gold, pred)
    )
    if gold == pred:
        return True
    if gold.free_symbols | pred.free_symbols:
        return sympy.expand(gold - pred) == 0 if decimals else same_where_real(gold, pred)
    if decimals:
        return not (gold.is_Integer or pred.is_Integer) and close(gold, pred, 30, 6)
    # The second look tells apart what differs after 40 digits, such as 1 - 2^{-200} times a root and that root.
    return (
        not (gold.is_Rational and pred.is_Rational)
        and close(gold, pred, 50, 40)
        and close(gold, pred, DIGITS, DIGITS - 10)
    )


def close(gold, pred, digits, alike):
    """Whether two numbers, worked out to so many digits, are alike in their first ones, relative to the gold one."""
    gold, pred = gold.evalf(digits), pred.evalf(digits)
    return bool(abs(gold - pred) * 10**alike <= abs(gold))


def same_where_real(gold, pred):
    r"""Whether expressions with roots or logarithms are real at the same points and equal there: \sqrt{1/n} and
    1/\sqrt{n}, but neither \ln|x| and \ln x nor \sqrt{x^2} and x. False where simplification alone can tell."""
    import sympy

    known = (sympy.Add, sympy.Mul, sympy.Pow, sympy.Number, sympy.NumberSymbol, sympy.Symbol, sympy.log)
    parts = [list(sympy.preorder_traversal(one)) for one in (gold, pred)]
    rooted = [any(p.func is sympy.log or (p.is_Pow and not p.exp.is_Integer) for p in some) for some in parts]
    symbols = sorted(gold.free_symbols, key=str)
    if (
        not all(rooted)
        or set(symbols) != pred.free_symbols
        or not all(isinstance(p, known) for p in parts[0] + parts[1])
    ):
        return False
    met = 0
    for index in range(2 * len(POINTS)):
        at = {s: sympy.Rational(*POINTS[(index + (5 + index) * i) % len(POINTS)]) for i, s in enumerate(symbols)}
        real = [all(p.subs(at).evalf(30).is_extended_real for p in reversed(some)) for some in parts]
        if real[0] != real[1] or (real[0] and not close(gold.subs(at), pred.subs(at), 50, 30)):
            return False
        met += real[0]
    return met >= 4


class OtherProblem(Exception):
    """A task has generated another problem here than in the process that asks."""


def make_verified():
    """Import reasoning-gym and return ``problem(gold)``, which generates a problem again from what
    s2d_lib.problems.reasoning_gym noted of it, and ``verified(problem, answer)``: does its task's verifier give the
    answer full marks?"""
    from functools import lru_cache

    import reasoning_gym

    @lru_cache(maxsize=64)
    def dataset(task, config):
        return reasoning_gym.create_dataset(task, **json.loads(config))

    @lru_cache(maxsize=4096)
    def problem(gold):
        noted = json.loads(gold)
        tasks = dataset(noted["task"], json.dumps(noted["config"]))
        entry = tasks[noted["index"]]
        if hashlib.sha256(entry["question"].encode()).hexdigest() != noted["question_sha256"]:
            raise OtherProblem
        return tasks, entry

    def verified(found, answer):
        tasks, entry = found
        return float(tasks.score_answer(answer, entry)) >= 1.0

    return problem, verified


def serve(prepare, equal, out, client, parent):
    """Answer requests until standard input ends or nobody is left to read the answers."""
    pending = b""
    for _ in range(REQUESTS_PER_CHILD):
        while b"\n" not in pending:
            if not select.select([0], [], [], IDLE_CHECK_S)[0]:
                # A process forked from the client may hold the pipe open after the client died.
                if os.getppid() != parent or not alive(client):
                    return 0
                continue
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return 0
            pending += chunk
        line, pending = pending.split(b"\n", 1)
        request = json.loads(line)
        reply = {"id": request["id"]}
        try:
            # Golds are ours, not a model's: what they take to make doesn't count.
            pairs = [(prepare(gold), pred) for gold, pred in request["pairs"]]
            signal.setitimer(signal.ITIMER_REAL, request["wall_s"])
            signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
            reply["equal"] = [equal(gold, pred) for gold, pred in pairs]
        except BaseException as error:  # MemoryError, RecursionError and whatever a parser thinks of
            reply["error"] = type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(out, reply)
    return RECYCLE


def alive(pid):
    """Whether a process exists, also one of another user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def send(out, reply):
    """One line in one write: shorter than a pipe's atomic write."""
    os.write(out, json.dumps(reply).encode() + b"\n")


def ready(verifier):
    """A verifier's ``prepare`` and ``equal``, imported and warmed up."""
    if verifier == "reasoning-gym":
        return make_verified()
    equal = make_equal()
    for gold, pred in WARM_UP:
        equal(gold, pred)
    return (lambda gold: gold), equal


def main(client, verifier="math-verify"):
    """Warm up, report ready, then keep one child serving; returns when standard input has ended."""
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not reach the protocol
    try:
        prepare, equal = ready(verifier)
    except Exception as error:
        send(out, {"failed": f"{type(error).__name__}: {error}"[:500]})
        return 1
    with contextlib.suppress(Exception):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signals = [signal.SIGALRM, signal.SIGPROF]
    for number in signals:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    send(out, {"ready": True})
    parent = os.getpid()
    while True:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = serve(prepare, equal, out, client, parent)
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            send(out, {"died": os.WTERMSIG(status)})
        elif os.WEXITSTATUS(status) != RECYCLE:
            return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
