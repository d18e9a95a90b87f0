"""What a route costs, how numbers and pairs are said, and the one writer of all tables."""

import re
import string

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from s2d_lib.errors import StudyError
from s2d_lib.report.style import ASKED, save_figure
from s2d_lib.report.tables import Sheet, contrast_label, interval, latex, link, markdown
from s2d_lib.results.bundle import Bundle, route_cost

NAN = float("nan")


def test_a_route_costs_what_its_whole_ancestry_cost():
    """teacher -> teacher.rl -> bridge, which starts from base."""
    rl = {"optimizer_steps": 10, "sampled": {"sequences": 9, "tokens": 100}, "trained_tokens": 90}
    used = {"label_use": {"problems": {"q": 8, "r": 8}, "gradings": 16}}
    again = {"label_use": {"problems": {"q": 1}, "gradings": 1}}  # of a problem that counts once
    runs = {
        "base": ({}, {}),
        "teacher": ({}, {}),
        "teacher.rl": ({"from": "teacher"}, rl | used),
        "bridge": ({"from": "base", "teacher": "teacher.rl"}, {"optimizer_steps": 5, "trained_tokens": 7} | again),
    }
    records = {(name, 0): {"resolved": {"parents": parents}} | facts for name, (parents, facts) in runs.items()}
    costs = {"own_steps": 5, "all_steps": 15, "labels": 2, "gradings": 17, "sampled_sequences": 9}
    costs |= {"sampled_tokens": 100, "trained_tokens": 97}
    assert route_cost(Bundle(pd.DataFrame(), pd.DataFrame(), records), "bridge", 0) == costs


def test_there_is_one_format_of_an_interval():
    assert interval(0.753, 0.7, 0.8) == "75.3 [70.0, 80.0]"
    assert interval(0.01, -0.02, 0.03, signed=True) == "+1.0 [-2.0, +3.0]"
    assert interval(0.51, 0.485, 0.535, scale=1, digits=3) == "0.510 [0.485, 0.535]"
    assert (interval(0.5, NAN, NAN), interval(NAN, NAN, NAN)) == ("50.0", "")


def test_a_pair_is_called_by_what_differs():
    bridge, half = "student.bridge.rl_teacher", "student.bridge.rl_teacher_1H"
    labels = {
        (bridge, "student.opd_only.rl_teacher"): "bridge > OPD only · RL teacher",
        (bridge, "student.grpo"): "bridge, RL teacher > direct GRPO",
        (f"{half}.grpo_2H", half): "GRPO on 2H > bridge alone · bridge, RL teacher (1H)",
        (f"{bridge}.grpo", "teacher.rl"): "bridge, RL teacher, GRPO on all labels > RL teacher",
    }
    assert {pair: contrast_label(*pair) for pair in labels} == labels


def test_the_forms_of_a_table(tmp_path, monkeypatch):
    numbers = pd.DataFrame({"easy": [0.5, 0.75]})
    shown = pd.DataFrame({"route": [link("a|b", "a.b"), link("c", "c", "../p/")], "%": ["50.0 [4.0, 96.0]", "75.0"]})
    sheet = Sheet("t", numbers, {"Title & more": shown, "Again?": pd.concat([shown] * 21)}, "50% of it.")
    sheet.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"t.csv", "t.md"}
    assert pd.read_csv(tmp_path / "t.csv")["easy"].tolist() == [0.5, 0.75]
    text = (tmp_path / "t.md").read_text()
    assert text.startswith("**Title & more**\n\n| route")
    assert r"| [a\|b](runs/a.b.md) " in text
    assert "[c](../p/runs/c.md)" in text
    assert text.endswith("50% of it.\n")
    assert sheet.show().to_numpy().tolist() == [["a|b", "50.0 [4.0, 96.0]"], ["c", "75.0"]]
    monkeypatch.setenv(ASKED, "png,gif")
    with pytest.raises(StudyError, match="nothing is written as 'gif': ask for some of png, svg, pdf and tex"):
        save_figure(Figure(), tmp_path, "figure")
    monkeypatch.setenv(ASKED, "svg,tex")
    sheet.write(tmp_path)
    tex = (tmp_path / "t.tex").read_text()
    assert r"\paragraph{Title \& more}" in tex
    assert r"50\% of it." in tex
    assert "runs/" not in tex
    assert (tex.count(r"\begin{tabular}"), tex.count(r"\begin{longtable}")) == (1, 1)  # the second is more than a page


@given(st.text(string.printable))
def test_latex_shows_every_text_as_it_is(text):
    said = {f"\\{one}": one for one in "%_&#${}"} | {f"${one}$": one for one in "<>|"}
    said |= {r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~"}
    read = re.compile("|".join([*map(re.escape, said), r"[^%_&#${}\\^~<>|]"]))
    words = [match[0] for match in read.finditer(latex(text))]
    assert "".join(words) == latex(text)
    assert "".join(said.get(word, word) for word in words) == text


def test_markdown_keeps_text_as_it_is():
    table = pd.DataFrame({"route | x": ["a|b", "1e5"], "tokens": ["2,148,222", "0010"]})
    assert markdown(table).splitlines() == [
        r"| route \| x   |    tokens |",
        r"|:-------------|----------:|",
        r"| a\|b         | 2,148,222 |",
        r"| 1e5          |      0010 |",
    ]
