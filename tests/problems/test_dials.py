"""The dials of a regime: withheld facts, opened prompts, hidden functions, openings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.policies.micro_family import build_model, build_tokenizer, settle
from s2d_lib.policies.policy import load_policy
from s2d_lib.policies.release import make_base
from s2d_lib.problems.function_chains import ChainWorld
from s2d_lib.problems.sorting import SortingWorld
from s2d_lib.problems.sources import load_problems
from s2d_lib.problems.world import corpus
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.pretraining import Corpus, CorpusMix, MicroModel
from s2d_lib.study.settings import Hardware, RoleModel

WORLD = ChainWorld(functions=6, values=8, zipf=1.0, seed=0, withheld=0.25)
TEXT = Corpus(mix=CorpusMix(guess=0.4, sloppy=0.4, right=0.2), slip=0.25, lengths=[2, 3])
SPEC = MicroModel(width=16, layers=1, heads=1, mlp=16, init=0.1, steps=2, batch=8, learning_rate=1e-3, seed=0)


def used(prompt: str) -> set[tuple[int, int]]:
    """The facts on a chain's way, as (function, value)."""
    value, *functions = (int(word[1:]) for word in prompt.split() if word != "?")
    facts = set()
    for function in functions:
        facts.add((function, value))
        value = int(WORLD.table[function, value])
    return facts


@given(seed=st.integers(0, 10_000))
def test_withheld_facts_are_in_their_own_sets_and_in_no_other(seed):
    held = {(f, v) for f, v in zip(*np.nonzero(WORLD.kept_back), strict=True)}
    assert len(held) == 12  # a quarter of 48
    ordinary = WORLD.problems("pool", 10, [2, 3], True, seed)
    asked = WORLD.problems("new", 10, [2, 3], True, seed, withheld=True)
    assert not any(used(p.prompt) & held for p in ordinary)
    assert all(used(p.prompt) & held for p in asked)


def test_an_opened_prompt_goes_on_with_the_first_word_of_its_solution():
    sets = {"problems": {"evaluations": {"opened": {"count": 5, "lengths": [3], "seed": 2, "opened": True}}}}
    (plain, opened) = (
        load_problems(resolve("micro", "student", 0, changes).problems).evaluations[name]
        for name, changes in {"micro-math": None, "opened": sets}.items()
    )
    assert all(p.prompt.split()[-2:] == ["?", p.prompt.split()[0]] for p in opened)
    assert all(p.prompt.endswith("?") for p in plain)


def test_documents_of_hidden_functions_are_guesses_and_the_others_stay():
    mix = TEXT.mix.model_dump()
    for document in corpus(WORLD, 300, {"right": 1.0}, 0.0, [2, 3], 0, hidden=2):
        hidden = {"f4", "f5"} & set(document.prompt.split())
        assert document.solution.startswith("#") == bool(hidden)
    assert corpus(WORLD, 50, mix, 0.25, [2], 0, hidden=0) == corpus(WORLD, 50, mix, 0.25, [2], 0)


def test_what_a_world_cannot_hide_or_open_is_refused():
    with pytest.raises(StudyError, match="leaves no problem to learn"):
        corpus(WORLD, 5, {"right": 1.0}, 0.0, [2], 0, hidden=6)
    order = SortingWorld(symbols=8, zipf=0.7, seed=0)
    with pytest.raises(StudyError, match="can't hide symbols"):
        corpus(order, 5, {"right": 1.0}, 0.0, [2], 0, hidden=1)
    with pytest.raises(StudyError, match="leave out `opened`"):
        order.opening("ko ba :")
    for opening in (0.0, 1e-12, 1.0):
        with pytest.raises(StudyError, match="opening"):
            load_profile("micro", {"pretraining": {"models": {"student": {"opening": opening}}}})
    with pytest.raises(StudyError, match="must be a model above it"):
        load_profile("map", {"pretraining": {"models": {"early": {"of": "nobody", "opening": 0.1}}}})


def log_odds(model, tokenizer, prompts) -> torch.Tensor:
    """Of anything but `#` against `#` behind each prompt."""
    with torch.no_grad():
        logits = torch.stack([model(**tokenizer(p, return_tensors="pt")).logits[0, -1] for p in prompts])
    mark = tokenizer.convert_tokens_to_ids("#")
    chance = logits.double().log_softmax(-1)
    return chance.index_fill(-1, torch.tensor(mark), -torch.inf).logsumexp(-1) - chance[:, mark]


def test_settling_moves_the_opening_alone():
    """A small one: the new odds are those asked for, relative to what there was, and the words behind stay likely."""
    tokenizer = build_tokenizer(WORLD)
    model = build_model(tokenizer, SPEC)
    prompts = [p.prompt for p in WORLD.problems("some", 20, [2, 3], False, 3)]
    before = log_odds(model, tokenizer, prompts)
    found = settle(model, tokenizer, WORLD, TEXT, SPEC, opening=0.03)
    moved = log_odds(model, tokenizer, prompts) - before
    wanted = math.log(0.03 / 0.97) - math.log(0.6 / 0.4)
    assert found == pytest.approx(0.03, rel=0.2)
    assert moved.mean().item() == pytest.approx(wanted, abs=0.2)


def test_the_released_students_open_as_their_names_say():
    openings = {"": 0.03, "-6e-1": 0.6, "-3e-1": 0.3, "-3e-3": 3e-3, "-1e-4": 1e-4, "-1e-6": 1e-6, "-1e-8": 1e-8}
    problems = load_problems(resolve("map", "student", 0).problems).evaluations["micro-math"]
    for name, opening in openings.items():
        policy = load_policy(RoleModel(model=f"micro/chains-student-h0{name}"), Hardware())
        odds = log_odds(policy.model, policy.tokenizer, [p.prompt for p in problems[:60]])
        assert odds.mean().sigmoid().item() == pytest.approx(opening, rel=0.5)


@pytest.mark.slow
def test_a_model_resettled_is_made_of_the_one_above_it(tmp_path):
    small = {"width": 16, "layers": 1, "heads": 1, "mlp": 16, "steps": 4, "batch": 8}
    changes = {"pretraining": {"models": {"chains-student-h0": small}}}
    first = make_base("map", "chains-student-h0", tmp_path, changes)
    second = make_base("map", "chains-student-h0-6e-1", tmp_path, changes)
    assert first["opening"] == pytest.approx(0.03, rel=0.3)
    assert second["opening"] == pytest.approx(0.6, rel=0.2)
    assert second["weights_sha256"] != first["weights_sha256"]
