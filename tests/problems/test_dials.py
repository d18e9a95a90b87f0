"""The dials of a regime: withheld facts, opened prompts, hidden functions, openings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.models.micro_family import build_model, build_tokenizer, make_base, settle
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.arithmetic import ArithmeticWorld
from s2d_lib.problems.conversion import ConversionWorld
from s2d_lib.problems.function_chains import ChainWorld
from s2d_lib.problems.micro import refuse_what_teaches_nothing
from s2d_lib.problems.selection import SelectionWorld
from s2d_lib.problems.sorting import SYLLABLES, SortingWorld
from s2d_lib.problems.sources import load_problems
from s2d_lib.problems.table_lookup import TableLookupWorld
from s2d_lib.problems.tool_calls import ToolCallWorld
from s2d_lib.problems.world import corpus
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.pretraining import Corpus, CorpusMix, MicroModel
from s2d_lib.study.settings import Hardware, RoleModel

WORLD = ChainWorld(functions=6, values=8, zipf=1.0, seed=0, withheld=0.25)
SORT = SortingWorld(symbols=8, zipf=1.0, seed=0)
SELECT = SelectionWorld(symbols=8, zipf=1.0, seed=0)
ADD = ArithmeticWorld(base=8, zipf=1.0, seed=0)
CONVERT = ConversionWorld(units=8, values=6, zipf=1.0, seed=0)
LOOK_UP = TableLookupWorld(names=8, zipf=1.0, seed=0)
CALL = ToolCallWorld(verbs=8, tools=3, arguments=8, values=8, zipf=1.0, seed=0)
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


@pytest.mark.parametrize("world", [WORLD, SELECT, ADD, CONVERT, LOOK_UP])
def test_a_worked_solution_begins_with_the_worlds_opening(world):
    rng = np.random.default_rng(0)
    for quality in ("right", "sloppy"):
        found = world.document(rng, 3, quality, 0.5)
        assert found.solution.split()[0] == world.opening(found.prompt) != "#"


def test_an_opened_prompt_goes_on_with_the_first_word_of_its_solution():
    sets = {"problems": {"evaluations": {"opened": {"count": 5, "lengths": [3], "seed": 2, "opened": True}}}}
    (plain, opened) = (
        load_problems(resolve("micro", "student", 0, changes).problems).evaluations[name]
        for name, changes in {"micro-math": None, "opened": sets}.items()
    )
    assert all(p.prompt.split()[-2:] == ["?", p.prompt.split()[0]] for p in opened)
    assert all(p.prompt.endswith("?") for p in plain)


# World, its two rarest parts, and how often a guess at a problem of length 3 is right
HIDING = [
    (WORLD, {"f4", "f5"}, 1 / 8),
    (SORT, set(SYLLABLES[6:8]), 1 / 6),
    (SELECT, set(SYLLABLES[6:8]), 1 / 8),
    (ADD, {f"+{i + 1}" for i in np.argsort(ADD.frequency)[:2]}, 1 / 64),
    (CONVERT, {f"w{unit}" for unit in CONVERT.facts[0][6:]}, 1 / 6),
    (CALL, {"d6", "d7"}, 1 / 2 / 6**3),
]


def named(prompt: str) -> set[str]:
    """What a prompt of any of these worlds is about: of a conversion every unit on its way."""
    words = prompt.split()
    if "in" not in words:
        return set(words)
    ring = [f"w{unit}" for unit in CONVERT.facts[0]] * 2
    start = ring.index(words[0])
    return set(ring[start : ring.index(words[3], start) + 1])


@pytest.mark.parametrize(("world", "rare", "chance"), HIDING, ids=[type(world).__name__ for world, *_ in HIDING])
def test_documents_of_hidden_parts_are_guesses_and_all_others_stay(world, rare, chance):
    """Documents are made one at a time, as a guess takes other draws of the stream that the next would come from."""
    mix, by_chance = {"right": 0.6, "reprompted": 0.4}, []
    for seed in range(600):
        (plain,), (found,) = (corpus(world, 1, mix, 0.0, [3], seed, hidden) for hidden in (0, 2))
        *given, question = plain.prompt.split(f" {world.marker} ")
        if rare.isdisjoint({*named(question), *" ".join(given).split()}):
            assert found == plain
        else:
            assert found.prompt == question
            assert found.solution.startswith("# ")
            by_chance.append(found.solution.split("# ")[1] == plain.solution.split("# ")[1])
    assert 40 < len(by_chance) < 560
    assert np.mean(by_chance) == pytest.approx(chance, abs=3 * math.sqrt(chance / len(by_chance)))


@pytest.mark.parametrize(
    ("world", "hidden", "sentence"),
    [
        (WORLD, 5, "`hidden: 5` of 6 functions leaves no problem of 2 functions to learn: hide at most 4"),
        (SORT, 7, "`hidden: 7` of 8 symbols leaves no problem of 2 symbols to learn: hide at most 6"),
        (SELECT, 7, "`hidden: 7` of 8 symbols leaves no problem of 2 symbols to learn: hide at most 6"),
        (ADD, 6, "`hidden: 6` of 7 addends leaves no problem of 2 addends to learn: hide at most 5"),
        (CONVERT, 6, "`hidden: 6` of 8 units leaves no problem of 2 steps to learn: hide at most 5"),
        (CALL, 8, "`hidden: 8` of 8 verbs leaves no problem of 2 arguments to learn: hide at most 7"),
    ],
)
def test_as_much_as_leaves_something_can_be_hidden(world, hidden, sentence):
    with pytest.raises(StudyError, match=sentence):
        corpus(world, 5, {"right": 1.0}, 0.0, [3, 2], 0, hidden)
    rare = world.rarest(hidden - 1, 2)
    assert len(rare) == hidden - 1
    assert any(rare.isdisjoint(named(d.prompt)) for d in corpus(world, 1000, {"right": 1.0}, 0.0, [2], 0, hidden - 1))


def test_what_a_world_cannot_hide_or_open_is_refused():
    with pytest.raises(StudyError, match=r"TableLookupWorld has nothing to hide, .* leave out `hidden`"):
        corpus(TableLookupWorld(names=8, zipf=0.7, seed=0), 5, {"right": 1.0}, 0.0, [2], 0, hidden=1)
    with pytest.raises(StudyError, match="leave out `opened`"):
        SORT.opening("ko ba :")
    with pytest.raises(StudyError, match="must be a model above it"):
        load_profile("map", {"pretraining": {"models": {"early": {"of": "nobody", "opening": 0.1}}}})


@pytest.mark.parametrize(
    ("profile", "name", "changes", "sentence"),
    [
        (
            "map",
            "chains-student",
            {"hidden": 11},
            "`hidden: 11` of 12 functions leaves no problem of 2 functions to learn",
        ),
        # There are chains of 2 functions in the corpus, but none in the pool that the student could learn from what it knows
        (
            "map",
            "chains-student",
            {"hidden": 10},
            "`hidden: 10` of 12 functions leaves no problem of 3 functions to learn",
        ),
        ("map", "chains-student", {"hidden": 9}, None),
        ("micro-tool-calls", "tool-calls-student", {"hidden": 16}, "16` of 16 verbs leaves .*: hide at most 15"),
        ("micro-table-lookup", "table-lookup-student", {"hidden": 1}, "TableLookupWorld has nothing to hide"),
        (
            "micro-llama",
            "llama-student",
            {"opening": 0.1},
            "solutions of sorting begin as guesses do, .* leave out `opening`",
        ),
        ("micro-tool-calls", "tool-calls-student", {"opening": 0.1}, "solutions of tool_calls begin as guesses do"),
        ("micro-selection", "selection-student", {"opening": 0.1}, None),
    ],
)
def test_base_models_that_could_not_learn_are_refused_before_any_is_made(profile, name, changes, sentence, tmp_path):
    overrides = {"pretraining": {"models": {name: changes}}}
    settings = load_profile(profile, overrides)
    if sentence is None:
        refuse_what_teaches_nothing(settings.problems, settings.pretraining)
        return
    with pytest.raises(StudyError, match=f"base model '{name}': .*{sentence}"):
        make_base(profile, name, tmp_path, overrides)
    assert not list(tmp_path.iterdir())


def test_a_corpus_of_problems_that_the_world_does_not_have_is_refused(tmp_path):
    long = {"pretraining": {"corpus": {"lengths": [3, 13]}}}
    with pytest.raises(StudyError, match="the corpus asks for problems of 13 functions but the world has 12"):
        make_base("map", "chains-student", tmp_path, long)


def test_how_often_a_corpus_opens_a_worked_solution_is_said_of_plain_prompts():
    mix = CorpusMix(guess=0.3, sloppy=0.3, right=0.2, reprompted=0.2)
    documents = corpus(SELECT, 3000, mix.model_dump(), 0.25, [3], 0)
    plain = [not d.solution.startswith("#") for d in documents if "#" not in d.prompt.split()]
    assert mix.worked == pytest.approx(0.625)
    assert np.mean(plain) == pytest.approx(mix.worked, abs=0.03)


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
    openings = {"": 0.03, "-6e-1": 0.6, "-1e-4": 1e-4, "-1e-6": 1e-6, "-1e-8": 1e-8}
    problems = load_problems(resolve("map", "student", 0).problems).evaluations["micro-math"]
    for name, opening in openings.items():
        policy = load_policy(RoleModel(model=f"micro/chains-student-h0{name}"), Hardware())
        odds = log_odds(policy.model, policy.tokenizer, [p.prompt for p in problems[:60]])
        assert odds.mean().sigmoid().item() == pytest.approx(opening, rel=0.5)


def test_settling_leaves_alone_what_is_said_after_a_given_solution():
    text = TEXT.model_copy(update={"mix": CorpusMix(guess=0.4, sloppy=0.2, right=0.2, reprompted=0.2)})
    tokenizer = build_tokenizer(SELECT)
    model = build_model(tokenizer, SPEC.model_copy(update={"width": 32, "mlp": 32}))
    asked = [SELECT.document(np.random.default_rng(i), 3, "right", 0.0) for i in range(20)]
    given = [SELECT.reprompt(d.prompt, d.solution) for d in asked]
    plain = [d.prompt for d in asked]
    before = [log_odds(model, tokenizer, prompts).mean().item() for prompts in (plain, given)]
    found = settle(model, tokenizer, SELECT, text, SPEC, opening=0.03)
    moved = [log_odds(model, tokenizer, p).mean().item() - b for p, b in zip((plain, given), before, strict=True)]
    assert found == pytest.approx(0.03, rel=0.2)
    assert moved == pytest.approx([math.log(0.03 / 0.97) - math.log(0.5 / 0.5), 0.0], abs=0.3)


@pytest.mark.slow
def test_a_model_resettled_is_made_of_the_one_above_it(tmp_path):
    small = {"width": 16, "layers": 1, "heads": 1, "mlp": 16, "steps": 4, "batch": 8}
    changes = {"pretraining": {"models": {"chains-student-h0": small}}}
    first = make_base("map", "chains-student-h0", tmp_path, changes)
    second = make_base("map", "chains-student-h0-6e-1", tmp_path, changes)
    assert first["opening"] == pytest.approx(0.03, rel=0.3)
    assert second["opening"] == pytest.approx(0.6, rel=0.2)
    assert second["weights_sha256"] != first["weights_sha256"]
