"""Halves and label budgets: parts of `full`, decided by ids and a seed, after everything else has settled the pool."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.problems.base import Problem
from s2d_lib.problems.pools import cut
from s2d_lib.problems.sources import load_problems
from s2d_lib.study import resolve
from s2d_lib.study.problem_sets import CompetitionSet, Half, LabelBudget, MicroSet, ProblemSets


def problems(count: int) -> list[Problem]:
    return [Problem(f"p/{i}", f"what is {i}?", str(i)) for i in range(count)]


def half(which: str, seed: int) -> Half:
    return Half(half=which, of=MicroSet(count=1, lengths=[1], seed=0), seed=seed)


@given(count=st.integers(2, 300), seed=st.integers(0, 2**31), shuffle=st.randoms())
def test_halves_are_disjoint_and_together_the_pool_in_its_order(count, seed, shuffle):
    pool = problems(count)
    first, second = (cut(pool, half(which, seed)) for which in ("1H", "2H"))
    assert len(first) - len(second) == count % 2
    ids = [p.id for p in pool]
    assert sorted(first + second, key=lambda p: ids.index(p.id)) == pool
    assert all(part == [p for p in pool if p in part] for part in (first, second))
    shuffled = pool[:]
    shuffle.shuffle(shuffled)
    assert set(cut(shuffled, half("1H", seed))) == set(first)


def test_another_seed_cuts_elsewhere_and_halves_are_random():
    pool = problems(400)
    parts = [{p.id for p in cut(pool, half("1H", seed))} for seed in range(20)]
    assert len({frozenset(part) for part in parts}) == 20
    shared = [len(a & b) for i, a in enumerate(parts) for b in parts[:i]]
    assert sum(shared) / len(shared) == pytest.approx(100, abs=3)  # independent halves share a quarter of the pool


@pytest.mark.parametrize("pool", [{"count": 1, "lengths": [2], "seed": 1}])
def test_a_pool_too_small_for_halves_is_said(pool):
    resolved = resolve("micro", "student.grpo_2H", 0, {"problems": {"labels": None, "pools": {"full": pool}}})
    with pytest.raises(StudyError, match=r"'full' has 1 problem\(s\), too few for the halves 1H and 2H: enlarge it"):
        load_problems(resolved.problems, resolved.labels)


@given(count=st.integers(3, 300), seed=st.integers(0, 2**31), data=st.data())
def test_a_smaller_label_budget_lies_inside_a_larger_one(count, seed, data):
    pool = problems(count)
    large = data.draw(st.integers(2, count - 1))
    small = data.draw(st.integers(1, large))
    whole = MicroSet(count=1, lengths=[1], seed=0)
    parts = [cut(pool, LabelBudget(labels=labels, of=whole, seed=seed)) for labels in (small, large)]
    assert [len(part) for part in parts] == [small, large]
    assert set(parts[0]) <= set(parts[1])
    assert parts[1] == [p for p in pool if p in parts[1]]


def test_a_budget_that_is_the_whole_pool_or_more_is_refused():
    part = LabelBudget(labels=8, of=MicroSet(count=8, lengths=[1], seed=0), seed=0)
    with pytest.raises(StudyError, match="ask for 8 problems of the pool 'full', which has 8 in the end: leave it out"):
        cut(problems(8), part)


def test_the_micro_halves_are_the_micro_pool():
    full, first, second = (
        load_problems(resolve("micro", name, 0).problems, labels)
        for name, labels in (("student.grpo", "full"), ("teacher.rl_1H", "1H"), ("student.grpo_2H", "2H"))
    )
    assert len(first.pool) == len(second.pool) == 256
    assert set(first.pool) | set(second.pool) == set(full.pool)
    assert not set(first.pool) & set(second.pool)
    assert first.evaluations == full.evaluations


def test_the_report_names_the_pool_its_size_and_its_problems():
    def facts(name, overrides=None):
        resolved = resolve("micro", name, 0, overrides)
        return load_problems(resolved.problems, resolved.labels).report.get("label_pool")

    first, second = facts("teacher.rl_1H"), facts("student.grpo_2H")
    assert (first["name"], first["size"], second["name"]) == ("1H", 256, "2H")
    assert len(first["ids_sha256"]) == 64
    assert first["ids_sha256"] != second["ids_sha256"]
    assert facts("student.bridge.rl_teacher_1H") == first
    assert facts("teacher.rl_1H", {"problems": {"split_seed": 1}})["ids_sha256"] != first["ids_sha256"]
    assert facts("student.grpo")["name"] == "full"
    assert facts("student") is None


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """DAPO's layout: 30 distinct problems in mixed order, with duplicates, a contradiction and one evaluation problem."""
    text = "Find the number of ways in which {n} gardeners share {n} tulips, {m} bulbs and one greenhouse fairly: case {n}."
    rows = [{"prompt": text.format(n=n, m=7 * n + 1), "answer": str(n)} for n in range(10, 40)]
    extra = [rows[4], rows[9], {**rows[5], "answer": "0"}]
    pool = rows + extra
    random.Random(0).shuffle(pool)
    found = {}
    for name, content in (("pool", pool), ("test", [{"problem": rows[20]["prompt"], "answer": "30"}])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        found[name] = str(path)
    return found


@pytest.mark.parametrize("limit", [None, 9])
def test_competition_halves_come_after_all_that_settles_the_pool(files, limit):
    whole = CompetitionSet(dataset="dapo-math-17k", path=files["pool"], limit=limit, seed=3)
    parts = {}
    for name in ("full", "1H", "2H"):
        parts[name] = load_problems(
            ProblemSets(
                source="competition_math",
                instruction="Box it.",
                overlap="remove",
                pool=whole if name == "full" else Half(half=name, of=whole, seed=5),
                evaluations={"test": {"dataset": "math-500", "path": files["test"]}},
            ),
            name,
        )
    full, first, second = (parts[name].pool for name in ("full", "1H", "2H"))
    assert len({p.id for p in first} | {p.id for p in second}) == len(first) + len(second) == len(full)
    assert set(first) | set(second) == set(full)
    assert len(first) - len(second) == len(full) % 2
    assert parts["full"].report["pool"] == parts["1H"].report["pool"]  # the whole pool's own story
    assert parts["1H"].report["pool"]["overlap"] == parts["full"].report["pool"]["overlap"]
    if limit is None:
        assert parts["full"].report["pool"]["set_aside"] == 1
        assert parts["full"].report["pool"]["overlap"]["removed"] >= 1
        assert len(full) == 29 - parts["full"].report["pool"]["overlap"]["removed"]
