"""Notebook 80's tables: what is committed follows from the cells, and the model's quantities are those of our results."""

import pandas as pd
import pytest

from s2d_lib.claims import load_claims, load_published
from s2d_lib.claims.printed import CORRELATION, RHO, RHO_RANGE, RUN_SPREAD
from s2d_lib.report.published import DECIDED, cells_sheet, differences_sheet, measured_table, printed_figure
from s2d_lib.study import load_study


@pytest.fixture(scope="module")
def cells():
    return cells_sheet(load_published())


@pytest.fixture(scope="module")
def differences():
    return differences_sheet(load_published(), load_study(), load_claims())


def test_committed_tables_follow_from_the_printed_cells(root, cells, differences, tmp_path):
    for sheet in (cells, differences):
        sheet.write(tmp_path)
        committed = pd.read_csv(root / "figures" / "published" / f"{sheet.name}.csv")
        pd.testing.assert_frame_equal(committed, pd.read_csv(tmp_path / f"{sheet.name}.csv"), check_dtype=False)


def test_the_models_quantities_lie_where_our_results_have_them(root):
    folders = [root / "figures" / name / "results" for name in ("smollm2", "micro-full")]
    measured = measured_table(folders, [name for name in load_study().checkpoints if name.startswith("student.")])
    assert measured["rho"].between(*RHO_RANGE).all()
    assert measured["rho"].min() > RHO
    assert measured["correlation"].min() > CORRELATION
    assert measured["spread"].min() < RUN_SPREAD < measured["spread"].max()


def test_cells_stand_beside_their_floor(cells):
    numbers = cells.numbers
    below = numbers["printed"] < numbers["floor"]
    assert numbers.assign(below=below)[numbers["paper"] == "A"].groupby("set")["below"].sum().to_dict() == {
        "MATH": 0, "AIME 2024": 34, "AIME 2025": 34,
    }  # fmt: skip
    assert (numbers["floor"] < numbers["honest low"]).all()
    first, second = (cells.show(place).set_index("models: route") for place in (0, 1))
    assert first.loc["Qwen3: bridge, RL teacher", "AIME 2024"].startswith("25.2 ± 1.6 (floor 2.0, honest 6.3 [")
    assert second.loc["Qwen3-8B: SRPO without dynamic weighting, 5 h", "Physics"] == "not printed"
    assert second.loc["Qwen3-4B: SRPO, 10 h", "average"].startswith("74.2 (floor")


def test_a_difference_stands_where_the_printed_verdict_says_so(differences):
    published, numbers = load_published(), differences.numbers
    for row in numbers[numbers["where"].str.fullmatch(r"A\d+")].to_dict("records"):
        for kind in ("unpaired", "paired"):
            stands = abs(row["difference"] + row["margin"]) > DECIDED * row[kind]
            printed = published.difference(*(row[c] for c in ("models", "better", "than", "set")))
            assert stands == (printed.verdict(row["margin"], kind == "paired") != "undecided"), row


def test_standing_and_settling_for_readers(differences):
    shown = differences.show(0).set_index("where")
    assert shown.loc["table 3"].tolist()[:2] == ["39", "13"]
    assert shown.loc["paper B, table 1", "stand by printed errors"] == "none printed"
    needs = differences.show(1).set_index(["claim", "models", "set"]).loc["A4", "Qwen3", "AIME 2024"]
    assert (needs["printed differences"], needs["samples"]) == ("+0.8", "no number")
    figure = printed_figure(differences.numbers, "t")
    claims = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert claims == list(dict.fromkeys(w for w in differences.numbers["where"] if w[1:].isdigit()))
