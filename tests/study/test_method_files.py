"""Methods: files that bring a stage, and what is said of those that are none. A process makes its registry once."""

import os
import subprocess
import sys

import pytest

from s2d_lib.study import STAGES, resolve
from tests.conftest import ROOT

GOOD = """
from s2d_lib.study.stage_params import Distillation, like


class Mine(Distillation):
    share: float = 0.5


STAGE = like("opd", Mine)
CHECKPOINTS = {"student.mine": {"stage": "mine", "from": "student", "teacher": "teacher.rl", "labels": "full"}}


def train(run, inputs):
    pass
"""


@pytest.fixture
def said(tmp_path):
    """What the command says of a checkpoint where a folder has a method's file."""

    def ask(content: str, name: str = "mine", folder: str = "") -> str:
        (tmp_path / f"{name}.py").write_text(content)
        program = "from s2d_lib.study import resolve\ntry:\n    print(resolve('micro', 'student.mine', 0).hash)\n"
        program += "except Exception as error:\n    print(error)"
        there = {"S2D_METHODS": str(tmp_path / folder), "S2D_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}
        how = {"env": os.environ | there, "capture_output": True, "text": True, "timeout": 60, "check": True}
        return subprocess.run([sys.executable, "-c", program], **how).stdout.strip()

    return ask


def test_a_method_has_the_hyperparameters_of_the_stage_that_it_is_like_and_its_own():
    of_opd = {"stages": {"opd": {"batch": 128, "micro_batch": 128}}}
    run, opd = (resolve("micro", f"student.{name}.rl_teacher", 0, of_opd) for name in ("tip", "opd_only"))
    assert run.params == opd.params | {"share": 0.5}
    assert run.samples_itself
    own = {"share": 0.2, "batch": 64, "micro_batch": 64}
    found = resolve("micro", "student.tip.rl_teacher", 0, {"stages": {"tip": own}})
    assert found.params == opd.params | own
    paced = resolve("micro", "student.warm.paced", 0)
    assert STAGES["paced"].graded
    assert not paced.samples_itself  # before its steps, not in them
    assert set(paced.parents) == {"from", "teacher", "rollouts"}


def test_a_file_of_ones_own_is_part_of_the_hash(said):
    first, again, other = said(GOOD), said(GOOD), said(GOOD + "# changed\n")
    assert len(first) == 64
    assert first == again != other


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (GOOD.replace("STAGE =", "S ="), "mine", "lacks `STAGE`, a Stage: docs/how_to_add_a_method.md shows one."),
        (GOOD.replace('like("opd"', 'like("odp"'), "mine", "mine.py can't be read: KeyError: 'odp'"),
        (GOOD, "opd", "opd.py has the name of a stage that is there"),
        (GOOD.replace("student.mine", "student.grpo"), "mine", "mine.py declares 'student.grpo', which is there"),
    ],
)
def test_what_is_no_method_is_said_in_one_sentence(said, content, name, sentence):
    answer = said(content, name)
    assert sentence in answer
    assert "\n" not in answer


def test_a_folder_that_is_not_there(said, tmp_path):
    assert said(GOOD, folder="none") == f"S2D_METHODS names {tmp_path / 'none'}, which is no folder."
