"""Which completions a study's results keep as text."""

import json

import pandas as pd

from s2d_lib.results.bundle import read_evaluation
from s2d_lib.results.samples import COLUMNS, KEPT, kept_samples, read_samples, shown_answer, write_samples
from s2d_lib.results.summary import summarise
from s2d_lib.runs import FinishedRun

NAMES = ["NA", "null", "nan", "easy"]


def finished(folder, checkpoint: str, seed: int, completions: dict[str, list[str]] | None) -> FinishedRun:
    """A run whose samples are these, by evaluation set; None for a run that is not evaluated."""
    path = folder / f"{checkpoint}-{seed}"
    path.mkdir()
    if completions is not None:
        rows = [
            {"set": name, "problem": f"{name}/{i}", "prompt": "?", "answer": "7", "completion": text, "correct": i == 0}
            for name, texts in completions.items()
            for i, text in enumerate(texts)
        ]
        write_samples(pd.DataFrame(rows), path / "samples.csv")
    return FinishedRun(path, {"resolved": {"checkpoint": checkpoint, "seed": seed}})


def test_the_first_problems_of_every_set_of_the_first_seed_are_kept(tmp_path):
    runs = [
        finished(tmp_path, "student", 3, {"easy": ["three"]}),
        finished(tmp_path, "student", 1, {"easy": ["", "NA", "a\rb", *"cdef"], "hard": ["x"]}),
        finished(tmp_path, "student.rollouts", 1, None),
    ]
    kept = kept_samples(runs)
    assert list(kept) == COLUMNS
    assert set(kept["seed"]) == {1}
    assert kept.loc[kept["set"] == "easy", "completion"].tolist() == ["", "NA", "a\rb", *"cdef"][:KEPT]
    assert kept.loc[kept["set"] == "hard", "completion"].tolist() == ["x"]
    write_samples(kept, tmp_path / "kept.csv")
    assert '"a\rb"' in (tmp_path / "kept.csv").read_bytes().decode()
    pd.testing.assert_frame_equal(read_samples(tmp_path / "kept.csv"), kept.reset_index(drop=True), check_dtype=False)


def test_runs_without_samples_keep_none(tmp_path):
    assert kept_samples([finished(tmp_path, "student.rollouts", 0, None)]).empty


def test_a_gold_answer_is_shown_without_its_note():
    assert shown_answer(json.dumps({"answer": 17, "task": "chain_sum"})) == "17"
    assert [shown_answer(text) for text in ("17", "f1 v2", "[1, 2]", '{"a": 1}')] == [
        "17",
        "f1 v2",
        "[1, 2]",
        '{"a": 1}',
    ]


def test_a_set_that_is_called_like_a_missing_value_keeps_its_name(tmp_path):
    rows = [
        {"set": name, "problem": "null", "level": "", "correct": "01", "tokens": 1.5, "cut_off": 0.0} for name in NAMES
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "evaluation.csv", index=False)
    summary = summarise(read_evaluation(tmp_path / "evaluation.csv"))
    assert summary["set"].tolist() == NAMES
    assert summary["avg"].tolist() == [0.5] * len(NAMES)
