"""The regime check: its table, and its criteria on accuracies made by hand."""

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.report.regime import criteria, regime_table, write_regime
from s2d_lib.runs import FinishedRun

EVALUATION = """decoding,set,id,correct,tokens,cut_off
main,hard,a,{main},3,0
main,hard,b,{main},3,0
greedy,hard,a,{greedy},3,0
greedy,hard,b,{greedy},3,0
"""
ENDS = {
    "student": ("0000", "1"), "teacher": ("1000", "1"), "teacher.rl": ("1111", "1"), "student.grpo": ("1100", "0"),
    "student.bridge.rl_teacher": ("1110", "1"), "student.opd_only.rl_teacher": ("1100", "1"),
    "student.teacher_sample_sft.rl_teacher": ("1000", "1"),
}  # fmt: skip


def made(tmp_path, checkpoint: str, main: str, greedy: str, seed: int = 7) -> FinishedRun:
    """A run of that result."""
    folder = tmp_path / f"{checkpoint}-{seed}"
    folder.mkdir()
    (folder / "evaluation.csv").write_text(EVALUATION.format(main=main, greedy=greedy))
    stage = "sparse_rl" if "." in checkpoint else "base"
    return FinishedRun(folder, {"resolved": {"checkpoint": checkpoint, "seed": seed, "stage": stage}})


@pytest.fixture
def path(tmp_path):
    """A check of one cell whose untrained student is right greedily."""
    runs = [("end=hard", made(tmp_path, name, *right)) for name, right in ENDS.items()]
    write_regime(runs, tmp_path / "regime.csv")
    return tmp_path / "regime.csv"


def test_base_models_stand_at_their_best_decoding_too(path):
    rows = pd.read_csv(path).set_index(["checkpoint", "decoding"])["hard"]
    assert rows.to_dict() == {
        ("student", "main"): 0.0, ("student", "best"): 1.0, ("teacher", "main"): 0.25, ("teacher", "best"): 1.0,
        ("teacher.rl", "main"): 1.0, ("student.grpo", "main"): 0.5, ("student.bridge.rl_teacher", "main"): 0.75,
        ("student.opd_only.rl_teacher", "main"): 0.5, ("student.teacher_sample_sft.rl_teacher", "main"): 0.25,
    }  # fmt: skip
    assert regime_table(path).loc[("end=hard", "student", "best"), "hard"] == "1.000"


def test_what_a_temperature_gives_is_no_room_to_learn(path):
    found = criteria(path, ["hard"]).set_index("criterion")
    assert found["points"].tolist() == [0.0, -25.0, 0.0, 0.0, -50.0]
    assert not found["met"].any()
    rows = pd.read_csv(path)
    rows.loc[rows["decoding"] == "best", "hard"] = [0.1, 0.4]
    rows.assign(known=0.5).to_csv(path, index=False)
    found = criteria(path, ["hard"]).set_index("criterion")
    assert found["points"].tolist() == pytest.approx([90.0, 65.0, 30.0, 60.0, 40.0, 0.0])
    assert found["met"].all()


def test_a_check_that_was_not_made_is_said(tmp_path):
    with pytest.raises(StudyError, match="make it with `make regime`"):
        regime_table(tmp_path / "regime.csv")
