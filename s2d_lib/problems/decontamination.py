r"""Decontamination: which training problems also stand in an evaluation set.

Problems are compared as sequences of words, numbers, LaTeX commands and operators; case, spacing, punctuation, braces
and LaTeX's ways to spell one thing (``\dfrac``, ``\left(``, ``$$``) do not count.

- **exact**: one problem's sequence is the other's, or contains it whole (a problem with an instruction appended).
- **near**: the two share most of their word pairs, each weighted by its rarity, and the numbers agree.
- **sibling**: they share the pairs but not the numbers: another problem of the same kind, which is listed but stays.

Why rarity: many problems share "find the smallest positive integer such that". A pair weighs log(problems / problems that have
it), so that such phrases weigh next to nothing, and what is shared must in all weigh at least ``EVIDENCE``: the pairs of about
ten words that hardly any other problem has. Shorter problems are only found when they are exact, as a single changed word
makes another one ("the letters of ELEVEN" / "ELLIPSE").

The thresholds: of all pairs from 0.5 up of DAPO-Math-17K with MATH-500, AIME 2024 and 2025 and GSM8K's test set, read by one
reader, 15 are near from 0.60 up, 10 the same problem (reworded, or with another form of the answer asked for) and 5 a close
variant with the same numbers; of 7 from 0.50 to 0.60 one is a reworded copy, which is missed. Of copies of 20 words or more with
words replaced, deleted or inserted at random, 98 of 100 are found when a tenth is changed, 87 at a fifth, 68 at three tenths.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from s2d_lib.problems.base import Problem

Sets = Mapping[str, Sequence[Problem]]
NEAR = 0.60
EMBEDDED = 0.90  # share of one problem found in a much longer one
EVIDENCE = 70.0  # nats
NUMBERS = 0.90
# With few problems every phrase looks rare; then rarity is taken as in a pool of DAPO's size.
BACKGROUND = 20_000

_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)
_SPELLING = re.compile(
    r"\\(?:left|right|[bB]ig+[lrm]?|displaystyle|textstyle|q?quad|text|textbf|textit|textrm|mathrm|mathbf|mbox|rm|bf|"
    r"begin|end|[!,;:> ])(?![A-Za-z])"
)
_SYNONYMS = re.compile(r"\\([dtc])frac(?![a-z])|\\(?:c|l)?dots[cmb]?(?![a-z])|\\(leq|geq|neq)(?![a-z])")
_TOKEN = re.compile(r"\\[a-z]+|[a-z]+|\d+|[\u4e00-\u9fff]|[+\-=/^<>*|]")


def words(text: str, drawings: bool = True) -> list[str]:
    """A problem as the sequence that is compared; ``drawings``: with the code of its asy figures."""
    if not drawings:
        text = _DRAWING.sub(" ", text)
    text = _SPELLING.sub(" ", text).lower()
    text = _SYNONYMS.sub(lambda m: r"\frac " if m[1] else "\\" + m[2][:2] + " " if m[2] else r"\dots ", text)
    return _TOKEN.findall(text)


class _Text(NamedTuple):
    """A problem as it is compared, with the evaluation set that it stands in, if any."""

    problem: Problem
    evaluation: str
    full: str
    pairs: frozenset[tuple[str, ...]]
    numbers: Counter[str]


def _text(problem: Problem, evaluation: str = "") -> _Text:
    told = words(problem.prompt, drawings=False)
    pairs = frozenset(pairwise(told)) or frozenset([tuple(told)])
    return _Text(problem, evaluation, f" {' '.join(words(problem.prompt))} ", pairs, Counter(filter(str.isdigit, told)))


def decontaminate(pool: Sequence[Problem], evaluations: Sets) -> tuple[list[Problem], dict[str, Any]]:
    """Find the problems of a training pool that stand in an evaluation set, and drop the exact and near ones.

    Returns:
        The problems that stay, in their order, and a report for the run's record: how many are gone, and the pairs found, highest
        score first. It is 1 for exact pairs, else the geometric mean of the shares, by weight, of each problem's word pairs that
        the other has, or the larger share alone where one problem is embedded in a much longer one.
    """
    asked = [_text(problem, name) for name, problems in evaluations.items() for problem in problems]
    texts = [_text(problem) for problem in pool]
    having = Counter(pair for text in texts + asked for pair in text.pairs)
    most = max(len(texts + asked), BACKGROUND)
    rarity = {pair: math.log(most / count) for pair, count in having.items()}
    by_pair: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, text in enumerate(asked):
        for pair in text.pairs:
            by_pair[pair].append(index)

    found: list[dict[str, Any]] = []
    for text in texts:
        shared: Counter[int] = Counter()
        for pair in text.pairs:
            for index in by_pair.get(pair, ()):
                shared[index] += rarity[pair]
        for index, evidence in shared.items():
            if evidence >= EVIDENCE or text.full == asked[index].full:
                kind, score = _judge(text, asked[index], evidence, rarity)
                if kind:
                    found.append(_pair(text.problem, asked[index].evaluation, asked[index].problem, kind, score))
    return _without(pool, found)


def same_problems(pool: Sequence[Problem], evaluations: Sets) -> tuple[list[Problem], dict[str, Any]]:
    """Like `decontaminate`, but only of problems with the same id: for sources whose prompts share most of their text."""
    ids = {name: {problem.id for problem in problems} for name, problems in evaluations.items()}
    return _without(pool, [_pair(p, name, p, "exact", 1.0) for name in evaluations for p in pool if p.id in ids[name]])


def _judge(text: _Text, other: _Text, evidence: float, rarity: dict) -> tuple[str | None, float]:
    """Kind and score of a pair of problems, of which `evidence` is what their common word pairs weigh."""
    if text.full in other.full or other.full in text.full:
        return "exact", 1.0
    of_text, of_other = (evidence / sum(rarity[pair] for pair in one.pairs) for one in (text, other))
    score, larger = math.sqrt(of_text * of_other), max(of_text, of_other)
    if larger >= EMBEDDED:
        score = max(score, larger)
    if score < NEAR:
        return None, score
    inner, outer = (text, other) if of_text >= of_other else (other, text)
    total = inner.numbers.total()
    agree = (inner.numbers & outer.numbers).total() / total if total else 1.0
    return ("near" if agree >= NUMBERS else "sibling"), score


def _pair(problem: Problem, evaluation: str, other: Problem, kind: str, score: float) -> dict[str, Any]:
    return {"pool": problem.id, "evaluation": evaluation, "problem": other.id, "kind": kind, "score": round(score, 4)}


def _without(pool: Sequence[Problem], found: list[dict[str, Any]]) -> tuple[list[Problem], dict[str, Any]]:
    """The problems of the pool that are in no pair but siblings, and the report."""
    found.sort(key=lambda entry: -entry["score"])
    overlaps, siblings = ([e for e in found if (e["kind"] == "sibling") == kin] for kin in (False, True))
    gone = {entry["pool"] for entry in overlaps}
    kept = [problem for problem in pool if problem.id not in gone]
    return kept, {"removed": len(pool) - len(kept), "overlaps": overlaps, "siblings": siblings}
