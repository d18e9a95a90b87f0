"""What is never done to load a model, and what a model that can't be loaded is said to lack."""

import json
import pickle
import shutil

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from s2d_lib.errors import StudyError
from s2d_lib.policies import gguf
from s2d_lib.policies.place import model_place, why_not_loaded
from s2d_lib.policies.policy import load_policy
from s2d_lib.study.resolve import RELEASED
from s2d_lib.study.settings import Hardware, RoleModel


class Opened:
    """What a pickle can do when it is read."""

    done = False

    def __reduce__(self):
        return setattr, (Opened, "done", True)


@pytest.fixture
def folder(tmp_path):
    """A copy of a released model."""
    return shutil.copytree(RELEASED / "student", tmp_path / "model")


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Opened()}, folder / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(StudyError, match=r"has its weights pickled, .*: take a copy with safetensors"):
        load_policy(RoleModel(model=str(folder)), Hardware())
    assert not Opened.done


@pytest.mark.parametrize("weights", [True, False])
def test_a_models_own_code_is_not_run(folder, weights):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this code has run')")
    with pytest.raises(StudyError, match="wants to run code of its own, which is never done here"):
        load_policy(RoleModel(model=str(folder)), Hardware(), weights=weights)


def test_a_models_own_code_is_not_run_beside_a_gguf_file(folder, runs, monkeypatch):
    asked = []

    def read(source, **given):
        asked.append(given)
        raise ImportError("no gguf")

    monkeypatch.setattr(gguf.AutoModelForCausalLM, "from_pretrained", read)
    (folder / "model.gguf").touch()
    with pytest.raises(StudyError, match=r"needs the package gguf .*`pip install gguf`"):
        load_policy(RoleModel(model=str(folder), gguf_file="model.gguf"), Hardware())
    assert [given["trust_remote_code"] for given in asked] == [False]


def raised(cause: Exception) -> OSError:
    error = OSError("You are trying to access a gated repo.\nMake sure to have access to it.")
    error.__cause__ = cause
    return error


LOCAL = "or point its role at a local folder (`roles.<role>.model: /path`)."


def test_a_gated_model_and_one_that_is_not_there():
    answer = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
    said = why_not_loaded("some/model", raised(GatedRepoError("gated", response=answer)))
    steps = "accept its licence on https://huggingface.co/some/model, `hf auth login`, then `hf download some/model`"
    assert said == f"the model 'some/model' is gated: {steps}, {LOCAL}"
    said = why_not_loaded("some/model", raised(RepositoryNotFoundError("missing", response=answer)))
    assert said.startswith(
        "there is no model 'some/model' on the Hub, or it is private: check the name, or `hf auth login`"
    )
    assert said.endswith(f"then `hf download some/model`, {LOCAL}")


def test_without_a_network_what_to_download_is_said_and_whose_licence_to_accept():
    for error in (OSError("no network.\nat all"), OSError("no network")):
        assert why_not_loaded("some/model", error) == (
            "the model 'some/model' could not be loaded (no network): check the name, or `hf download some/model` where there "
            f"is a network, {LOCAL}"
        )
    said = why_not_loaded("meta-llama/Llama-3.3-70B-Instruct", OSError("no network"))
    page = "https://huggingface.co/meta-llama/Llama-3.3-70B-Instruct"
    assert f"accept its licence on {page}, `hf auth login`, then `hf download meta-llama/Llama" in said
    assert said.endswith(LOCAL)


@pytest.mark.parametrize("name", ["Qwen/Qwen3 1.7B", "a/b/c", "org/-model", "org/a--b", ""])
def test_a_name_that_no_hub_model_can_have_is_refused(name):
    with pytest.raises(StudyError) as error:
        load_policy(RoleModel(model=name), Hardware())
    assert str(error.value).startswith(f"the model {name!r} is no Hub id (publisher/name, of ")
    assert str(error.value).endswith(LOCAL)


def test_a_folder_may_have_any_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("my model")
    assert model_place("my model") == "my model"
    assert load_policy(RoleModel(model="my model"), Hardware()).size
