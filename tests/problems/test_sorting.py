"""Sorting by a memorised order: exact answers, disjoint sets, a corpus of the shares it promises."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.sorting import SYLLABLES, SortingWorld
from s2d_lib.problems.world import corpus

WORLD = SortingWorld(symbols=12, zipf=1.0, seed=3)
PLACE = {SYLLABLES[symbol]: WORLD.place[symbol] for symbol in range(12)}


def is_sorted(words: list[str]) -> bool:
    """Whether every word comes before the next one in the world's order."""
    return all(PLACE[a] < PLACE[b] for a, b in pairwise(words))


def test_the_order_is_a_permutation_and_words_name_symbols_once():
    assert sorted(WORLD.place.tolist()) == list(range(12))
    assert len(set(SYLLABLES)) == len(SYLLABLES) == 80
    assert len(set(WORLD.words)) == len(WORLD.words) == 12 + 2 + 3


def test_a_small_case_by_hand():
    first, second, third = (int(s) for s in np.argsort(WORLD.place)[:3])
    names = [SYLLABLES[s] for s in (first, second, third)]
    assert WORLD.prompt([third, first, second]) == f"{names[2]} {names[0]} {names[1]} :"
    assert WORLD.in_order([third, first, second]) == [first, second, third]
    certain = WORLD.in_order([first, second], np.random.default_rng(0), slip=1.0)
    assert certain == [second, first]


@given(seed=st.integers(0, 2**20), length=st.integers(1, 12), rare=st.booleans())
@settings(max_examples=30, deadline=None)
def test_answers_are_the_prompts_symbols_in_order(seed, length, rare):
    for problem in WORLD.problems("x", 1, [length], rare, seed):
        *symbols, question = problem.prompt.split()
        assert question == ":"
        assert len(set(symbols)) == length
        assert sorted(problem.answer.split()) == sorted(symbols)
        assert is_sorted(problem.answer.split())


@given(seed=st.integers(0, 2**20), quality=st.sampled_from(["guess", "sloppy", "right"]))
@settings(max_examples=60, deadline=None)
def test_a_document_orders_its_prompts_symbols_and_a_right_one_rightly(seed, quality):
    prompt, solution = WORLD.document(np.random.default_rng(seed), 5, quality, 0.25)
    answer = solution.split()[1:-1]
    assert solution == " ".join(["#", *answer, "<|end|>"])
    assert sorted(answer) == sorted(prompt.split()[:-1])
    assert quality != "right" or is_sorted(answer)


def test_only_the_whole_list_in_order_is_right():
    problem = WORLD.problems("x", 1, [4], False, seed=0)[0]
    words = problem.answer.split()
    assert grade(f"# {problem.answer}", problem.answer, mode="exact").correct
    for wrong in (words[::-1], words[:-1], [*words, words[0]], [words[1], words[0], *words[2:]]):
        assert not grade(f"# {' '.join(wrong)}", problem.answer, mode="exact").correct
    assert not grade(problem.answer, problem.answer, mode="exact").correct


def test_two_lists_of_the_same_symbols_are_one_problem():
    small = SortingWorld(symbols=4, zipf=0.0, seed=0)
    first = small.problems("a", 3, [3], False, seed=1)
    rest = small.problems("b", 1, [3], False, seed=1, exclude={p.prompt for p in first})
    assert len({frozenset(p.prompt.split()) for p in first + rest}) == math.comb(4, 3)
    with pytest.raises(StudyError, match="only 4 of 5 distinct problems"):
        small.problems("x", 5, [3], False, seed=1)


def test_a_list_longer_than_the_world_is_said():
    with pytest.raises(StudyError, match="problems of 13 symbols but the world has 12"):
        WORLD.problems("x", 1, [13], False, 0)


def test_the_same_seed_gives_the_same_set_and_another_one_does_not():
    same = [[p.prompt for p in WORLD.problems("a", 20, [4], False, seed)] for seed in (5, 5, 6)]
    assert same[0] == same[1] != same[2]


def test_rare_sets_use_all_symbols_alike():
    def share(rare):
        prompts = [p.prompt for p in WORLD.problems("x", 150, [4], rare, seed=0)]
        return np.mean([SYLLABLES[11] in prompt.split() for prompt in prompts])

    assert share(False) < 0.25 < share(True)


def test_the_corpus_has_its_shares_and_its_slips():
    documents = corpus(WORLD, 4000, {"guess": 0.4, "sloppy": 0.4, "right": 0.2}, 0.25, [3], seed=0)
    right = [is_sorted(d.solution.split()[1:-1]) for d in documents]
    # A guess is one of 3! orders; a sloppy list has two steps that can slip.
    assert np.mean(right) == pytest.approx(0.4 / 6 + 0.4 * 0.75**2 + 0.2, abs=0.03)
