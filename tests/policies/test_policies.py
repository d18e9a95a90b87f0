"""The micro families and loading: what is released is what its record says, and it is the architecture promised."""

import json
import shutil
import sys

import pytest
import torch

from s2d_lib.errors import StudyError
from s2d_lib.policies.micro_family import build_model, build_tokenizer
from s2d_lib.policies.pair import check_pair
from s2d_lib.policies.policy import load_policy, save_policy
from s2d_lib.policies.release import make_base
from s2d_lib.problems.micro import world_of
from s2d_lib.problems.sources import load_problems
from s2d_lib.problems.world import corpus
from s2d_lib.rollouts import sample
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.pretraining import MicroModel
from s2d_lib.study.resolve import RELEASED, released_record
from s2d_lib.study.settings import Hardware, RoleModel, Sampling

NAMES = ("chains-student", "chains-teacher")
BY_TEXT = (
    "take a teacher of the student's family, or go by text, with stage teacher_sample_sft, or opd with estimator gold and "
    "beta 0.5"
)


FAMILIES = {"micro": NAMES, "micro-llama": ("llama-student", "llama-teacher")}
BENCHMARKS = {f"micro-{b}": (f"{b}-student",) for b in ("arithmetic", "conversion", "table-lookup", "tool-calls")}
PAIRS = FAMILIES | {"micro-crossing": ("selection-student", "selection-teacher")}
RELEASES = [(profile, name) for profile, names in (PAIRS | BENCHMARKS).items() for name in names]


@pytest.mark.parametrize(("profile", "name"), RELEASES)
def test_the_released_weights_are_those_of_their_record(profile, name):
    record = released_record(RELEASED / name)
    declared = load_profile(profile).pretraining.models[name]
    policy = load_policy(RoleModel(model=f"micro/{name}"), Hardware())
    config = policy.model.config
    assert policy.size == record["parameters"]
    assert config.model_type == declared.architecture == ("llama" if profile == "micro-llama" else "qwen3")
    assert config.head_dim == 32
    assert config.tie_word_embeddings
    assert policy.tokenizer.eos_token_id != policy.tokenizer.pad_token_id
    assert MicroModel(**record["model"]) == declared


@pytest.mark.parametrize(("profile", "name"), RELEASES)
def test_the_released_tokenizer_is_the_worlds_and_gives_its_texts_back(profile, name):
    settings = load_profile(profile)
    world, text = world_of(settings.problems), settings.pretraining.corpus
    tokenizer = load_policy(RoleModel(model=f"micro/{name}"), Hardware()).tokenizer
    vocabulary = {word: i for i, word in enumerate(world.words)}
    assert tokenizer.get_vocab() == vocabulary == build_tokenizer(world).get_vocab()
    for document in corpus(world, 50, text.mix.model_dump(), text.slip, text.lengths, seed=0):
        ids = tokenizer(" ".join(document))["input_ids"]
        assert tokenizer.decode(ids) == " ".join(document)
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= tokenizer.model_max_length


def test_the_second_family_shares_nothing_with_the_first():
    first, second = (world_of(load_profile(profile).problems) for profile in FAMILIES)
    assert set(first.words) & set(second.words) == {"#"}
    assert first.words.index(first.special.end) != second.words.index(second.special.end)


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_a_new_model_has_the_architecture_asked_for(architecture):
    settings = load_profile("micro")
    spec = settings.pretraining.models["chains-student"].model_copy(update={"architecture": architecture})
    model = build_model(build_tokenizer(world_of(settings.problems)), spec)
    assert type(model).__name__ == {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}[architecture]
    assert model.config.head_dim == 32
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.dtype == torch.float32


def test_the_released_families_are_small_and_hold_no_pickles():
    files = [p for p in RELEASED.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10 * 1024**2
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pkl")]


def test_new_base_weights_make_every_run_stale(monkeypatch):
    before = resolve("micro", "student.bridge.rl_teacher", 0).hash
    monkeypatch.setattr(sys.modules["s2d_lib.study.resolve"], "released_weights", lambda model: "others")
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


def test_a_policy_survives_saving(tmp_path):
    policy = load_policy(RoleModel(model="micro/chains-student"), Hardware())
    save_policy(policy, tmp_path / "model")
    again = load_policy(RoleModel(model="micro/chains-student"), Hardware(), tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), again.model.parameters(), strict=True))
    assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def spoilt(tmp_path):
    """The released student in a folder, with a file changed: (file, changes, role) loads it."""
    folder = shutil.copytree(RELEASED / "chains-student", tmp_path / "spoilt")

    def load(file: str, changes: dict, **role):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return load_policy(RoleModel(model=str(folder), **role), Hardware())

    return load


def test_only_the_profiles_parameters_sample(spoilt, tmp_path):
    shaping = {
        "repetition_penalty": 1.3,
        "min_p": 0.2,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [5],
        "num_beams": 4,
    }
    shaping |= {"temperature": 0.1, "top_k": 3, "max_length": 4, "forced_eos_token_id": 1, "bad_words_ids": [[7]]}
    policy = spoilt("generation_config.json", shaping | {"do_sample": True})
    plain = load_policy(RoleModel(model="micro/chains-student"), Hardware())
    assert policy.model.generation_config.to_dict() == plain.model.generation_config.to_dict()
    problems = load_problems(resolve("micro", "student", 0).problems).evaluations["micro-math"][:4]
    drawn = [
        sample(p, problems, samples=4, sampling=Sampling(max_new_tokens=12, batch=8), seed=0) for p in (policy, plain)
    ]
    assert drawn[0] == drawn[1]
    save_policy(policy, tmp_path / "model")
    said = (tmp_path / "model" / "generation_config.json").read_text()
    assert json.loads(said) == json.loads((RELEASED / "chains-student" / "generation_config.json").read_text())


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_further_end_tokens_are_refused_until_a_role_says_which_one_ends_an_answer(spoilt, file):
    with pytest.raises(StudyError, match=r"ends its answers at \['#'\] beside '<eos>'.*set `eos_token` for this role"):
        spoilt(file, {"eos_token_id": [1, 4]})
    policy = spoilt(file, {"eos_token_id": [1, 4]}, eos_token="<eos>")
    assert policy.model.config.eos_token_id == policy.model.generation_config.eos_token_id == 1


def test_a_tokenizer_that_appends_eos_is_refused(spoilt):
    template = {
        "type": "TemplateProcessing",
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}},
    }
    template["single"] = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}]
    template["pair"] = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    with pytest.raises(StudyError, match=r"ends every prompt with its EOS.*`add_eos_token` to false"):
        spoilt("tokenizer.json", {"post_processor": template})
    chats = {"chat": True, "chat_template": "{{ messages[0].content }} {{ eos_token }}"}
    with pytest.raises(StudyError, match="or correct its chat template"):
        spoilt("tokenizer.json", {"post_processor": None}, **chats)


@pytest.mark.parametrize("names", PAIRS.values())
def test_released_student_and_teacher_fit_each_other(names):
    check_pair(*(load_policy(RoleModel(model=f"micro/{name}"), Hardware()) for name in names))


def test_models_of_two_families_do_not():
    with pytest.raises(StudyError, match="can't be bridged"):
        check_pair(
            *(load_policy(RoleModel(model=f"micro/{name}"), Hardware()) for name in ("chains-student", "llama-teacher"))
        )


@pytest.mark.parametrize(
    ("change", "sentence", "remedy"),
    [
        (lambda p: p.tokenizer.add_tokens(["new"]), "their vocabularies", BY_TEXT),
        (
            lambda p: setattr(p.tokenizer, "eos_token", "#"),
            "the EOS token",
            "set `eos_token` of one role in the profile",
        ),
        (
            lambda p: setattr(p.tokenizer, "pad_token", "#"),
            "the pad token",
            "set `pad_token` of one role in the profile",
        ),
        (lambda p: setattr(p, "chat", True), "chat prompts", "set `chat` the same for both roles in the profile"),
        (
            lambda p: p.model.resize_token_embeddings(64),
            "the size of their output heads",
            "resize one model's embeddings",
        ),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_with_the_difference_and_the_remedy(change, sentence, remedy):
    student, teacher = (load_policy(RoleModel(model=f"micro/{name}"), Hardware()) for name in NAMES)
    change(teacher)
    with pytest.raises(StudyError) as error:
        check_pair(student, teacher)
    assert str(error.value).startswith(f"student and teacher can't be bridged, they differ in {sentence}")
    assert str(error.value).endswith(f": {remedy}.")


def test_a_teacher_that_chats_in_another_form_gets_the_students_template():
    student, teacher = (load_policy(RoleModel(model=f"micro/{name}"), Hardware()) for name in NAMES)
    for policy, template in ((student, "f1 {{ messages[0].content }}"), (teacher, "f2 {{ messages[0].content }}")):
        policy.chat, policy.tokenizer.chat_template = True, template
    remedy = "set `chat_template` of one role to the other's in the profile"
    with pytest.raises(StudyError, match=f"they differ in their chat templates: {remedy}\\.$"):
        check_pair(student, teacher)
    teacher.tokenizer.chat_template = student.tokenizer.chat_template
    check_pair(student, teacher)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"model": "micro/huge"}, "could not be loaded"),
        ({"model": "./no/such/folder"}, "does not exist"),
        ({"model": "package:no_such_package_here"}, "install it with"),
        ({"model": "some-org/some-model-that-is-not-there"}, "could not be loaded"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(spec, sentence):
    with pytest.raises(StudyError, match=sentence) as error:
        load_policy(RoleModel(**spec), Hardware())
    assert "\n" not in str(error.value)


def test_a_roles_own_chat_template_takes_the_place_of_the_tokenizers(tmp_path):
    spec = {"model": "micro/chains-student", "chat": True, "chat_template": "f1 {{ messages[0].content }} ?"}
    policy = load_policy(RoleModel(**spec), Hardware())
    assert policy.prompt_ids(["v3"]) == [policy.tokenizer("f1 v3 ?")["input_ids"]]
    save_policy(policy, tmp_path / "model")
    saved = load_policy(RoleModel(model="micro/chains-student", chat=True), Hardware(), tmp_path / "model")
    assert saved.prompt_ids(["v3"]) == policy.prompt_ids(["v3"])
    with pytest.raises(ValueError, match="`chat_template` is read where `chat: true` is set"):
        RoleModel(model="micro/chains-student", chat_template="x")


def test_a_role_without_a_chat_template_of_its_own_keeps_the_dump_that_its_runs_hashes_have():
    assert "chat_template" not in RoleModel(model="m").model_dump()
