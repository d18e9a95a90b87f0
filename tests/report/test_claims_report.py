"""Claims as tables and picture, and what a route's models consumed of the labels."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from s2d_lib.claims import Published, evaluate, load_claims
from s2d_lib.errors import StudyError
from s2d_lib.report.claims import (
    claims_table,
    comparisons_table,
    judged_at,
    links_table,
    predictions_table,
    readable_claims,
    readable_comparisons,
    readable_links,
    results_of,
    verdict_words,
    write_claims,
)
from s2d_lib.report.claims_figure import claims_figure
from s2d_lib.report.premises import asked_table
from s2d_lib.report.style import route_label, save_figure
from s2d_lib.results.bundle import label_ledger, route_cost
from tests.claims.conftest import bundle, claims, results, study  # noqa: F401
from tests.claims.synthetic import record
from tests.report.synthetic import write_bundle

ROWS = {"bridge": {"MATH": [79.3, 0.7]}, "student.grpo": {"MATH": [75.9, 0.9]}}
PUBLISHED = Published.model_validate(
    {
        "samples": 16,
        "problems": {"A": {"MATH": 500}, "B": {}},
        "paper_a": [{"family": "Qwen3", "source": "table 1", "rows": ROWS}],
        "paper_b": [],
    }
)


@pytest.fixture
def outcomes(claims, study, results):  # noqa: F811
    return evaluate(claims, study, results)


@pytest.fixture
def tables(claims, outcomes):  # noqa: F811
    comparisons = comparisons_table(outcomes, PUBLISHED)
    return claims_table(outcomes, claims.claims, comparisons), comparisons


@pytest.fixture
def write(claims, outcomes):  # noqa: F811
    """Writes a claims' and a comparisons' table with all that stands between them."""

    def written(summary, comparisons, folder, note=""):
        links = links_table(outcomes, comparisons_table(outcomes, PUBLISHED))
        write_claims(summary, links, asked_table(outcomes, claims), comparisons, folder, note)

    return written


def test_numbers_of_every_comparison(tables):
    _, comparisons = tables
    first = comparisons.iloc[0]
    assert (first["seeds"], first["problems"], first["labels better"], first["labels than"]) == (3, 80, 16, 16)
    assert first["low"] < first["difference"] < first["high"]
    assert first["published"] == pytest.approx(3.4)
    assert first["published low"] < 0 < first["published high"]  # one error is about two points
    assert comparisons["published verdict"].tolist()[:2] == ["undecided", "not printed"]
    assert comparisons["verdict"].tolist() == ["holds", "holds", "contradicted", "holds", "holds", "not run", "not run"]


def test_one_row_a_claim_with_what_is_missing(tables):
    claims, _ = tables  # noqa: F811
    assert claims["verdict"].tolist() == ["holds", "contradicted", "holds", "not run", "not run"]
    assert claims["comparisons"].tolist() == [2, 1, 2, 1, 1]
    assert claims.set_index("claim").loc["C5", "missing"] == "no run of bridge.large in the results of profile micro"


def test_every_verdict_has_its_chance(tables):
    claims, comparisons = tables  # noqa: F811
    made = comparisons["difference"].notna()
    assert comparisons.loc[made, "chance"].between(0, 100).all()
    assert comparisons.loc[~made, "chance"].isna().all()
    assert claims["chance"].iloc[0] == comparisons["chance"].iloc[:2].min()
    printed = claims.set_index("claim")["published verdict"]
    assert printed[["C1", "C2"]].tolist() == ["undecided", "not printed"]  # of C1, what is printed
    shown = readable_claims(claims)
    assert shown["chance to hold"].str.match("at most|$").all()


def test_a_missing_set_is_said_wherever_its_claim_is_shown(tables, tmp_path, write):
    claims, comparisons = tables  # noqa: F811
    missing = "no set stands for AIME 2024 in profile micro"
    changed = comparisons.copy()
    changed.loc[1, ["set", "verdict", "missing"]] = "", "no set", missing
    changed.loc[1, ["difference", "low", "high", "detectable", "chance"]] = float("nan")
    summary = claims.assign(**{"no set": [1, 0, 0, 0, 0], "missing": [missing, *claims["missing"][1:]]})
    assert readable_claims(summary)["here"].tolist()[0] == "holds, as far as there are sets"
    assert readable_comparisons(changed).iloc[1][["set", "here", "remark"]].tolist() == ["AIME 2024", "no set", missing]
    write(summary, changed, tmp_path)
    assert (tmp_path / "claims.md").read_text().count(missing) == 2
    figure = claims_figure(summary, changed, "Claims")
    assert len(figure.axes) == 1
    assert figure.legends[0].get_title().get_text().startswith(f"* {missing}")
    assert "holds*" in [text.get_text() for text in figure.axes[0].texts]


def test_every_link_of_a_chain_has_its_verdict_and_its_chance(tables, outcomes, write, tmp_path):
    links = links_table(outcomes, tables[1])
    chain = links[links["claim"] == "C3"]
    assert chain[["better", "than", "verdict"]].to_numpy().tolist() == [
        ["bridge", "student.grpo", "holds"],
        ["student.grpo", "bridge.raw", "holds"],
    ]
    assert chain["chance"].tolist() == tables[1].loc[tables[1]["claim"] == "C3", "chance"].tolist()
    shown = readable_links(links)
    assert shown["chance to hold"].str.startswith("at most").tolist() == [True, *[False] * 5]  # C1 is on two sets
    write(*tables, tmp_path)
    numbers = pd.read_csv(tmp_path / "claims.csv")
    assert numbers["link verdict"].tolist() == [
        "holds",
        "holds",
        "contradicted",
        "holds",
        "holds",
        "not run",
        "not run",
    ]
    assert numbers["link chance"].tolist()[:2] == pytest.approx([numbers["chance"][:2].min()] * 2)


def test_an_absent_premise_stands_beside_what_the_numbers_say(claims, study, results, tmp_path):  # noqa: F811
    room = {"sentence": "Room.", "source": "ours", "of": ["student"], "conditions": [{"at_most": -1.0}]}
    content = claims.model_dump() | {"premises": {"room": room}}
    content["claims"]["C2"]["premises"] = ["room"]
    asking, bundle = type(claims).model_validate(content), results["Qwen3"].bundle  # noqa: F811
    untrained = bundle.evaluation[bundle.evaluation["checkpoint"] == "bridge"].assign(checkpoint="student")
    evaluation = pd.concat([bundle.evaluation, untrained])
    found = {"Qwen3": replace(results["Qwen3"], bundle=replace(bundle, evaluation=evaluation))}
    outcomes = evaluate(asking, study, found)
    comparisons = comparisons_table(outcomes, PUBLISHED)
    summary, asked = claims_table(outcomes, asking.claims, comparisons), asked_table(outcomes, asking)
    second = summary.iloc[1]
    assert (second["verdict"], second["by numbers"]) == ("premise absent", "contradicted")
    assert readable_claims(summary)["here"][1] == "premise absent (numbers alone: contradicted)"
    told = readable_comparisons(comparisons).iloc[2]
    assert told["here"] == "premise absent (numbers alone: contradicted)"
    assert told["remark"].endswith("premise room absent")
    assert asked[["premise", "it says", "bound", "state"]].to_numpy().tolist() == [
        ["room", "Room. (ours)", "at most -100%", "absent"]
    ]
    assert "decoding of base student: the only one" in asked["measured"][0]
    write_claims(summary, links_table(outcomes, comparisons), asked, comparisons, tmp_path, judged_at(found))
    text = (tmp_path / "claims.md").read_text()
    assert "What the claims presuppose" in text
    assert text.endswith("Claims are judged at the profile's main decoding: T 0.7, top-p 0.8, top-k 20 (micro).\n")
    markers = [line.get_marker() for line in claims_figure(summary, comparisons, "Claims").axes[0].get_lines()]
    assert markers.count("v") == 1


def test_what_is_expected_of_the_map_is_shown_whole():
    table = predictions_table(load_claims())
    assert len(table) == len(load_claims().map)
    assert (table != "").all(axis=None)
    assert "contradicted by" in table


@pytest.mark.parametrize(
    ("verdict", "ends", "words"),
    [
        ("undecided", (-4.2, 1.0), "undecided within 4.2 points"),
        ("undecided", (-0.5, 1.1), "level within 1.1 points"),
        ("holds", (0.1, 1.1), "holds"),
    ],
)
def test_only_a_narrow_interval_is_level(verdict, ends, words):
    assert verdict_words(verdict, *ends) == words


def test_the_three_forms(tables, tmp_path, write):
    write(*tables, tmp_path, "Made up.")
    numbers = pd.read_csv(tmp_path / "claims.csv")
    assert numbers["claim verdict"].tolist()[:3] == ["holds", "holds", "contradicted"]
    text = (tmp_path / "claims.md").read_text()
    assert "not printed" in text
    assert "nothing is corrected for the number of claims" in text
    assert "raw uses none" in text
    assert text.endswith("Made up.\n")
    tex = (tmp_path / "claims.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 3


def test_more_than_a_page_is_a_longtable(tables, tmp_path, write):
    claims, comparisons = tables  # noqa: F811
    write(claims, pd.concat([comparisons] * 6), tmp_path)
    assert (tmp_path / "claims.tex").read_text().count(r"\begin{longtable}") == 1


def test_readers_are_told_of_margins_and_of_a_single_seed(tables):
    changed = tables[1].head(1).assign(seeds=1.0, margin=1.5)
    (remark,) = readable_comparisons(changed)["remark"]
    assert remark == "one seed: nothing is known of another run; at least as good, within 1.5 points"


def test_the_dashboard_shows_every_comparison_with_its_verdicts_marker(tables, tmp_path):
    figure = claims_figure(*tables, "Claims")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "micro-math, standing for MATH",
        "micro-aime, standing for AIME 2024",
    ]
    assert len(figure.axes[0].get_yticks()) == len(tables[1].drop_duplicates(["claim", "better", "than"]))
    markers = [line.get_marker() for axes in figure.axes for line in axes.get_lines()]
    assert (markers.count("o"), markers.count("X"), markers.count("D")) == (4, 1, 2)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words.count("not run") == 4  # two comparisons and their two claims
    assert all(path.stat().st_size for path in save_figure(figure, tmp_path, "claims"))
    plt.close(figure)


def test_only_profiles_that_exist_have_results(claims, full, tmp_path, root):  # noqa: F811
    (tmp_path / "params").symlink_to(root / "params")
    assert results_of("micro", claims, tmp_path) == {}
    write_bundle(full.bundle, tmp_path / "figures" / "micro" / "results")
    assert set(results_of("micro", claims, tmp_path)) == {"Qwen3"}
    with pytest.raises(StudyError, match=r"'macro' is not in `families`.*did you mean 'micro'"):
        results_of("macro", claims, tmp_path)


def test_routes_lead_to_their_runs_and_to_those_of_another_profile(tables, tmp_path, write):
    claims, comparisons = tables  # noqa: F811
    other = comparisons.assign(profile=["micro", "elsewhere", *comparisons["profile"][2:]])
    write(claims, other, tmp_path / "micro")
    text = (tmp_path / "micro" / "claims.md").read_text()
    assert "| [bridge](runs/bridge.md) " in text
    assert "[bridge](../elsewhere/runs/bridge.md)" in text
    assert "runs/bridge.large.md" not in text  # not run
    assert "runs/" not in (tmp_path / "micro" / "claims.tex").read_text()


@pytest.mark.parametrize(
    ("checkpoint", "label"),
    [
        ("student.bridge.rl_large_teacher_1H.grpo_2H", "bridge, RL large teacher (1H), GRPO on 2H"),
        ("student.opd_only.rl_same_size", "OPD only, same-size RL teacher"),
        ("student.grpo_2H", "cold GRPO on 2H"),
        ("student.grpo", "direct GRPO"),
        ("something.else", "something.else"),
    ],
)
def test_labels_of_routes(checkpoint, label):
    assert route_label(checkpoint) == label


def test_the_ledger_says_which_model_consumed_which_labels(bundle):  # noqa: F811
    bundle.records["bridge.grpo_2H", 0] = record(
        0, {"from": "bridge"}, labels=[f"p{n}" for n in range(8, 16)], gradings=40, pool="2H"
    )
    ledger = label_ledger(bundle, "bridge.grpo_2H", 0)
    assert ledger["checkpoint"].tolist() == ["teacher.rl", "bridge", "bridge.grpo_2H", ""]
    assert ledger["role"].tolist() == ["teacher", "student", "student", "total"]
    assert ledger["pool"].tolist() == ["full", "full", "2H", ""]
    assert ledger["use"].tolist() == ["labels", "prompts", "labels", ""]
    assert ledger["labeled problems"].tolist() == [16, 0, 8, 16]  # the second half counts once
    assert ledger["gradings"].tolist() == [160, 0, 40, 200]
    cost = route_cost(bundle, "bridge.grpo_2H", 0)
    assert (cost["labels"], cost["gradings"], cost["all_steps"]) == (16, 200, ledger["optimiser steps"].iloc[-1])
