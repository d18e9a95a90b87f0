"""The text that base models learn from: the dials of a regime (withheld, opened, hidden, openings), and reprompts."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.models import micro_family
from s2d_lib.models.micro_family import build_model, build_tokenizer, make_base, pretrain, settle
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.micro import WORLDS, refuse_what_teaches_nothing, world_of
from s2d_lib.problems.sources import load_problems
from s2d_lib.problems.world import corpus
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.pretraining import Corpus, MicroModel
from s2d_lib.study.problem_sets import MicroSet
from s2d_lib.study.settings import Hardware, RoleModel

WORLD = WORLDS["function_chains"](functions=6, values=8, zipf=1.0, seed=0, withheld=0.25)
SORT = WORLDS["sorting"](symbols=8, zipf=1.0, seed=0)
SELECT = WORLDS["selection"](symbols=8, zipf=1.0, seed=0)
ADD = WORLDS["arithmetic"](base=8, zipf=1.0, seed=0)
CONVERT = WORLDS["conversion"](units=8, values=6, zipf=1.0, seed=0)
LOOK_UP = WORLDS["table_lookup"](names=8, zipf=1.0, seed=0)
CALL = WORLDS["tool_calls"](verbs=8, tools=3, arguments=12, values=12, zipf=1.0, seed=0)
SPEC = MicroModel(width=32, layers=1, heads=1, mlp=32, init=0.1, steps=2, batch=8, learning_rate=1e-3, seed=0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), withheld=st.booleans())
def test_withheld_facts_are_in_their_own_sets_and_in_no_other(seed, withheld):
    assert WORLD.kept_back.sum() == 12  # a quarter of 48
    spec = MicroSet(count=10, lengths=[2, 3], rare=True, seed=seed, withheld=withheld)
    for problem in WORLD.problems("x", spec, set()):
        value, *functions = (int(word[1:]) for word in problem.prompt.split()[:-1])
        needed = False
        for function in functions:
            needed |= bool(WORLD.kept_back[function, value])
            value = WORLD.table[function, value]
        assert needed == withheld


@pytest.mark.parametrize("world", [WORLD, SELECT, ADD, CONVERT, LOOK_UP])
def test_a_worked_solution_begins_with_the_worlds_opening(world):
    rng = np.random.default_rng(0)
    for quality in ("right", "sloppy"):
        found = world.document(rng, 3, quality, 0.5)
        assert found.solution.split()[0] == world.opening(found.prompt) != "#"
    spec = MicroSet(count=5, lengths=[3], seed=2)
    plain, opened = (world.problems("x", spec.model_copy(update={"opened": both}), set()) for both in (False, True))
    assert [p.prompt for p in opened] == [f"{p.prompt} {world.opening(p.prompt)}" for p in plain]


# How often a guess at a problem of length 3 is right
BY_CHANCE = {WORLD: 1 / 8, SORT: 1 / 6, SELECT: 1 / 8, ADD: 1 / 64, CONVERT: 1 / 6, CALL: 1 / 2 / 6**3}


@pytest.mark.parametrize(("world", "chance"), BY_CHANCE.items(), ids=[type(world).__name__ for world in BY_CHANCE])
def test_documents_of_hidden_parts_are_guesses_and_all_others_stay(world, chance):
    """Documents are made one at a time, as a guess takes other draws of the stream that the next would come from."""
    mix, rare, by_chance = {"right": 0.6, "reprompted": 0.4}, set(world.by_use[-2:]), []
    for seed in range(400):
        (plain,), (found,) = (corpus(world, 1, mix, 0.0, [3], seed, hidden) for hidden in (0, 2))
        if rare.isdisjoint(" ".join(plain).split()):
            assert found == plain
        else:
            assert found.prompt == plain.prompt.split(f" {world.marker} ")[-1]
            assert found.solution.startswith("# ")
            by_chance.append(found.solution.split("# ")[1] == plain.solution.split("# ")[1])
    assert 30 < len(by_chance) < 370
    assert np.mean(by_chance) == pytest.approx(chance, abs=3 * math.sqrt(chance / len(by_chance)))


@pytest.mark.parametrize(
    ("profile", "name", "changes", "sentence"),
    [
        # There are chains of 2 functions in the corpus, but none in the pool that the student could learn from what it knows
        ("map", "chains", {"hidden": 10}, "`hidden: 10` of 12 functions leaves no problem of 3 .* hide at most 9"),
        ("map", "chains", {"hidden": 9}, None),
        ("micro-conversion", "conversion", {"hidden": 21}, "`hidden: 21` of 24 units leaves no .* hide at most 20"),
        ("micro-conversion", "conversion", {"hidden": 20}, None),
        ("micro-tool-calls", "tool-calls", {"hidden": 16}, "`hidden: 16` of 16 verbs leaves no .* hide at most 15"),
        ("micro-tool-calls", "tool-calls", {"hidden": 15}, None),
        (
            "micro-table-lookup",
            "table-lookup",
            {"hidden": 1},
            "TableLookupWorld has nothing to hide, .* leave out `hidden`",
        ),
        ("micro-llama", "llama", {"opening": 0.1}, "solutions of sorting begin as guesses do, .* `opening`"),
        ("micro-selection", "selection", {"opening": 0.1}, None),
    ],
)
def test_base_models_that_could_not_learn_are_refused_before_any_is_made(profile, name, changes, sentence, tmp_path):
    overrides = {"pretraining": {"models": {f"{name}-student": changes}}}
    if sentence is None:
        made = load_profile(profile, overrides)
        refuse_what_teaches_nothing(made.problems, made.pretraining)
        return
    with pytest.raises(StudyError, match=f"base model '{name}-student': .*{sentence}"):
        make_base(profile, f"{name}-student", tmp_path, overrides)
    with pytest.raises(StudyError, match=r"the corpus asks for problems of 99 .* but the world has"):
        make_base(profile, f"{name}-student", tmp_path, {"pretraining": {"corpus": {"lengths": [3, 99]}}})
    assert not list(tmp_path.iterdir())


def log_odds(model, tokenizer, prompts) -> torch.Tensor:
    """Of anything but `#` against `#` behind each prompt."""
    with torch.no_grad():
        logits = torch.stack([model(**tokenizer(p, return_tensors="pt")).logits[0, -1] for p in prompts])
    mark = tokenizer.convert_tokens_to_ids("#")
    chance = logits.double().log_softmax(-1)
    return chance.index_fill(-1, torch.tensor(mark), -torch.inf).logsumexp(-1) - chance[:, mark]


def test_the_released_students_open_as_their_names_say():
    openings = {"": 0.03, "-6e-1": 0.6, "-1e-4": 1e-4, "-1e-6": 1e-6, "-1e-8": 1e-8}
    problems = load_problems(resolve("map", "student", 0).problems).evaluations["micro-math"]
    for name, opening in openings.items():
        policy = load_policy(RoleModel(model=f"micro/chains-student-h0{name}"), Hardware())
        odds = log_odds(policy.model, policy.tokenizer, [p.prompt for p in problems[:60]])
        assert odds.mean().sigmoid().item() == pytest.approx(opening, rel=0.5)


def test_settling_moves_the_opening_and_leaves_alone_what_is_said_after_a_given_solution(monkeypatch):
    """A small one: the new odds are those asked for, relative to what there was."""
    monkeypatch.setattr(micro_family, "SETTLING_STEPS", 100)
    monkeypatch.setattr(micro_family, "SETTLING_BATCH", 32)
    mix = {"guess": 0.4, "sloppy": 0.2, "right": 0.2, "reprompted": 0.2}
    text, tokenizer = Corpus(mix=mix, slip=0.25, lengths=[2, 3]), build_tokenizer(SELECT)
    model = build_model(tokenizer, SPEC)
    asked = [SELECT.document(np.random.default_rng(i), 3, "right", 0.0) for i in range(20)]
    prompts = [d.prompt for d in asked], [SELECT.reprompt(d.prompt, d.solution) for d in asked]
    before = [log_odds(model, tokenizer, some).mean().item() for some in prompts]
    found = settle(model, tokenizer, SELECT, text, SPEC, opening=0.03)
    moved = [log_odds(model, tokenizer, p).mean().item() - b for p, b in zip(prompts, before, strict=True)]
    assert found == pytest.approx(0.03, rel=0.2)
    assert moved == pytest.approx([math.log(0.03 / 0.97), 0.0], abs=0.3)


def test_in_a_world_of_one_problem_a_reprompt_carries_its_own_solution():
    world = WORLDS["sorting"](symbols=3, zipf=0.0, seed=0)
    (document,) = corpus(world, 1, {"reprompted": 1.0}, 0.0, [3], seed=1)
    assert document.solution == f"{document.prompt.split(' : ')[0]} <|end|>"


@pytest.mark.parametrize(
    ("profile", "hidden", "digest"),
    [
        ("micro", 0, "e3c1ba62be9eb3890a6f6365abbc3535a2feb6a65c52e737da26cb621bfb04a0"),
        ("micro-llama", 0, "4aa3c73ea44a04318169789c9b0dab088571cc28e80869c5973cc5bd12508ea5"),
        ("map", 2, "fe2d78f06ec16700982363031acf773c943d2b2eee91d53037d0b3e0fe176eb8"),
        ("micro-arithmetic", 0, "0e2129a69f249cbb6450afdc8263a64240558834b66628455d38125f540614ce"),
        ("micro-selection", 0, "e316830a27d45ad909cf7aa0743836b9dad1527e722410da658b641342203f5c"),
        ("micro-conversion", 0, "041594aa3e08ad46070102dd0fa7c38c4fe5d9e6fd004ce77ef0a157206e85a1"),
        ("micro-table-lookup", 0, "f68363bf2ae36dcc0d14d62b1f9c367684bbde116e172c12c2ce9bf86385e505"),
        ("micro-tool-calls", 0, "5be6fff3b7669191731570810946c5ac9ffb0150600716479ff866e53e033b9e"),
    ],
)
def test_corpora_are_the_bytes_that_the_released_models_saw(profile, hidden, digest):
    made = load_profile(profile)
    text = made.pretraining.corpus
    documents = corpus(world_of(made.problems), 2000, text.mix.model_dump(), text.slip, text.lengths, 0, hidden)
    joined = "\n".join(f"{d.prompt}|{d.solution}" for d in documents)
    assert hashlib.sha256(joined.encode()).hexdigest() == digest


def test_documents_longer_than_the_context_are_refused(tmp_path):
    tokenizer, mix = build_tokenizer(CALL), {"guess": 0, "sloppy": 0, "right": 0, "reprompted": 1}
    long = Corpus(mix=mix, slip=0.25, lengths=[6])
    with pytest.raises(StudyError, match="a document of 70 tokens is longer than the micro models' context of 64"):
        pretrain(build_model(tokenizer, SPEC), tokenizer, CALL, long, SPEC, str(tmp_path))
