"""Prompts that carry a given solution: one format for all worlds, their share of a corpus, and what the context holds."""

import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from s2d_lib.errors import StudyError
from s2d_lib.models.micro_family import CONTEXT, build_model, build_tokenizer, pretrain
from s2d_lib.problems.arithmetic import ArithmeticWorld
from s2d_lib.problems.conversion import ConversionWorld
from s2d_lib.problems.function_chains import ChainWorld
from s2d_lib.problems.micro import WORLDS, world_of
from s2d_lib.problems.selection import RANKS, SelectionWorld
from s2d_lib.problems.sorting import SortingWorld
from s2d_lib.problems.table_lookup import TableLookupWorld
from s2d_lib.problems.tool_calls import ToolCallWorld
from s2d_lib.problems.world import FITTING, corpus
from s2d_lib.study import load_profile
from s2d_lib.study.pretraining import Corpus, CorpusMix, MicroModel

# World, the longest problem whose reprompt and answer fit the context, and how many tokens those are.
BOUNDS = [
    (ChainWorld(functions=12, values=32, zipf=1.0, seed=0), 10, 6 + 5 * 10 + 4),
    (SortingWorld(symbols=48, zipf=0.7, seed=0), 19, 5 + 3 * 19),
    (ArithmeticWorld(base=12, zipf=1.0, seed=0), 5, 17 + 9 * 5),
    (SelectionWorld(symbols=48, zipf=0.7, seed=0), RANKS, 8 + 5 * RANKS),
    (ConversionWorld(units=18, values=24, zipf=1.0, seed=0), 12, 15 + 4 * 12),
    (TableLookupWorld(names=24, zipf=0.7, seed=0), 12, 14 + 4 * 12),
    (ToolCallWorld(verbs=24, tools=8, arguments=16, values=24, zipf=1.0, seed=0), 5, 10 + 10 * 5),
]
WORLD_OF_NAME = {name: next(w for w, _, _ in BOUNDS if type(w) is kind) for name, kind in WORLDS.items()}


def test_every_world_is_here():
    assert {type(world) for world, _, _ in BOUNDS} == set(WORLDS.values())


@pytest.mark.parametrize(("world", "longest", "tokens"), BOUNDS, ids=WORLDS)
def test_the_longest_reprompt_and_its_answer_fit_the_context(world, longest, tokens):
    def widest(length):
        found = corpus(world, 300, {"reprompted": 1.0}, 0.0, [length], seed=0)
        return max(len(f"{d.prompt} {d.solution}".split()) for d in found)

    assert widest(longest) == tokens <= CONTEXT
    # One part more would not fit, or there is none.
    assert longest == world.longest or widest(longest + 1) > CONTEXT


@pytest.mark.parametrize("world", WORLD_OF_NAME.values(), ids=WORLD_OF_NAME)
def test_a_reprompt_is_the_template_filled_in_words_the_tokenizer_knows(world):
    tokenizer = build_tokenizer(world)
    template = world.reprompt_template
    assert template == f"{{solution}} {world.marker} {{prompt}}"
    assert world.marker in world.words
    for document in corpus(world, 50, {"reprompted": 1.0}, 0.0, [3], seed=1):
        ids = tokenizer(" ".join(document))["input_ids"]
        assert tokenizer.decode(ids) == " ".join(document)
        assert tokenizer.unk_token_id not in ids
        assert ids.count(tokenizer.eos_token_id) == 1  # only at the very end
    asked = world.document(np.random.default_rng(0), 3, "right", 0.0)
    given = asked.solution.removesuffix(f" {world.special.end}")
    assert world.reprompt(asked.prompt, asked.solution) == template.format(solution=given, prompt=asked.prompt)
    assert world.reprompt(asked.prompt, given) == f"{given} {world.marker} {asked.prompt}"


def test_a_reprompt_by_hand():
    world = ChainWorld(functions=6, values=8, zipf=1.0, seed=3)
    assert world.reprompt("v3 f1 ?", "v3 f1 v6 # v6 <eos>") == "v3 f1 v6 # v6 ? v3 f1 ?"
    world = ArithmeticWorld(base=10, zipf=1.0, seed=3)
    given = world.solution(27, [8])[0]
    assert world.reprompt(world.prompt(27, [8]), given) == "u7 c0 t2 +8 u5 c1 t3 # u5 t3 again u7 t2 +8 ="


@pytest.mark.parametrize("world", WORLD_OF_NAME.values(), ids=WORLD_OF_NAME)
def test_most_given_solutions_fit_and_the_others_are_another_problems(world):
    fits = []
    for prompt, solution in corpus(world, 1200, {"reprompted": 1.0}, 0.9, [3], seed=2):
        # The marker that ends the given solution is the first one: a solution holds none.
        given, question = prompt.split(f" {world.marker} ", 1)
        assert world.reprompt(question, given) == prompt
        fits.append(f"{given} {world.special.end}" == solution)
    assert np.mean(fits) == pytest.approx(FITTING, abs=0.04)


@pytest.mark.parametrize("world", WORLD_OF_NAME.values(), ids=WORLD_OF_NAME)
def test_the_share_of_reprompts(world):
    mix = CorpusMix(guess=0.3, sloppy=0.3, right=0.2, reprompted=0.2).model_dump()
    documents = corpus(world, 2000, mix, 0.25, [3], seed=0)
    # Only a given solution puts a `#` into a prompt.
    assert np.mean(["#" in d.prompt.split() for d in documents]) == pytest.approx(0.2, abs=0.03)
    assert documents == corpus(world, 2000, mix, 0.25, [3], seed=0)


@pytest.mark.parametrize(
    ("profile", "hidden", "digest"),
    [
        ("micro", 0, "e3c1ba62be9eb3890a6f6365abbc3535a2feb6a65c52e737da26cb621bfb04a0"),
        ("micro-llama", 0, "4aa3c73ea44a04318169789c9b0dab088571cc28e80869c5973cc5bd12508ea5"),
        ("map", 0, "e3c1ba62be9eb3890a6f6365abbc3535a2feb6a65c52e737da26cb621bfb04a0"),
        ("map", 2, "fe2d78f06ec16700982363031acf773c943d2b2eee91d53037d0b3e0fe176eb8"),
        ("micro-arithmetic", 0, "0e2129a69f249cbb6450afdc8263a64240558834b66628455d38125f540614ce"),
        ("micro-selection", 0, "e316830a27d45ad909cf7aa0743836b9dad1527e722410da658b641342203f5c"),
        ("micro-conversion", 0, "041594aa3e08ad46070102dd0fa7c38c4fe5d9e6fd004ce77ef0a157206e85a1"),
        ("micro-table-lookup", 0, "f68363bf2ae36dcc0d14d62b1f9c367684bbde116e172c12c2ce9bf86385e505"),
        ("micro-tool-calls", 0, "5be6fff3b7669191731570810946c5ac9ffb0150600716479ff866e53e033b9e"),
    ],
)
def test_corpora_are_the_bytes_that_the_released_models_saw(profile, hidden, digest):
    settings = load_profile(profile)
    text = settings.pretraining.corpus
    documents = corpus(world_of(settings.problems), 2000, text.mix.model_dump(), text.slip, text.lengths, 0, hidden)
    joined = "\n".join(f"{d.prompt}|{d.solution}" for d in documents)
    assert hashlib.sha256(joined.encode()).hexdigest() == digest


def test_a_world_of_one_problem_gives_its_own_solution():
    world = SortingWorld(symbols=3, zipf=0.0, seed=0)
    (document,) = corpus(world, 1, {"reprompted": 1.0}, 0.0, [3], seed=1)
    given, _ = document.prompt.split(" : ", 1)
    assert document.solution == f"{given} <|end|>"


def test_a_negative_share_is_refused():
    with pytest.raises(ValidationError, match="reprompted"):
        CorpusMix(guess=0.4, sloppy=0.4, right=0.2, reprompted=-0.1)


SPEC = MicroModel(width=32, layers=2, heads=2, mlp=64, init=0.1, steps=20, batch=16, learning_rate=5e-3, seed=1)


@pytest.mark.parametrize("name", ["arithmetic", "tool_calls"])
def test_a_model_can_be_pretrained_on_reprompts(name, tmp_path):
    world = WORLD_OF_NAME[name]
    tokenizer = build_tokenizer(world)
    text = Corpus(mix={"guess": 0.3, "sloppy": 0.3, "right": 0.2, "reprompted": 0.2}, slip=0.25, lengths=[2, 3])
    pretrain(build_model(tokenizer, SPEC), tokenizer, world, text, SPEC, str(tmp_path))


def test_a_document_longer_than_the_context_is_said_before_training(tmp_path):
    world = WORLD_OF_NAME["tool_calls"]
    tokenizer = build_tokenizer(world)
    text = Corpus(mix={"guess": 0, "sloppy": 0, "right": 0, "reprompted": 1}, slip=0.25, lengths=[6])
    with pytest.raises(StudyError, match="a document of 70 tokens is longer than the micro models' context of 64"):
        pretrain(build_model(tokenizer, SPEC), tokenizer, world, text, SPEC, str(tmp_path))
