r"""Decontamination: which training problems also stand in an evaluation set.

Problems are compared as sequences of words, numbers, LaTeX commands and operators; case, spacing, punctuation, braces
and LaTeX's ways to spell one thing (``\dfrac``, ``\left(``, ``$$``) do not count.

- **exact**: one problem's sequence is the other's, or contains it whole (a problem with an instruction appended).
- **near**: the two share most of their word pairs, each weighted by its rarity, and the numbers agree.
- **sibling**: they share the pairs but not the numbers. That is another problem of the same kind, with another answer:
  it is listed, but stays in the pool.

Why rarity: of DAPO's problems and MATH-500's many share "find the smallest positive integer such that". A pair weighs
log(problems / problems that have it), so that such phrases weigh next to nothing, and what is shared must in all weigh
at least ``EVIDENCE`` - the pairs of about ten words that hardly any other problem has.

How the thresholds were chosen, on DAPO-Math-17K against MATH-500, AIME 2024 and 2025 and GSM8K's test set, every pair
scoring 0.5 or more read by one reader: the 15 near pairs from 0.60 up were 10 times the same problem (reworded, or with
another form of the answer asked for) and 5 times a close variant with the same numbers (a sign, the final question);
the 7 pairs from 0.50 to 0.60 were 6 different problems on one template and 1 reworded copy (0.55), which is missed.
Of copies of evaluation problems of 20 words or more, made by replacing, deleting or inserting words at random, 98 of
100 are found when a tenth of the words is changed, 87 when a fifth is, 68 when three tenths are.

Below ``EVIDENCE`` a single changed word makes another problem ("arrange the letters of ELEVEN" / "ELLIPSE"),
so problems that short are only found when they are exact.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from s2d_lib.problems.base import Problem

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


@dataclass(frozen=True)
class _Text:
    problem: Problem
    evaluation: str = ""

    @cached_property
    def full(self) -> str:
        return f" {' '.join(words(self.problem.prompt))} "

    @cached_property
    def words(self) -> list[str]:
        return words(self.problem.prompt, drawings=False)

    @cached_property
    def pairs(self) -> frozenset[tuple[str, ...]]:
        return frozenset(zip(self.words, self.words[1:], strict=False)) or frozenset([tuple(self.words)])

    @cached_property
    def numbers(self) -> Counter[str]:
        return Counter(word for word in self.words if word.isdigit())


def decontaminate(
    pool: Sequence[Problem],
    evaluations: Mapping[str, Sequence[Problem]],
    *,
    near: float = NEAR,
    remove: Collection[str] = ("exact", "near"),
) -> tuple[tuple[Problem, ...], dict[str, Any]]:
    """Find and drop the problems of a training pool that stand in an evaluation set.

    Args:
        pool: The training problems.
        evaluations: The evaluation sets by name.
        near: Score from which a pair is a near copy, in (0, 1].
        remove: Kinds that leave the pool, of "exact", "near" and "sibling".

    Returns:
        The problems that stay, in their order, and a report for the run's record: ``pool``, ``kept`` and ``removed``
        counts; ``exact``, ``near`` and ``sibling`` counts of pairs; ``overlaps``, the exact and near pairs, and
        ``siblings``, each pair as pool id, evaluation, evaluation id, kind and score (highest first). The score is
        1 for exact pairs, else the geometric mean of the shares, by weight, of each problem's word pairs that the
        other has (or the larger share alone where one problem is embedded in a much longer one).
    """
    asked = [_Text(problem, name) for name, problems in evaluations.items() for problem in problems]
    texts = [_Text(problem) for problem in pool]
    rarity = _Rarity(texts + asked)
    by_full: dict[str, list[_Text]] = defaultdict(list)
    by_pair: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, text in enumerate(asked):
        by_full[text.full].append(text)
        for pair in text.pairs:
            by_pair[pair].append(index)
    asked_weight = [rarity.total(text.pairs) for text in asked]

    found: list[dict[str, Any]] = []
    for text in texts:
        shared: Counter[int] = Counter()
        for pair in text.pairs:
            if pair in by_pair:
                weight = rarity[pair]
                for index in by_pair[pair]:
                    shared[index] += weight
        weight = rarity.total(text.pairs)
        same = {id(other) for other in by_full.get(text.full, ())}
        for index, evidence in shared.items():
            other = asked[index]
            if id(other) in same:
                found.append(_entry(text, other, "exact", 1.0))
            elif evidence >= EVIDENCE:
                kind, score = _judge(text, other, evidence / weight, evidence / asked_weight[index], near)
                if kind:
                    found.append(_entry(text, other, kind, score))
    found.sort(key=lambda entry: -entry["score"])
    gone = {entry["pool"] for entry in found if entry["kind"] in remove}
    kept = tuple(problem for problem in pool if problem.id not in gone)
    counts = Counter(entry["kind"] for entry in found)
    report = {
        "pool": len(pool),
        "kept": len(kept),
        "removed": len(pool) - len(kept),
        **{kind: counts[kind] for kind in ("exact", "near", "sibling")},
        "evaluations": {name: len(problems) for name, problems in evaluations.items()},
        "near_threshold": near,
        "overlaps": [entry for entry in found if entry["kind"] != "sibling"],
        "siblings": [entry for entry in found if entry["kind"] == "sibling"],
    }
    return kept, report


def same_problems(
    pool: Sequence[Problem], evaluations: Mapping[str, Sequence[Problem]]
) -> tuple[tuple[Problem, ...], dict[str, Any]]:
    """Like :func:`decontaminate`, but only problems with the same id count as copies: for sources whose prompts share
    most of their text."""
    ids = {name: {problem.id for problem in problems} for name, problems in evaluations.items()}
    found = [
        {"pool": problem.id, "evaluation": name, "problem": problem.id, "kind": "exact", "score": 1.0}
        for name in evaluations
        for problem in pool
        if problem.id in ids[name]
    ]
    gone = {entry["pool"] for entry in found}
    kept = tuple(problem for problem in pool if problem.id not in gone)
    counts = {"pool": len(pool), "kept": len(kept), "removed": len(gone), "exact": len(found)}
    return kept, counts | {"evaluations": {n: len(ps) for n, ps in evaluations.items()}, "overlaps": found}


class _Rarity:
    """What a word pair weighs: log(problems / problems that have it), in nats."""

    def __init__(self, texts: Sequence[_Text]):
        self._having = Counter(pair for text in texts for pair in text.pairs)
        self._problems = max(len(texts), BACKGROUND)

    def __getitem__(self, pair: tuple[str, ...]) -> float:
        return math.log(self._problems / self._having[pair])

    def total(self, pairs: frozenset[tuple[str, ...]]) -> float:
        return sum(self[pair] for pair in pairs)


def _judge(text: _Text, other: _Text, of_text: float, of_other: float, near: float) -> tuple[str | None, float]:
    """Kind and score of a pair, from the shares of each problem that the other has."""
    if text.full in other.full or other.full in text.full:
        return "exact", 1.0
    score = math.sqrt(of_text * of_other)
    larger = max(of_text, of_other)
    if larger >= EMBEDDED:
        score = max(score, larger)
    if score < near:
        return None, score
    inner, outer = (text, other) if of_text >= of_other else (other, text)
    total = inner.numbers.total()
    agree = (inner.numbers & outer.numbers).total() / total if total else 1.0
    return ("near" if agree >= NUMBERS else "sibling"), score


def _entry(text: _Text, other: _Text, kind: str, score: float) -> dict[str, Any]:
    return {
        "pool": text.problem.id,
        "evaluation": other.evaluation,
        "problem": other.problem.id,
        "kind": kind,
        "score": round(score, 4),
    }
