"""Claims as tables and picture: what is missing or not printed is said, and a label counts once for each that consumed it."""

import pytest

from s2d_lib.claims import Published, evaluate
from s2d_lib.report import claims as report
from s2d_lib.report.pages import label_ledger
from s2d_lib.report.style import save_figure
from tests.claims.conftest import bundle, claims, results, study  # noqa: F401
from tests.claims.synthetic import record

ROWS = {"bridge": {"MATH": [79.3, 0.7]}, "student.grpo": {"MATH": [75.9, 0.9]}}
PUBLISHED = Published.model_validate(
    {
        "problems": {"A": {"MATH": 500}, "B": {}},
        "paper_a": [{"family": "Qwen3", "source": "table 1", "rows": ROWS}],
        "paper_b": [],
    }
)


@pytest.fixture
def outcomes(claims, study, results):  # noqa: F811
    return evaluate(claims, study, results)


@pytest.fixture
def sheet(claims, outcomes):  # noqa: F811
    comparisons, asked = report.comparisons_table(outcomes, PUBLISHED), report.asked_table(outcomes, claims)
    return report.claims_sheet(outcomes, claims.claims, comparisons, "Made up.", asked, "micro")


def test_one_row_a_comparison_link_and_claim_with_its_chance_and_what_is_missing(outcomes, sheet):
    numbers, links = sheet.numbers, sheet.show(1)
    assert numbers["verdict"].tolist() == ["holds", "holds", "contradicted", "holds", "holds", "not run", "not run"]
    assert numbers["link verdict"].tolist() == numbers["verdict"].tolist()
    assert numbers["claim verdict"].tolist()[:3] == ["holds", "holds", "contradicted"]
    assert numbers["published verdict"].tolist()[:2] == ["undecided", "not printed"]  # one error is about two points
    assert numbers.loc[numbers["difference"].isna(), "chance"].isna().all()
    assert links.loc[links["claim"] == "C3", "here"].tolist() == ["holds", "holds"]
    of = report.judged(outcomes, numbers, ["claim"]).set_index("claim")
    assert of["comparisons"].tolist() == [2, 1, 2, 1, 1]
    assert of.loc["C5", "missing"] == "no run of bridge.large in the results of profile micro"
    assert of.loc["C1", "chance"] == numbers["chance"].iloc[:2].min()
    assert of.loc[["C1", "C2"], "published verdict"].tolist() == ["undecided", "not printed"]  # of C1, what is printed
    assert report.verdict_words("undecided", -4.2, 1.0) == "undecided within 4.2 points"
    assert report.verdict_words("undecided", -0.5, 1.1) == "level within 1.1 points"


def test_the_dashboard_shows_every_comparison_with_its_verdicts_marker(sheet, tmp_path):
    figure = report.claims_figure(sheet, "Claims")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["micro-math\nfor MATH", "micro-aime\nfor AIME 2024"]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(labels) == 6 + 5  # pairs, and a heading for each claim
    assert [label for label in labels if ": " in label][:2] == ["C1: holds", "C2: contradicted"]
    markers = [line.get_marker() for axes in figure.axes for line in axes.get_lines()]
    assert (markers.count("o"), markers.count("X"), markers.count("D")) == (4, 1, 2)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words.count("not run") == 2
    assert save_figure(figure, tmp_path, "claims")


def test_the_ledger_says_which_model_consumed_which_labels(bundle):  # noqa: F811
    half = [f"p{n}" for n in range(8, 16)]
    bundle.records["bridge.grpo_2H", 0] = record(0, {"from": "bridge"}, labels=half, gradings=40, pool="2H")
    ledger = label_ledger(bundle, "bridge.grpo_2H", 0)
    ledger = ledger.set_index("checkpoint").loc[["teacher.rl", "bridge", "bridge.grpo_2H", "total"]]
    assert ledger["model"].tolist() == ["teacher (teacher)", "student (student)", "student (student)", ""]
    assert ledger["use"].tolist() == ["labels", "prompts", "labels", ""]
    assert ledger["labeled problems"].tolist() == [16, 0, 8, 16]  # the second half counts once
    assert ledger["gradings"].tolist() == [160, 0, 40, 200]
