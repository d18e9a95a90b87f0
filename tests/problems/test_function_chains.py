"""Function chains: exact answers, disjoint sets, a corpus of the shares it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.problems.function_chains import ChainWorld
from s2d_lib.problems.world import corpus

WORLD = ChainWorld(functions=6, values=8, zipf=1.0, seed=3)


def evaluate_by_hand(prompt: str) -> str:
    """The answer, by looking every step up in the table."""
    start, *functions, question = prompt.split()
    assert question == "?"
    value = int(start[1:])
    for f in functions:
        value = WORLD.table[int(f[1:])][value]
    return f"v{value}"


def test_functions_are_permutations():
    assert all(sorted(row) == list(range(8)) for row in WORLD.table.tolist())


@given(seed=st.integers(0, 2**20), length=st.integers(1, 6), rare=st.booleans())
@settings(max_examples=30, deadline=None)
def test_answers_are_what_the_table_says(seed, length, rare):
    for problem in WORLD.problems("x", 5, [length], rare, seed):
        assert problem.answer == evaluate_by_hand(problem.prompt)
        assert len(set(problem.prompt.split()[1:-1])) == length


def test_a_worked_solution_names_every_step():
    prompt = WORLD.prompt(2, [0, 4])
    text, value = WORLD.solution(2, [0, 4])
    first = WORLD.table[0, 2]
    assert prompt == "v2 f0 f4 ?"
    assert text == f"v2 f0 v{first} f4 v{WORLD.table[4, first]} # v{value}"
    assert f"v{value}" == evaluate_by_hand(prompt)


def test_sets_are_distinct_and_keep_out_what_they_are_told():
    first = WORLD.problems("a", 50, [2, 3], False, seed=1)
    second = WORLD.problems("b", 50, [2, 3], False, seed=1, exclude={p.prompt for p in first})
    prompts = [p.prompt for p in first + second]
    assert len(set(prompts)) == 100
    assert len({p.id for p in first + second}) == 100


def test_the_same_seed_gives_the_same_set_and_another_one_does_not():
    same = [[p.prompt for p in WORLD.problems("a", 20, [3], False, seed)] for seed in (5, 5, 6)]
    assert same[0] == same[1] != same[2]


def test_rare_sets_use_all_functions_alike():
    def share(rare):
        prompts = [p.prompt for p in WORLD.problems("x", 150, [3], rare, seed=0)]
        return np.mean(["f5" in prompt.split() for prompt in prompts])

    assert share(False) < 0.4 < share(True)


def test_too_small_a_world_is_said():
    with pytest.raises(StudyError, match="only 8 of 9 distinct problems"):
        ChainWorld(1, 8, 0.0, 0).problems("x", 9, [1], False, 0)
    with pytest.raises(StudyError, match="problems of 7 functions but the world has 6"):
        WORLD.problems("x", 1, [7], False, 0)


def test_the_corpus_has_its_shares_and_its_slips():
    documents = corpus(WORLD, 4000, {"guess": 0.4, "sloppy": 0.4, "right": 0.2}, 0.25, [3], seed=0)
    assert all(d.solution.endswith(" <eos>") and d.prompt.split()[4] == "?" for d in documents)
    guesses = [d for d in documents if d.solution.startswith("#")]
    worked = [d for d in documents if not d.solution.startswith("#")]
    assert len(guesses) / 4000 == pytest.approx(0.4, abs=0.03)
    right = [evaluate_by_hand(d.prompt) == d.solution.split()[-2] for d in worked]
    # A third is right by construction; of the others a step fails with chance 0.25 * 7/8, and may slip back.
    assert np.mean(right) == pytest.approx(1 / 3 + 2 / 3 * (0.75 + 0.25 / 8) ** 3, abs=0.04)
