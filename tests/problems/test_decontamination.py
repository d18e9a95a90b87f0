"""Decontamination: copies are found, boilerplate and siblings are not."""

import json
import random
import re
from collections import Counter

import pytest

from s2d_lib.problems.base import Problem
from s2d_lib.problems.decontamination import decontaminate, words
from s2d_lib.problems.public import load_public
from s2d_lib.problems.sources import LOCAL_FILES
from tests.conftest import data

TRAIN = (
    "A farmer named Olga has $37$ chickens and $21$ goats in a fenced meadow. Every morning she counts all legs "
    "before breakfast and writes the total on a wooden board. After selling $9$ chickens at the village market, "
    "what number does she write on the board?"
)


def one(pool: str, evaluation: str):
    """Kind and score that a single pair of problems gets, among unrelated ones."""
    letters = enumerate(zip("abcdefghij", "xyzuvwklmn", strict=True))
    others = [Problem(f"o{i}", f"Unrelated filler {one} {i} about topic{other}", "") for i, (one, other) in letters]
    kept, report = decontaminate([Problem("p", pool, "1"), *others], {"eval": [Problem("e", evaluation, "1")]})
    found = report["overlaps"] + report["siblings"]
    assert len(kept) == 11 - report["removed"] == 11 - len(report["overlaps"])
    return (found[0]["kind"], found[0]["score"]) if found else (None, 0.0)


LATEX = r"Evaluate $\left(\frac{a}{b}\right)^2 \leq \text{max}$ for $x_1, \ldots, x_n$."
REMARKS = " ".join(f"Then consider remark{letter} as well." for letter in "abcdefghijklmnopqrstuvwxyz")
CHANGED = TRAIN.replace("37", "41").replace("21", "18")


@pytest.mark.parametrize(
    ("pool", "evaluation", "kind"),
    [
        (TRAIN, TRAIN, "exact"),
        (TRAIN, TRAIN.upper().replace("$", "").replace(",", "").replace(" ", "  \n"), "exact"),
        (TRAIN, TRAIN + " Please reason step by step and put the final answer in a box.", "exact"),
        (TRAIN, "Solve this problem. " + TRAIN, "exact"),
        (LATEX, r"Evaluate \[ ( \dfrac{a}{b} )^{2}\,\le max \] for $x_1,\dots,x_n$", "exact"),
        (TRAIN, TRAIN.replace("farmer", "peasant").replace("what number", "which number"), "near"),
        (TRAIN, TRAIN.replace("Every morning she counts", "She counts every morning").replace("fenced ", ""), "near"),
        (f"Read this to the end. {TRAIN.replace('wooden ', '')} {REMARKS}", TRAIN, "near"),  # inside a longer one
        (TRAIN, CHANGED, "sibling"),  # other numbers make another problem, which stays
        # A single changed word in a short problem does too, and so does another drawing.
        ("How many ways to arrange the letters of ELEVEN?", "How many ways to arrange the letters of ELLIPSE?", None),
        ("The area? [asy] draw((0,0)--(5,0)); [/asy]", "The area? [asy] draw((0,0)--(7,0)); [/asy]", None),
    ],
)
def test_a_pair_is_of_its_kind_in_either_order(pool, evaluation, kind):
    found, score = one(pool, evaluation)
    assert (found, score) == one(evaluation, pool)
    assert found == kind
    assert score == {"exact": 1, None: 0}.get(kind, score)
    assert kind in ("exact", None) or 0.6 <= score < 1


def test_boilerplate_alone_is_nothing():
    boilerplate = "Let $m$ and $n$ be relatively prime positive integers such that the answer is $m/n$. Find $m+n$."
    topics = ("triangle", "circle", "prime", "digit", "die", "coin")
    pool = [Problem(f"p{i}", f"{topic} {i + 2}. {boilerplate}", "") for i, topic in enumerate(topics)]
    evaluation = [Problem("e", f"Seventeen knights sit at a round table and three are chosen. {boilerplate}", "")]
    kept, report = decontaminate(pool, {"e": evaluation})
    assert len(kept) == 6
    assert report["overlaps"] == []


def test_the_report_is_plain_data_and_keeps_the_order():
    pool = [Problem("p1", "Something else entirely", "1"), Problem("p2", TRAIN, "1"), Problem("p3", CHANGED, "1")]
    kept, report = decontaminate(pool, {"a": [Problem("e1", TRAIN, "1")], "b": [Problem("e2", TRAIN, "1")]})
    assert [p.id for p in kept] == ["p1", "p3"]
    assert json.loads(json.dumps(report)) == report
    found = {"pool": "p2", "kind": "exact", "score": 1.0}
    places = ({"evaluation": "a", "problem": "e1"}, {"evaluation": "b", "problem": "e2"})
    assert report["overlaps"] == [found | place for place in places]
    assert (report["removed"], len(report["siblings"])) == (1, 2)
    assert decontaminate([], {"e": pool})[0] == []
    assert len(decontaminate([Problem("p", "?", "1"), pool[1]], {"e": []})[0]) == 2


@pytest.fixture(scope="module")
def real():
    """DAPO's problems, what reading them found, and the evaluation sets."""
    names = ("dapo-math-17k", "math-500", "aime-2024", "aime-2025")
    folder = data(*(LOCAL_FILES[name] for name in names)).parent
    loaded = {name: load_public(name, "math", folder / LOCAL_FILES[name]) for name in names}
    pool, report = loaded.pop("dapo-math-17k")
    return pool, report, {name: problems for name, (problems, _) in loaded.items()}


def test_the_real_pool_is_read_without_its_duplicates_and_contradictions(real):
    pool, report, _ = real
    # 17,398 distinct prompts as written, 7 of them with two answers; 12 problems where spacing does not count
    assert (report["rows"], report["duplicates"], len(report["conflicts"])) == (17_917, 729, 12)
    assert len(pool) == report["problems"] == len({problem.id for problem in pool}) == 17_176
    assert not any("Please reason step" in p.prompt or not p.answer.lstrip("-").isdigit() for p in pool)
    # ids are the keys of every result: they must not change between versions
    assert pool[0].id == "dapo-math-17k/6b8246ed504c"


def test_real_pool_against_real_evaluations(real):
    pool, _, evaluations = real
    kept, report = decontaminate(pool, evaluations)
    # an independent count: equal as sequences of letters and digits
    plain = {" ".join(re.findall(r"\w+", problem.prompt.lower())) for problem in pool}
    same = {p.id for p in evaluations["math-500"] if " ".join(re.findall(r"\w+", p.prompt.lower())) in plain}
    assert len(same) >= 5
    assert same <= {entry["problem"] for entry in report["overlaps"]}
    assert {entry["evaluation"] for entry in report["overlaps"]} == {"math-500"}
    kinds = Counter(entry["kind"] for entry in report["overlaps"] + report["siblings"])
    assert kinds == {"exact": 11, "near": 15, "sibling": 10}
    assert len(kept) == len(pool) - report["removed"] == len(pool) - 26


def test_copies_made_from_real_problems_are_found(real):
    """One word in ten replaced, doubled with another or left out; mathematics and numbers kept."""
    pool, _, evaluations = real
    rng = random.Random(0)
    long = [p for p in evaluations["math-500"] if len(words(p.prompt, drawings=False)) >= 20]
    chosen = rng.sample(long, 150)

    def change(match: re.Match) -> str:
        if match[1] is None or rng.random() > 0.1:
            return match[0]
        return rng.choice([f"zq{match[1]}", f"zq{match[1]}", "", f"{match[1]} zqx"])

    mathematics = re.compile(r"\$[^$]*\$|\\\[.*?\\\]|\[asy\].*?\[/asy\]|\\[A-Za-z]+|([A-Za-z]{2,})", re.DOTALL)
    copies = [Problem(f"copy/{p.id}", mathematics.sub(change, p.prompt), p.answer) for p in chosen]
    _, report = decontaminate([*pool[:6000], *copies], {"math-500": chosen})
    pairs = {(entry["pool"], entry["problem"]) for entry in report["overlaps"]}
    assert sum((f"copy/{p.id}", p.id) in pairs for p in chosen) / len(chosen) >= 0.9
    # no copy is taken for one of another problem, except of the two that are each other's variants
    assert sum(pool_id.startswith("copy/") and pool_id != f"copy/{other}" for pool_id, other in pairs) <= 2
