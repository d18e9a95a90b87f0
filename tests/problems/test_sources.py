"""From a profile's problem block to problems: disjoint sets, overlaps refused or removed, parts, instructions, local files."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.grading import CorrectnessReward, grade
from s2d_lib.problems.base import Problem
from s2d_lib.problems.files import load_rows
from s2d_lib.problems.sources import cut, load_problems
from s2d_lib.study.problem_sets import CompetitionSet, GymSet, Half, LabelBudget, MicroSet, ProblemSets
from s2d_lib.study.strict import validated
from tests.conftest import data

SENTENCE = (
    "A gardener plants {n} hundred {n} rows of tulips with seventeen bulbs in every row, and then gives away exactly {n} "
    "bulbs to neighbours who water the greenhouse while she travels abroad. How many bulbs remain planted? Case {n}"
)


@pytest.fixture
def files(tmp_path):
    """A pool of ten problems, with a duplicate and a contradiction, and evaluation files, one of which shares one with it."""

    def write(name, numbers):
        rows = [{"problem": SENTENCE.format(n=n), "answer": str(n), "unique_id": f"{name}-{n}"} for n in numbers]
        rows += [rows[3], rows[1] | {"answer": "0"}] if name == "pool" else []
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"dataset": "math-500", "path": str(path)}

    return {"pool": write("pool", range(10, 21)), "shared": write("shared", [15]), "apart": write("apart", [77])}


def competition(evaluation, pool=None):
    return ProblemSets(source="competition_math", overlap="remove", pool=pool, evaluations={"test": evaluation})


@pytest.mark.parametrize(
    ("name", "called"),
    [("pool", "the label pool"), ("validation", "the validation set"), ("second", "the evaluation set 'second'")],
)
def test_no_problem_stands_in_two_sets_of_a_run(files, name, called):
    """What it shares with the evaluation sets before it is refused with the pair, or removed and counted."""
    more = {} if name == "second" else {name: files["pool"]}
    sets = {"test": files["shared"]} | ({"second": files["pool"]} if name == "second" else {})
    spec = ProblemSets(source="competition_math", overlap="remove", instruction="Box it.", evaluations=sets, **more)
    problems = load_problems(spec)
    found = problems.evaluations["second"] if name == "second" else getattr(problems, name)
    assert "math-500/pool-15" not in {p.id for p in found}
    assert problems.report[name]["overlap"]["removed"] == 10 - len(found) >= 1
    assert problems.grading == "math"
    assert all(p.prompt.endswith("\n\nBox it.") for p in [*found, *problems.evaluations["test"]])
    sentence = (
        f"{called} overlaps another set: 1 of its problems, the first 'math-500/pool-15' with 'math-500/shared-15'"
    )
    with pytest.raises(StudyError, match=sentence):
        load_problems(spec.model_copy(update={"overlap": "refuse"}))


def test_local_copies_are_found_by_their_name(tmp_path, monkeypatch, files):
    (tmp_path / "math500.jsonl").write_text(Path(files["apart"]["path"]).read_text())
    monkeypatch.setenv("S2D_DATA", str(tmp_path))
    problems = load_problems(competition({"dataset": "math-500"})).evaluations["test"]
    assert [p.answer for p in problems] == ["77"]
    pool = {"dataset": "sdpo-physics", "part": "train"}
    with pytest.raises(StudyError, match=r"the train split of sdpo-physics .* put it as sdpo/physics-train.jsonl"):
        load_problems(ProblemSets(source="science", evaluations={}, pool=pool))
    with pytest.raises(StudyError, match="an evaluation set can't be named 'pool'"):
        load_problems(ProblemSets(source="competition_math", evaluations={"pool": files["apart"]}))


def some_problems(count: int) -> list[Problem]:
    return [Problem(f"p/{i}", f"what is {i}?", str(i)) for i in range(count)]


WHOLE = MicroSet(count=1, lengths=[1], seed=0)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(2, 60), seed=st.integers(0, 2**31), shuffle=st.randoms())
def test_halves_are_disjoint_and_together_the_pool_in_its_order(count, seed, shuffle):
    pool = some_problems(count)
    first, second = (cut(pool, Half(half=which, of=WHOLE, seed=seed)) for which in ("1H", "2H"))
    assert len(first) - len(second) == count % 2
    assert sorted(first + second, key=pool.index) == pool
    assert all(part == sorted(part, key=pool.index) for part in (first, second))
    shuffled = pool[:]
    shuffle.shuffle(shuffled)
    assert set(cut(shuffled, Half(half="1H", of=WHOLE, seed=seed))) == set(first)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(3, 60), seed=st.integers(0, 2**31), data=st.data())
def test_a_smaller_label_budget_lies_inside_a_larger_one(count, seed, data):
    pool = some_problems(count)
    large = data.draw(st.integers(2, count - 1))
    small = data.draw(st.integers(1, large))
    parts = [cut(pool, LabelBudget(labels=labels, of=WHOLE, seed=seed)) for labels in (small, large)]
    assert [len(part) for part in parts] == [small, large]
    assert set(parts[0]) <= set(parts[1])
    assert parts[1] == [p for p in pool if p in parts[1]]


def test_a_pool_too_small_to_be_cut_is_said():
    with pytest.raises(StudyError, match=r"'full' has 1 problem\(s\), too few for the halves 1H and 2H: enlarge it"):
        cut(some_problems(1), Half(half="2H", of=WHOLE, seed=0))
    with pytest.raises(StudyError, match="ask for 8 problems of the pool 'full', which has 8 in the end: leave it out"):
        cut(some_problems(8), LabelBudget(labels=8, of=WHOLE, seed=0))


@pytest.mark.parametrize("limit", [None, 9])
def test_competition_halves_come_after_all_that_settles_the_pool(files, limit):
    whole = CompetitionSet(**files["pool"], limit=limit, seed=3)
    parts = {"full": whole} | {half: Half(half=half, of=whole, seed=5) for half in ("1H", "2H")}
    loaded = {name: load_problems(competition(files["shared"], part), name) for name, part in parts.items()}
    full, first, second = (one.pool for one in loaded.values())
    assert len(first) + len(second) == len(full)
    assert set(first) | set(second) == set(full)
    report = loaded["full"].report["pool"]
    assert report == loaded["1H"].report["pool"]  # the whole pool's own story
    assert (len(report["conflicts"]), report["duplicates"]) == (1, 2)
    assert len(full) == (limit or 10) - report["overlap"]["removed"]
    if limit:  # a seeded subset
        others = [
            load_problems(competition(files["apart"], whole.model_copy(update={"seed": s}))).pool for s in (0, 0, 1)
        ]
        assert others[0] == others[1] != others[2]


def test_of_templates_only_the_same_request_is_a_copy(tmp_path):
    prompt = "Tools: book. " + "Every passenger must carry a document of identity. " * 20 + "{n} seats on day {n}!"
    rows = [{"prompt": prompt.format(n=n), "answer": [{"Action": "book"}]} for n in range(20)]

    def load(*counts):
        sets = []
        for part, count in zip(("test", "train"), counts, strict=True):
            path = tmp_path / f"{part}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows[count]))
            sets.append({"dataset": "sdpo-tool-use", "path": str(path), "part": part})
        return load_problems(ProblemSets(source="tool_use", evaluations={"tools": sets[0]}, pool=sets[1]))

    problems = load(slice(0, 2), slice(2, 20))
    assert (len(problems.pool), len(problems.evaluations["tools"]), problems.grading) == (18, 2, "tool_calls")
    assert problems.report["tools"]["part"] == "test"
    with pytest.raises(StudyError, match="the label pool overlaps another set: 1 of its"):
        load(slice(0, 2), slice(1, 20))


@pytest.mark.parametrize(
    ("domain", "train", "test"),
    [("chemistry", 1890, 210), ("physics", 720, 80), ("biology", 450, 50), ("material", 840, 94), ("tool-use", 0, 68)],
)
def test_sdpos_splits_are_read_row_for_row(monkeypatch, domain, train, test):
    path = data(f"sdpo/{domain.replace('-', '')}-test.jsonl")
    monkeypatch.setenv("S2D_DATA", str(path.parents[1]))
    one, source = {"dataset": f"sdpo-{domain}"}, "science" if train else "tool_use"
    sets = {"pool": one | {"part": "train"} if train else None, "evaluations": {"test": one | {"part": "test"}}}
    found = load_problems(ProblemSets(source=source, overlap="remove", **sets))
    # One question of the materials stands in both: it leaves the pool
    assert (len(found.pool), len(found.evaluations["test"])) == (train, test)
    assert not train or found.report["pool"]["overlap"]["removed"] == (domain == "material")
    rows = load_rows(path)
    read = [(p.prompt, p.system) for p in found.evaluations["test"]]
    assert read == [(row["prompt"], row.get("system") or "") for row in rows]
    assert source == "tool_use" or [p.answer for p in found.evaluations["test"]] == [row["answer"] for row in rows]


CHAIN = {"chain_sum": {"min_terms": 2, "max_terms": 3}}


def gym(**pool):
    """A specification with a pool of chain sums and an evaluation set of two tasks."""
    both = {"tasks": CHAIN | {"number_sorting": {}}, "size": 5, "seed": 1}
    pool = {"tasks": CHAIN, "size": 6, "seed": 1} | pool
    return ProblemSets(source="reasoning_gym", instruction="Answer in <answer>.", pool=pool, evaluations={"both": both})


def test_gym_sets_are_generated_in_turns_disjoint_and_graded_by_their_own_verifier():
    pytest.importorskip("reasoning_gym")
    problems = load_problems(gym())
    both = problems.evaluations["both"]
    assert [p.level for p in both] == ["chain_sum", "number_sorting"] * 2 + ["chain_sum"]
    assert len({p.prompt for p in [*problems.pool, *both]}) == 11 == len({p.id for p in [*problems.pool, *both]})
    assert load_problems(gym()) == problems
    assert {p.id for p in load_problems(gym(seed=2)).pool} != {p.id for p in problems.pool}
    assert all(p.prompt.endswith("\n\nAnswer in <answer>.") for p in problems.pool)
    gold = problems.pool[0].answer
    answer, listed = json.loads(gold)["answer"], json.loads(both[1].answer)["answer"].replace("'", '"')
    texts = [f"so <answer>{answer}</answer>", f"Answer: {answer}", f"<answer>{answer}1</answer>", "no\nanswer"]
    assert [grade(text, gold, mode=problems.grading).correct for text in texts] == [True, True, False, False]
    assert grade(f"<answer>{listed}</answer>", both[1].answer, mode=problems.grading).correct
    assert CorrectnessReward(problems.grading)([None], texts[:1], answer=[gold]) == [1.0]
    with pytest.raises(StudyError, match="generates other problems in another process"):
        grade(texts[0], json.dumps(json.loads(gold) | {"question_sha256": "0"}), mode=problems.grading)


@pytest.mark.parametrize(
    ("task", "config", "sentence"),
    [
        ("chain_sum", {"terms": 2}, "task 'chain_sum' refuses its configuration"),
        ("chain_sum", {"min_terms": 3, "max_terms": 2}, "task 'chain_sum' refuses its configuration"),
        (
            "chain_sum",
            {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
            "'chain_sum' has only .* of 400 distinct",
        ),
        ("chain_sums", {}, "unknown reasoning-gym task 'chain_sums'; did you mean 'chain_sum'"),
    ],
)
def test_what_cannot_be_generated_is_one_sentence(task, config, sentence):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(StudyError, match=sentence):
        load_problems(gym(tasks={task: config}, size=400))


def test_without_the_package_the_remedy_is_named_and_size_and_seed_belong_to_the_set(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(StudyError, match="`make gym` installs it"):
        load_problems(gym())
    with pytest.raises(StudyError, match="`seed` of task 'chain_sum' belongs to the whole set"):
        validated(GymSet, {"tasks": {"chain_sum": {"seed": 1}}, "size": 1, "seed": 0}, "x")
