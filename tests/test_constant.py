"""What always the same answer would score."""

import pandas as pd

from s2d_lib.results.constant import COLUMNS, collected_constant, constant_answers, read_constant
from s2d_lib.runs import FinishedRun


def evaluated(folder, answers: dict[str, list[str]]) -> FinishedRun:
    """A run that was evaluated on problems with these right answers, by level."""
    folder.mkdir()
    rows = [
        {"set": "tasks", "problem": f"{level}/{i}", "level": level, "answer": answer, "prompt": "?", "completion": "1"}
        for level, of_level in answers.items()
        for i, answer in enumerate(of_level)
    ]
    table = pd.DataFrame(rows).assign(correct="01", tokens=2, cut_off=0)
    table[["set", "problem", "level", "correct", "tokens", "cut_off"]].to_csv(folder / "evaluation.csv", index=False)
    kept = table[["set", "problem", "prompt", "answer", "completion", "correct"]]
    kept.iloc[::-1].to_csv(folder / "samples.csv", index=False)  # the order of problems must not matter
    return FinishedRun(folder, {"resolved": {"checkpoint": "student", "seed": 0}})


def test_the_most_frequent_answer_of_each_level_and_its_share(tmp_path):
    note = '{"answer": "1", "task": "lcm"}'
    run = evaluated(tmp_path / "run", {"count": ["1", "2", "1", "0"], "lcm": ["12", note, "6", note]})
    expected = [("tasks", "count", 4, "1", 0.5), ("tasks", "lcm", 4, "1", 0.5)]
    assert constant_answers(run).to_records(index=False).tolist() == expected


def test_of_answers_as_frequent_the_first_in_order_and_text_stays_text(tmp_path):
    table = constant_answers(evaluated(tmp_path / "run", {"1": ["NA", "NA", "007", "007"]}))
    assert table["answer"].tolist() == ["007"]
    table.to_csv(tmp_path / "constant.csv", index=False)
    pd.testing.assert_frame_equal(read_constant(tmp_path / "constant.csv"), table, check_dtype=False)


def test_runs_that_are_not_evaluated_are_passed_over(tmp_path):
    (tmp_path / "rollouts").mkdir()
    rollouts = FinishedRun(tmp_path / "rollouts", {"resolved": {"checkpoint": "student.rollouts", "seed": 0}})
    run = evaluated(tmp_path / "run", {"": ["4", "4"]})
    assert collected_constant([rollouts, run])["share"].tolist() == [1.0]
    assert list(collected_constant([rollouts])) == COLUMNS
