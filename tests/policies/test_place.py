"""What is never done to load a model, and what a model that can't be loaded is said to lack."""

import json
import pickle
import shutil

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from s2d_lib.errors import StudyError
from s2d_lib.policies.place import why_not_loaded
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


def raised(cause: Exception) -> OSError:
    error = OSError("You are trying to access a gated repo.\nMake sure to have access to it.")
    error.__cause__ = cause
    return error


def test_a_gated_model_and_one_that_is_not_there():
    answer = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
    said = why_not_loaded("some/model", raised(GatedRepoError("gated", response=answer)))
    assert (
        "accept its licence on https://huggingface.co/some/model, `hf auth login`, then `hf download some/model`"
        in said
    )
    said = why_not_loaded("some/model", raised(RepositoryNotFoundError("missing", response=answer)))
    assert "there is no model 'some/model' on the Hub, or it is private" in said
    said = why_not_loaded("some/model", OSError("no network\nat all"))
    assert "(no network)" in said
    assert "`hf download some/model` where there is a network" in said
