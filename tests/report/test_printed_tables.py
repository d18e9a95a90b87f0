"""Notebook 80's tables: what is committed follows from the cells, and the model's quantities are those of our results."""

import pandas as pd
import pytest

from s2d_lib.claims import load_claims, load_published, printed_verdict
from s2d_lib.claims.printed import CORRELATION, RHO_RANGE, RUN_SPREAD
from s2d_lib.report.printed_tables import (
    DECIDED,
    below_floor,
    cells_table,
    differences_table,
    measured_table,
    printed_figure,
    readable_cells,
    readable_settling,
    standing,
    trained_routes,
    write_printed,
)
from s2d_lib.study import load_study


@pytest.fixture(scope="module")
def tables():
    published = load_published()
    return cells_table(published), differences_table(published, load_study(), load_claims())


def test_committed_tables_follow_from_the_printed_cells(root, tables, tmp_path):
    write_printed(*tables, tmp_path)
    for name in ("cells", "differences"):
        committed = pd.read_csv(root / "figures" / "published" / f"{name}.csv")
        pd.testing.assert_frame_equal(committed, pd.read_csv(tmp_path / f"{name}.csv"), check_dtype=False)
        assert r"\begin{tabular}" in (tmp_path / f"{name}.tex").read_text(encoding="utf-8")


def test_the_models_quantities_lie_where_our_results_have_them(root):
    folders = [root / "figures" / name / "results" for name in ("smollm2", "micro-full")]
    measured = measured_table(folders, trained_routes(load_study()))
    assert measured["rho"].between(*RHO_RANGE).all()
    assert measured["correlation"].min() < CORRELATION < measured["correlation"].max()
    assert measured["spread"].min() < RUN_SPREAD < measured["spread"].max()


def test_cells_are_counted_against_the_floor_and_shown_with_it(tables):
    cells, _ = tables
    assert below_floor(cells)["printed below the floor"].tolist() == [0, 34, 34]
    assert (cells["floor"] < cells["honest low"]).all()
    bridge = readable_cells(cells, "A").set_index(["models", "route"]).loc["Qwen3", "bridge, RL teacher"]
    assert bridge["AIME 2024"].startswith("25.2 ± 1.6 (floor 2.0, honest 6.3 [")
    assert (
        readable_cells(cells, "B").set_index("route").loc["SRPO without dynamic weighting, 5 h", "Physics"]
        == "not printed"
    )


def test_a_difference_stands_where_the_printed_verdict_says_so(tables):
    _, differences = tables
    published = load_published()
    own = differences[differences["where"].str.fullmatch(r"A\d+")]
    for row in own.to_dict("records"):
        for kind in ("unpaired", "paired"):
            stands = abs(row["difference"] + row["margin"]) > DECIDED * row[kind]
            what = [row[c] for c in ("models", "better", "than", "set", "margin")]
            assert stands == (printed_verdict(published, *what, paired=kind == "paired") != "undecided"), row


def test_standing_and_settling_for_readers(tables):
    _, differences = tables
    shown = standing(differences).set_index("where")
    assert shown.loc["table 3"].tolist()[:2] == ["39", "13"]
    assert shown.loc["paper B, table 1", "stand by printed errors"] == "none printed"
    needs = readable_settling(differences).set_index(["claim", "models", "set"]).loc["A4", "Qwen3", "AIME 2024"]
    assert (needs["printed differences"], needs["samples"]) == ("+0.8", "no number")


def test_the_figure_has_a_row_a_claim(tables):
    figure = printed_figure(*tables, load_published().problems["A"])
    claims = [text.get_text() for text in figure.axes[-1].get_yticklabels()]
    assert claims == list(dict.fromkeys(w for w in tables[1]["where"] if w[1:].isdigit()))
