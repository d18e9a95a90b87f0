"""Teacher SFT on the released micro teacher: an outside model's answers, sampled or from a file, or its own that are right."""

import json

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import open_run
from s2d_lib.sampling import read_rollouts
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.sft import answers_to_learn
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge

pytestmark = pytest.mark.slow


def test_it_learns_from_the_right_ones_of_its_own_rollouts_and_accounts_for_every_label(make, tiny):
    few = deep_merge(tiny, {"stages": {"teacher_sft": {"batch": 4, "micro_batch": 4}}})  # as few of them are right
    run = make("teacher.sft_own", overrides=few)
    record, resolved = run.record, run.record["resolved"]
    assert (resolved["role"], resolved["parents"]["rollouts"]) == ("teacher", "teacher.rollouts.full")
    opened = open_run("micro-full", "teacher.sft_own", 0, few)
    inputs = prepare(opened)
    rollouts, how = read_rollouts(opened.parent("rollouts").path("rollouts.parquet"))
    assert how["teacher"] == "teacher"

    answers = {p.id: p.answer for p in inputs.problems.pool}
    right = [r for r in rollouts if grade(r.text, answers[r.problem], mode="exact").correct]
    assert answers_to_learn(opened, inputs) == right
    assert 4 <= len(right) < len(rollouts) == 32

    gradings = pd.read_json(run.path("gradings.jsonl"), lines=True)
    assert list(gradings.columns) == ["step", "problem", "tokens", "correct"]  # as sparse RL's
    assert gradings["problem"].tolist() == [r.problem for r in rollouts]
    assert gradings["tokens"].tolist() == [len(r.ids) for r in rollouts]
    assert gradings["correct"].sum() == len(right)
    assert record["label_use"] == {"problems": dict.fromkeys(sorted(answers), 2), "gradings": 32}
    assert record["optimizer_steps"] == 4
    assert record["sampled"] == {"sequences": 0, "tokens": 0}  # the rollouts' own run has sampled them
    passes, rest = divmod(4 * 4, len(right))
    lengths = sorted(len(r.ids) for r in right)
    least = passes * sum(lengths)
    assert least + sum(lengths[:rest]) <= record["trained_tokens"] <= least + sum(lengths[len(lengths) - rest :])
    bridge = resolve("micro-full", "student.warm.raw_teacher", 0, few).parents["rollouts"]
    assert bridge == resolved["parents"]["rollouts"]  # the same samples


def test_an_outside_models_answers_need_no_label(make):
    run = make("teacher.sft")
    parents = {"from": "teacher", "teacher": "outside", "rollouts": "outside.rollouts.full"}
    assert run.record["resolved"]["parents"] == parents
    assert "label_use" not in run.record
    assert not run.path("gradings.jsonl").exists()
    assert run.record["trained_tokens"] > 0


@pytest.fixture
def traces(tmp_path, monkeypatch, tiny):
    """Writes a file of traces from rows and gives the overrides that name it, and the pool it is about."""
    monkeypatch.setenv("S2D_DATA", str(tmp_path))
    overrides = deep_merge(tiny, {"roles": {"outside": {"model": None, "traces": "traces.jsonl"}}})

    def write(rows):
        (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return overrides

    return write, load_problems(resolve("micro-full", "teacher.sft", 0, tiny).problems, "full").pool


def test_a_file_of_answers_takes_the_place_of_the_outside_models_runs(make, traces, runs):
    write, pool = traces
    one = {"prompt": f" {pool[0].prompt}  ", "answers": ["# v1", f"# {pool[0].answer}"]}
    rows = [{"problem": p.id, "answers": [f"# {p.answer}"]} for p in pool[1:12]]
    overrides = write([one, *rows, {"prompt": "v1 f1 ?", "answers": ["# v1"]}])
    record = make("teacher.sft", overrides=overrides).record
    assert record["resolved"]["parents"] == {"from": "teacher"}
    assert "the traces 'traces.jsonl'" in record["read"]
    assert "label_use" not in record
    inputs = prepare(open_run("micro-full", "teacher.sft", 0, overrides))
    assert len(inputs.rollouts) == 13  # not the one about a stranger
    assert [r.text for r in inputs.rollouts[:2]] == one["answers"]
    assert all(inputs.policy.decode([list(r.ids)]) == [r.text] and r.finished for r in inputs.rollouts)
    assert not [*runs.rglob("outside*")]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answers": []}, "hold no answer to any problem of the label pool"),
        ({"problem": "full/none"}, "none of the traces in traces.jsonl is about a problem of the label pool"),
        ({"answers": ["# v1", 7]}, "row 1 of the traces in traces.jsonl must hold `answers`, a list of texts"),
        (None, r"lacks the column\(s\) answers"),
    ],
)
def test_broken_traces_are_refused_before_training(make, traces, change, sentence):
    write, pool = traces
    row = {"problem": pool[0].id, "answers": ["# v1"]}
    overrides = write([{"problem": pool[0].id}] if change is None else [row | change])
    with pytest.raises(StudyError, match=sentence) as error:
        make("teacher.sft", overrides=overrides)
    assert "\n" not in str(error.value)
