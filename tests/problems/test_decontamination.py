"""Decontamination: copies are found, boilerplate and siblings are not."""

import json
import random
import re
import time
from pathlib import Path

import pytest

from s2d_lib.problems.base import Problem
from s2d_lib.problems.competition import load_competition
from s2d_lib.problems.decontamination import decontaminate, words

DATA = Path(__file__).parents[2] / "../shared/data"

TRAIN = (
    "A farmer named Olga has $37$ chickens and $21$ goats in a fenced meadow. Every morning she counts all legs "
    "before breakfast and writes the total on a wooden board. After selling $9$ chickens at the village market, "
    "what number does she write on the board?"
)


def one(pool: str, evaluation: str, **options):
    """Kind and score that a single pair of problems gets, among unrelated ones."""
    others = [
        Problem(f"o{i}", f"Unrelated filler {'abcdefghij'[i]} {i} about topic{'xyzuvwklmn'[i]}", "") for i in range(10)
    ]
    kept, report = decontaminate(
        [Problem("p", pool, "1"), *others], {"eval": [Problem("e", evaluation, "1")]}, **options
    )
    assert len(kept) == 11 - report["removed"]
    found = report["overlaps"] + report["siblings"]
    assert len(found) <= 1
    return (found[0]["kind"], found[0]["score"]) if found else (None, 0.0)


@pytest.mark.parametrize(
    "copy",
    [
        TRAIN,
        TRAIN.upper(),
        TRAIN.replace("$", ""),
        TRAIN.replace(" ", "  \n").replace(",", ""),
        TRAIN + " Please reason step by step and put the final answer in a box.",
        "Solve this problem. " + TRAIN,
    ],
)
def test_the_same_words_are_exact(copy):
    assert one(TRAIN, copy) == ("exact", 1.0)
    assert one(copy, TRAIN) == ("exact", 1.0)


def test_spellings_of_latex_are_exact():
    problem = r"Evaluate $\left(\frac{a}{b}\right)^2 \leq \text{max}$ for $x_1, \ldots, x_n$."
    other = r"Evaluate \[ ( \dfrac{a}{b} )^{2}\,\le max \] for $x_1,\dots,x_n$"
    assert words(problem) == words(other)
    assert one(problem, other)[0] == "exact"


@pytest.mark.parametrize(
    "edits",
    [
        [("A farmer named Olga", "A peasant named Olga"), ("what number", "which number")],
        [("chickens", "hens"), ("she write on the board", "Olga write")],
        [("Every morning she counts", "She counts every morning"), ("fenced meadow", "meadow")],
        [("Olga", "Petra"), ("wooden board", "board"), ("all legs", "all of their legs")],
    ],
)
def test_small_edits_are_near_copies(edits):
    edited = TRAIN
    for old, new in edits:
        assert old in edited
        edited = edited.replace(old, new)
    kind, score = one(TRAIN, edited)
    assert kind == "near"
    assert 0.6 <= score < 1


def test_changed_numbers_make_a_sibling_that_stays():
    changed = TRAIN.replace("37", "41").replace("21", "18")
    assert one(TRAIN, changed)[0] == "sibling"
    kept, report = decontaminate([Problem("p", TRAIN, "1")], {"e": [Problem("e", changed, "2")]})
    assert (len(kept), report["sibling"], report["removed"]) == (1, 1, 0)
    kept, _ = decontaminate(
        [Problem("p", TRAIN, "1")], {"e": [Problem("e", changed, "2")]}, remove=("exact", "near", "sibling")
    )
    assert kept == ()


def test_an_edited_copy_inside_a_longer_problem_is_found():
    longer = "Read the following story to the end. " + TRAIN.replace("wooden board", "board") + " " + " ".join(
        f"Then consider remark{'abcdefghijklmnopqrstuvwxyz'[i]} as well." for i in range(26)
    )  # fmt: skip
    assert one(longer, TRAIN)[0] == "near"


def test_boilerplate_alone_is_nothing():
    boilerplate = "Let $m$ and $n$ be relatively prime positive integers such that the answer is $m/n$. Find $m+n$."
    pool = [
        Problem(f"p{i}", f"{['triangle', 'circle', 'prime', 'digit', 'die', 'coin'][i]} {i + 2}. {boilerplate}", "")
        for i in range(6)
    ]
    evaluation = [Problem("e", f"Seventeen knights sit at a round table and three are chosen. {boilerplate}", "")]
    kept, report = decontaminate(pool, {"e": evaluation})
    assert len(kept) == 6
    assert report["overlaps"] == []


def test_one_changed_word_in_a_short_problem_is_another_problem():
    assert (
        one("How many ways to arrange the letters of ELEVEN?", "How many ways to arrange the letters of ELLIPSE?")[0]
        is None
    )


def test_same_text_with_another_drawing_is_no_exact_copy():
    text = "What is the area of the triangle? [asy] draw((0,0)--({},0)--(3,4)--cycle); [/asy]"
    assert one(text.format(5), text.format(7))[0] is None


def test_the_report_is_plain_data_and_keeps_the_order():
    pool = [Problem("p1", "Something else entirely", "1"), Problem("p2", TRAIN, "1"), Problem("p3", "More", "1")]
    kept, report = decontaminate(pool, {"a": [Problem("e1", TRAIN, "1")], "b": [Problem("e2", TRAIN, "1")]})
    assert [p.id for p in kept] == ["p1", "p3"]
    assert json.loads(json.dumps(report)) == report
    assert report["overlaps"] == [
        {"pool": "p2", "evaluation": name, "problem": problem, "kind": "exact", "score": 1.0}
        for name, problem in (("a", "e1"), ("b", "e2"))
    ]
    assert (report["pool"], report["kept"], report["removed"], report["exact"], report["near"]) == (3, 2, 1, 2, 0)


def test_nothing_to_compare():
    assert decontaminate([], {"e": [Problem("e", TRAIN, "1")]})[0] == ()
    assert len(decontaminate([Problem("p", TRAIN, "1")], {})[0]) == 1
    assert len(decontaminate([Problem("p", "?", "1")], {"e": [Problem("e", TRAIN, "1")]})[0]) == 1


@pytest.fixture(scope="module")
def real():
    names = {"math-500": "math500.jsonl", "aime-2024": "aime24.json", "aime-2025": "aime25.json"}
    dapo = DATA / "dapo-math-17k-processed.parquet"
    if not dapo.exists() or not all((DATA / file).exists() for file in names.values()):
        pytest.skip("DAPO, MATH-500 and AIME are not at ../shared/data")
    pool = load_competition("dapo-math-17k", dapo).problems
    return pool, {name: load_competition(name, DATA / file).problems for name, file in names.items()}


def test_real_pool_against_real_evaluations(real):
    pool, evaluations = real
    start = time.process_time()
    kept, report = decontaminate(pool, evaluations)
    assert time.process_time() - start < 20
    found = {entry["problem"]: entry["kind"] for entry in reversed(report["overlaps"])}
    # an independent count: equal as sequences of letters and digits
    plain = {" ".join(re.findall(r"\w+", problem.prompt.lower())) for problem in pool}
    same = {p.id for p in evaluations["math-500"] if " ".join(re.findall(r"\w+", p.prompt.lower())) in plain}
    assert len(same) >= 5
    assert same <= set(found)
    assert {entry["evaluation"] for entry in report["overlaps"]} == {"math-500"}
    assert (report["exact"], report["near"], report["sibling"]) == (11, 15, 10)
    assert len(kept) == len(pool) - report["removed"] == len(pool) - 26


def test_copies_made_from_real_problems_are_found(real):
    pool, evaluations = real
    rng = random.Random(0)
    long = [p for p in evaluations["math-500"] if len(words(p.prompt, drawings=False)) >= 20]
    chosen = rng.sample(long, 150)
    copies = [Problem(f"copy/{p.id}", _edit(p.prompt, rng), p.answer) for p in chosen]
    _, report = decontaminate([*pool[:6000], *copies], {"math-500": chosen})
    pairs = {(entry["pool"], entry["problem"]) for entry in report["overlaps"]}
    recall = sum((f"copy/{p.id}", p.id) in pairs for p in chosen) / len(chosen)
    assert recall >= 0.9
    # no copy is taken for one of another problem, except of the two that are each other's variants
    assert sum(pool_id.startswith("copy/") and pool_id != f"copy/{other}" for pool_id, other in pairs) <= 2


def _edit(prompt: str, rng: random.Random) -> str:
    """One word in ten replaced, doubled with another or left out; mathematics and numbers kept."""

    def change(match: re.Match) -> str:
        if match[1] is None or rng.random() > 0.1:
            return match[0]
        return rng.choice([f"zq{match[1]}", f"zq{match[1]}", "", f"{match[1]} zqx"])

    return re.sub(
        r"\$[^$]*\$|\\\[.*?\\\]|\[asy\].*?\[/asy\]|\\[A-Za-z]+|([A-Za-z]{2,})", change, prompt, flags=re.DOTALL
    )
