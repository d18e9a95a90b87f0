"""Which completions a study's results keep as text."""

import json

import pandas as pd

from s2d_lib.results.samples import COLUMNS, KEPT, kept_samples, read_samples, shown_answer
from s2d_lib.runs import FinishedRun


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
        pd.DataFrame(rows).to_csv(path / "samples.csv", index=False)
    return FinishedRun(path, {"resolved": {"checkpoint": checkpoint, "seed": seed}})


def test_the_first_problems_of_every_set_of_the_first_seed_are_kept(tmp_path):
    runs = [
        finished(tmp_path, "student", 3, {"easy": ["three"]}),
        finished(tmp_path, "student", 1, {"easy": ["", "NA", *"abcdef"], "hard": ["x"]}),
        finished(tmp_path, "student.rollouts", 1, None),
    ]
    kept = kept_samples(runs)
    assert list(kept) == COLUMNS
    assert set(kept["seed"]) == {1}
    assert kept.loc[kept["set"] == "easy", "completion"].tolist() == ["", "NA", *"abcdef"][:KEPT]
    assert kept.loc[kept["set"] == "hard", "completion"].tolist() == ["x"]
    kept.to_csv(tmp_path / "kept.csv", index=False)
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
