"""Tables and costs from a small hand-made bundle with known answers."""

import re
import string

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.report.run_pages import markdown
from s2d_lib.report.tables import _tex, linked, readable, table_of, write_forms
from s2d_lib.results.bundle import Bundle, ancestry, route_cost
from s2d_lib.study.page import Table


def record(parents=None, **facts):
    """A record as far as tables read it."""
    resolved = {"parents": parents or {}, "stage": "x", "evaluation": {"samples": 2}, "sampling": {}, "params": {}}
    return {"resolved": resolved, **facts}


@pytest.fixture
def bundle() -> Bundle:
    """base -> grpo; teacher -> teacher.rl -> bridge, which starts from base. Two seeds, two problems, two samples."""
    rl = {"optimizer_steps": 10, "sampled": {"sequences": 9, "tokens": 100}, "trained_tokens": 90}
    records = {}
    for seed in (0, 1):
        records |= {
            ("base", seed): record(),
            ("teacher", seed): record(),
            ("grpo", seed): record({"from": "base"}, label_use={"problems": {"p": 4, "q": 4}, "gradings": 8}, **rl),
            ("teacher.rl", seed): record(
                {"from": "teacher"}, label_use={"problems": {"q": 8, "r": 8}, "gradings": 16}, **rl
            ),
            ("bridge", seed): record({"from": "base", "teacher": "teacher.rl"}, optimizer_steps=5, trained_tokens=7),
        }
    bits = {"base": ["00", "10"], "grpo": ["10", "10"], "bridge": ["11", "10"]}
    rows = [
        {
            "seed": seed,
            "checkpoint": name,
            "set": "easy",
            "problem": p,
            "level": "",
            "correct": b,
            "tokens": 3.0,
            "cut_off": 0.0,
        }
        for seed in (0, 1)
        for name, grades in bits.items()
        for p, b in zip("pq", grades, strict=True)
    ]
    return Bundle(pd.DataFrame(rows), pd.DataFrame(), records)


def test_a_route_costs_what_its_whole_ancestry_cost(bundle):
    assert set(ancestry(bundle, "bridge", 0)) == {"bridge", "base", "teacher.rl", "teacher"}
    assert route_cost(bundle, "bridge", 0) == {
        "own_steps": 5, "all_steps": 15, "labels": 2, "gradings": 16, "sampled_sequences": 9, "sampled_tokens": 100,
        "trained_tokens": 97,
    }  # fmt: skip
    assert route_cost(bundle, "base", 0)["labels"] == 0


def test_accuracies_and_paired_differences(bundle):
    table = table_of(bundle, Table(title="t", rows=["base", "grpo", "bridge"], reference="grpo"))
    assert table["easy"].tolist() == [0.25, 0.5, 0.75]
    assert table["easy difference"].tolist() == pytest.approx([-0.25, float("nan"), 0.25], nan_ok=True)
    assert (table["easy low"] <= table["easy"]).all()
    assert (table["easy"] <= table["easy high"]).all()
    assert table["labeled problems"].tolist() == [0, 2, 2]


def test_a_missing_run_is_named(bundle):
    with pytest.raises(StudyError, match="no run of 'sft'"):
        table_of(bundle, Table(title="t", rows=["sft"]))


def test_a_seed_missing_on_one_side_is_refused(bundle):
    rows = bundle.evaluation
    partial = Bundle(rows[~((rows["checkpoint"] == "grpo") & (rows["seed"] == 1))], bundle.curves, bundle.records)
    with pytest.raises(StudyError, match="'grpo' was not evaluated on the same problems of 'easy' with every seed"):
        table_of(partial, Table(title="t", rows=["bridge", "grpo"], reference="grpo"))


def test_runs_with_fewer_seeds_than_the_reference_are_refused_and_both_are_named(bundle):
    del bundle.records["grpo", 1]
    with pytest.raises(StudyError, match=r"'bridge' was run with seeds \[0, 1\] and 'grpo' with \[0\]"):
        table_of(bundle, Table(title="t", rows=["bridge", "grpo"], reference="bridge"))


def test_seeds_of_different_settings_under_one_name_are_refused_and_both_are_named(bundle):
    bundle.records["teacher.rl", 1]["resolved"]["params"] = {"steps": 7}
    bundle.records["teacher.rl", 0]["resolved"]["params"] = {"steps": 8}
    with pytest.raises(StudyError, match=r"'teacher.rl' have different parameters.*8 with seed 0 and 7 with seed 1"):
        table_of(bundle, Table(title="t", rows=["bridge"]))


def test_an_ancestor_that_is_not_the_one_it_was_made_from_is_refused(bundle):
    bundle.records["bridge", 0]["resolved"]["parent_hashes"] = {"teacher.rl": "old"}
    bundle.records["teacher.rl", 0]["hash"] = "new"
    with pytest.raises(StudyError, match=r"'bridge', seed 0, was made from a run 'teacher.rl' with hash old.*with new"):
        table_of(bundle, Table(title="t", rows=["bridge"]))


def test_rows_that_were_sampled_differently_are_refused(bundle):
    for seed in (0, 1):
        bundle.records["grpo", seed]["resolved"]["evaluation"] = {"samples": 4}
    with pytest.raises(StudyError, match="'bridge' and 'grpo' were evaluated with different sampling"):
        table_of(bundle, Table(title="t", rows=["bridge", "grpo"]))


def test_the_three_forms_of_a_table(bundle, tmp_path):
    numbers = table_of(bundle, Table(title="t", rows=["grpo", "bridge"], reference="grpo"))
    shown = readable(numbers, ["easy"])
    title = "Title & more"
    write_forms(numbers, {title: shown}, tmp_path, "t", "50% of it", {title: linked(shown, numbers)})
    assert pd.read_csv(tmp_path / "t.csv")["easy"].tolist() == [0.5, 0.75]
    assert "75.0 [" in (tmp_path / "t.md").read_text()
    assert "| [bridge](runs/bridge.md)" in (tmp_path / "t.md").read_text()
    assert "runs/" not in (tmp_path / "t.tex").read_text()
    assert "reference" in (tmp_path / "t.md").read_text()
    tex = (tmp_path / "t.tex").read_text()
    assert r"Title \& more" in tex
    assert r"50\% of it" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 1


def test_readers_see_percent_with_the_interval(bundle):
    numbers = table_of(bundle, Table(title="t", rows=["bridge"]))
    (cell,) = readable(numbers, ["easy"])["easy, %"]
    assert cell.startswith("75.0 [")


@given(st.text(string.printable))
def test_latex_shows_every_text_as_it_is(text):
    said = {f"\\{character}": character for character in "%_&#${}"}
    said |= {r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~"}
    said |= {r"$\rightarrow$": "->", "$<$": "<", "$>$": ">", "$|$": "|"}
    read = re.compile("|".join([*map(re.escape, said), r"[^%_&#${}\\^~<>|]"]))
    words = [match[0] for match in read.finditer(_tex(text))]
    assert "".join(words) == _tex(text)
    assert "".join(said.get(word, word) for word in words) == text


def test_markdown_keeps_text_as_it_is():
    table = pd.DataFrame({"route | x": ["a|b", "1e5"], "tokens": ["2,148,222", "0010"]})
    assert markdown(table).splitlines() == [
        r"| route \| x   |    tokens |",
        r"|:-------------|----------:|",
        r"| a\|b         | 2,148,222 |",
        r"| 1e5          |      0010 |",
    ]
