"""Other weights, tokenizers or problems under one name are told from the old ones, and nothing else is."""

import json
import shutil

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from s2d_lib.errors import StudyError
from s2d_lib.problems import micro
from s2d_lib.runs import open_run
from s2d_lib.stages import inputs as content
from s2d_lib.stages.inputs import prepare
from s2d_lib.study.load import deep_merge
from s2d_lib.study.resolve import RELEASED

REMEDY = (
    r"put the old one back, give the new one a name or a profile of its own, or delete the runs that read the old one"
)


@pytest.fixture
def folder(tmp_path):
    """The released student in a folder that can be changed."""
    return shutil.copytree(RELEASED / "student", tmp_path / "student")


@pytest.fixture
def own(tiny, folder) -> dict:
    """Overrides: a student from that folder."""
    return deep_merge(tiny, {"roles": {"student": {"model": str(folder)}}})


def change_weights(folder):
    weights = load_file(folder / "model.safetensors")
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 1}, folder / "model.safetensors", {"format": "pt"})


def change_tokenizer(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 63}))


@pytest.mark.parametrize(
    ("change", "file"), [(change_weights, "model.safetensors"), (change_tokenizer, "tokenizer_config.json")]
)
def test_a_model_that_has_changed_since_the_base_run_is_refused(make, own, folder, change, file):
    make("student", overrides=own)
    change(folder)
    for checkpoint in ("student", "student.grpo"):  # shown again, and trained from
        with pytest.raises(StudyError, match=rf"the model .*{folder}.* is not what it was .*\({file}\): {REMEDY}"):
            prepare(open_run("micro-full", checkpoint, 0, own))


def test_an_interrupted_run_does_not_go_on_with_other_weights(runs, own, folder):
    run = open_run("micro-full", "student", 0, own)
    prepare(run)
    run.remember()
    prepare(open_run("micro-full", "student", 0, own))  # nothing has changed
    change_weights(folder)
    with pytest.raises(StudyError, match=r"is not what it was for the run in .*student\.unfinished"):
        prepare(open_run("micro-full", "student", 0, own))


def test_problems_that_have_changed_are_refused_and_others_are_not(make, tiny, monkeypatch):
    assert set(make("student").record["read"]) == {"the model 'micro/chains-student'"} | {
        f"the problem set {name!r}" for name in ("micro-math", "micro-aime")
    }
    prepare(open_run("micro-full", "student.grpo", 0, tiny))
    world = type(micro.world_of(open_run("micro-full", "student", 0, tiny).resolved.problems))
    made = world.problems
    monkeypatch.setattr(
        world, "problems", lambda self, name, *a, **k: made(self, name, *a, **k)[: -1 if name == "micro-aime" else None]
    )
    with pytest.raises(
        StudyError, match=r"the problem set 'micro-aime' is not what it was .*\(other problems, answers or traces\)"
    ):
        prepare(open_run("micro-full", "student.grpo", 0, tiny))


def test_a_model_of_the_hub_is_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert content.model_content("some-org/some-model") == {}
    ref = tmp_path / "models--some-org--some-model" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("0123abc")
    assert content.model_content("some-org/some-model") == {"commit": "0123abc"}
