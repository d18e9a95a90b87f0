"""The plan of a profile: every run of its graph, its arguments, and numbers that follow from each other."""

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.plan import AROUND, needs, plan
from s2d_lib.plan.cost import Work, assumed_lengths
from s2d_lib.study import load_profile, needed, resolve

PAPERS = ["qwen3", "qwen3-single-gpu", "llama3", "qwen3-chemistry", "qwen3-4b-chemistry", "qwen3-tool-use"]


@pytest.mark.parametrize("name", [*PAPERS, "map", "smollm2"])
def test_tables_and_maps_are_planned_whole_and_the_papers_own_models_fit(name):
    found = plan(name)
    plain = list(needed(name))
    assert list(found.runs["checkpoint"])[: len(plain)] == plain
    assert (len(found.runs) > len(plain)) == (load_profile(name).map is not None)
    assert (found.runs[["flops", "hours", "state", "total", "machine"]] > 0).all(axis=None)
    assert (found.runs["hours"] <= found.runs["hours at most"] * (1 + 1e-9)).all()
    assert found.disk >= found.published > 0
    if name in PAPERS:  # by their own plan they fit, and GPUs are reserved for longer than they compute
        assert found.runs["fit"].all(), found.runs[~found.runs["fit"]]["checkpoint"].tolist()
        assert found.runs["gpus"].between(1, 8).all()
        assert (found.runs["hours reserved"] > found.runs["hours"]).all()


def test_reserved_hours_by_hand(monkeypatch):
    hour = 3.35e12 * 3600  # bytes that a GPU reads in one
    parts = {"training": Work(0.0, gpus=8), "sampling": Work(0.0, 8 * hour, 8)}
    parts |= {"evaluation": Work(0.0, 3 * hour), "validation": Work(0.0, hour)}
    monkeypatch.setattr("s2d_lib.plan.work_of", lambda *arguments: parts)
    run = resolve("qwen3", "large_teacher.rl", 0)
    found = needs(run, None, assumed_lengths(load_profile("qwen3")), "h100-80gb", 1.0)
    assert found["hours"] == pytest.approx(12)
    assert found["hours reserved"] == pytest.approx(8 * (1 + 3 + 1 + AROUND))
    assert found["hours limit"] == pytest.approx(1.5 * (1 + 3 + 1) + AROUND)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("qwen", "h100-80gb", 0.4), "unknown profile 'qwen'; did you mean 'qwen3'?"),
        (("qwen3", "h100", 0.4), "unknown GPU 'h100'; did you mean 'h100-80gb'?"),
        (("qwen3", "h100-80gb", "0.4"), "over 0 and at most 1, given '0.4'"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(StudyError) as error:
        plan(*arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
