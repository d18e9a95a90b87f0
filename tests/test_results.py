"""The compact results: what they keep of run folders, as what it is read again, and what it sums up to."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import (
    CONSTANT,
    KEPT,
    collect,
    constant_answers,
    read_bundle,
    read_evaluation,
    summarise,
    write_samples,
)
from s2d_lib.results.map import collect_map, read_map
from s2d_lib.runs import FinishedRun
from s2d_lib.study import Point, resolve

PROBLEMS = ["NA", "null", "007", *"tuvwxyz"]  # text that must stay what it is
SAID = ["NA", "a\rb", "", "007", *"uvwxyz"]


@pytest.fixture
def made(tmp_path):
    """Makes the folder of a run that was evaluated on problems of a set called NA; not one that only sampled."""

    def run(checkpoint: str, seed: int, answers=(), decodings=("main",), **files) -> FinishedRun:
        (folder := tmp_path / f"{checkpoint}-{seed}").mkdir()
        levels = ["", "1"] * 5
        table = pd.DataFrame({"set": "NA", "problem": PROBLEMS, "level": levels, "correct": "0110", "tokens": 1.5})
        if answers:
            several = [table.assign(decoding=name) for name in decodings]
            (pd.concat(several) if len(several) > 1 else table).to_csv(folder / "evaluation.csv", index=False)
            samples = {"prompt": "?", "answer": answers, "completion": SAID, "correct": False}
            write_samples(table.assign(**samples).iloc[::-1], folder / "samples.csv")  # their order must not matter
        for name, content in files.items():
            pd.DataFrame(content).to_csv(folder / f"{name}.csv", index=False)
        resolved = resolve("micro", "student", seed).model_dump(mode="json")
        resolved["evaluation"]["also"] = {"greedy": {"temperature": 0, "samples": 1}}
        record = {"resolved": resolved | {"checkpoint": checkpoint}, "files": {}, "hash": "0123456789", "seconds": 2.0}
        return FinishedRun(folder, record)

    return run


def test_a_bundle_holds_what_the_runs_say(made, tmp_path):
    answers, curve = [*"12"] * 5, {"step": [1, 2], "loss": [0.5, 0.25], "of no use": 1}
    validation = {"step": [0], "accuracy": 0.5, "correct": ["0110/1111"]}
    runs = [made("b", 1, answers, metrics=curve, validation=validation)]
    runs += [made("student", 1, answers, ("main", "greedy")), made("b", 0, answers), made("student.rollouts", 0)]
    collect(runs, results := tmp_path / "results")
    once = {path.name: path.read_bytes() for path in results.iterdir()}
    found = read_bundle(results)
    assert (found.sets, len(found.evaluation), set(found.evaluation["correct"])) == (["NA"], 30, {"0110"})
    assert found.decoded.groupby("decoding").size()["greedy"] == 10
    assert found.at("greedy").accuracy("student", "NA").loc[1].to_dict() == dict.fromkeys(PROBLEMS, 0.5)
    assert list(found.curves) == ["seed", "checkpoint", "step", "loss"]
    assert found.validation["correct"].tolist() == ["0110/1111"]
    assert set(found.records) == {("student", 1), ("b", 0), ("b", 1), ("student.rollouts", 0)}
    assert set(found.samples.loc[found.samples["checkpoint"] == "b", "seed"]) == {0}  # the first one's
    assert found.samples["completion"].tolist() == SAID[::-1][:KEPT] * 2
    assert not found.samples["correct"].any()
    collect(runs, results)
    assert once == {path.name: path.read_bytes() for path in results.iterdir()}
    with pytest.raises(StudyError, match="no results of 'c' on 'NA'"):
        found.accuracy("c", "NA")
    with pytest.raises(StudyError, match=r"no results of decoding 'cold'; it has main, greedy"):
        read_evaluation(runs[1].path("evaluation.csv"), "cold")
    (results / "records.json.xz").unlink()
    with pytest.raises(StudyError, match="no readable results in"):
        read_bundle(results)


def test_a_map_counts_right_samples_and_knows_the_best_trial(made, tmp_path):
    answers, ends = [*"12"] * 5, {"0.1": 0.4, "0.2": 0.6}
    tried = [made(f"b{rate}", 0, answers, validation={"step": [0, 9], "accuracy": [0, e]}) for rate, e in ends.items()]
    points = [(Point("A", {"x": "1"}, {"rate": rate}, "b", {}), 0, run) for rate, run in zip(ends, tried, strict=True)]
    collect_map(points, [*tried, made("teacher.rollouts", 0)]).write(tmp_path / "map")
    found = read_map(tmp_path / "map")
    assert found.joined(found).cells.equals(found.cells)
    other = collect_map([(Point("A", {"x": "1"}, {}, "c", {}), 0, tried[0])], tried[:1])
    assert found.joined(other).best_trial("A", "x=1", "c") == ("", [("b0.1@01234567", 0)])
    assert len(found.joined(other).runs) == len(found.runs) == 3
    trial, runs = found.best_trial("A", "x=1", "b")
    assert (trial, runs) == ("rate=0.2", [("b0.2@01234567", 0)])
    np.testing.assert_array_equal(found.accuracy(runs, "NA"), np.full((1, 10), 0.5))
    with pytest.raises(StudyError, match="at decoding 'greedy'"):
        found.accuracy(runs, "NA", "greedy")
    with pytest.raises(StudyError, match="no 'c' in the cell 'x=1' of part 'A'"):
        found.best_trial("A", "x=1", "c")
    with pytest.raises(StudyError, match="no readable map in"):
        read_map(tmp_path)


def test_the_most_frequent_answer_of_each_level_and_its_share(made):
    note = json.dumps({"answer": "NA", "task": "lcm"})  # of reasoning-gym: only the answer itself is one
    run = made("student", 0, [note, "007", "NA", "12", "007", "007", "007", "12", "6", "2"], ("main", "greedy"))
    expected = [("NA", "", 5, "007", 0.4), ("NA", "1", 5, "007", 0.4)]  # of as frequent ones the first in order
    assert constant_answers([made("rollouts", 0), run]).to_records(index=False).tolist() == expected
    assert list(constant_answers([])) == CONSTANT


def test_summary_of_a_known_case():
    rows = [("a", "p", "1100", 3.0, 0.0), ("a", "q", "0000", 5.0, 0.5), ("b", "r", "1111", 2.0, 0.0)]
    table = pd.DataFrame(rows, columns=["set", "problem", "correct", "tokens", "cut_off"])
    a, b = summarise(table).to_dict("records")
    assert (a["avg"], a["pass"], a["tokens"], a["cut_off"], a["samples"]) == (0.25, 0.5, 4.0, 0.25, 4)
    assert a["se"] == pytest.approx(math.sqrt(((0.25**2) * 2) / 1) / math.sqrt(2))
    assert b["avg"] == 1.0
    assert math.isnan(b["se"])
    assert "formed" not in a  # results from before it was measured
    assert [row["formed"] for row in summarise(table.assign(formed=[1, 0.5, 0])).to_dict("records")] == [0.75, 0]
