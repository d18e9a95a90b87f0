"""The micro families: what is released is what its record says, and students and teachers fit each other."""

import json
import sys

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.models.micro_family import build_tokenizer, make_base
from s2d_lib.models.policy import load_policy
from s2d_lib.models.vocabularies import OTHER_TEACHER, check_pair
from s2d_lib.problems.micro import world_of
from s2d_lib.problems.world import corpus
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.pretraining import MicroModel
from s2d_lib.study.resolve import RELEASED, released_record
from s2d_lib.study.settings import Hardware, RoleModel

FAMILIES = {"chains": "micro", "llama": "micro-llama", "selection": "micro-crossing"}  # and the profile of each
FAMILIES |= {name: f"micro-{name}" for name in ("arithmetic", "conversion", "table-lookup", "tool-calls")}
RELEASES = [(family, role) for family in FAMILIES for role in ("student", "teacher")]


def load(*names: str):
    return [load_policy(RoleModel(model=f"micro/{name}"), Hardware()) for name in names]


@pytest.mark.parametrize(("family", "role"), [r for r in RELEASES if (RELEASED / "-".join(r)).is_dir()])
def test_what_is_released_is_what_its_record_says_and_speaks_its_world(family, role):
    name, settings = f"{family}-{role}", load_profile(FAMILIES[family])
    record, (policy,) = released_record(RELEASED / name), load(name)
    declared, world, text = settings.pretraining.models[name], world_of(settings.problems), settings.pretraining.corpus
    config, tokenizer = policy.model.config, policy.tokenizer
    assert policy.size == record["parameters"]
    assert config.model_type == declared.architecture == ("llama" if family == "llama" else "qwen3")
    assert (config.head_dim, config.tie_word_embeddings) == (32, True)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert MicroModel(**record["model"]) == declared
    vocabulary = {word: i for i, word in enumerate(world.words)}
    assert tokenizer.get_vocab() == vocabulary == build_tokenizer(world).get_vocab()
    for document in corpus(world, 50, text.mix.model_dump(), text.slip, text.lengths, seed=0):
        ids = tokenizer(" ".join(document))["input_ids"]
        assert tokenizer.decode(ids) == " ".join(document)
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= tokenizer.model_max_length


def test_new_base_weights_make_every_run_stale(monkeypatch):
    before = resolve("micro", "student.bridge.rl_teacher", 0).hash
    monkeypatch.setattr(sys.modules["s2d_lib.study.resolve"], "weights_hash", lambda model: "others")
    assert resolve("micro", "student.bridge.rl_teacher", 0).hash != before


def test_a_base_model_can_be_made_and_a_changed_one_is_refused(tmp_path):
    overrides = {"pretraining": {"models": {"chains-student": {"steps": 3, "batch": 4, "opening": None}}}}
    record = make_base("micro", "chains-student", tmp_path, overrides)
    assert record["weights_sha256"] == make_base("micro", "chains-student", tmp_path, overrides)["weights_sha256"]
    assert released_record(tmp_path / "chains-student")["parameters"] == record["parameters"]
    path = tmp_path / "chains-student" / "record.json"
    path.write_text(json.dumps({**record, "weights_sha256": "0"}))
    with pytest.raises(StudyError, match="not those of its record"):
        released_record(tmp_path / "chains-student")
    with pytest.raises(StudyError, match="make it with `make base`"):
        released_record(tmp_path / "teacher")


def two_templates(*pair) -> None:
    for number, policy in enumerate(pair):
        policy.chat, policy.tokenizer.chat_template = True, f"f{number} {{{{ messages[0].content }}}}"


@pytest.mark.parametrize(
    ("change", "sentence", "remedy"),
    [
        (lambda s, t: t.tokenizer.add_tokens(["new"]), "their vocabularies", OTHER_TEACHER),
        (lambda s, t: setattr(t.tokenizer, "eos_token", "#"), "the EOS token", "set `eos_token` of one role"),
        (lambda s, t: setattr(t.tokenizer, "pad_token", "#"), "the pad token", "set `pad_token` of one role"),
        (lambda s, t: setattr(t, "chat", True), "chat prompts", "set `chat` the same for both roles"),
        (two_templates, "their chat templates", "set `chat_template` the same for both roles"),
        (lambda s, t: t.model.resize_token_embeddings(64), "the size of their output heads", "resize one model's"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_with_the_difference_and_the_remedy(change, sentence, remedy):
    change(*(pair := load("chains-student", "chains-teacher")))
    with pytest.raises(StudyError, match=f"can't be bridged, they differ in {sentence}") as error:
        check_pair(*pair)
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)
