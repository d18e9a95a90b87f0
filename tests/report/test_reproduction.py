"""The cards are those of what they are made from; the report says what the committed results say, and where it leads is there."""

import re
from base64 import b64decode

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.problems.micro import WORLDS
from s2d_lib.report import reproduction
from s2d_lib.report.cards import write_cards
from s2d_lib.report.tables import interval
from s2d_lib.study.resolve import RELEASED


def test_the_committed_cards_are_those_of_params_code_and_records(root, tmp_path):
    pages = write_cards(root, tmp_path)
    for page in pages:
        assert page.read_text() == (root / "docs" / "cards" / page.name).read_text(), "write them anew: `make report`"
    sections = [re.findall(r"^## (\S+)$", page.read_text(), re.MULTILINE) for page in pages]
    assert sections[0] == list(dict.fromkeys(sections[0]))
    assert set(sections[0]) == set(WORLDS)
    assert sections[1] == sorted(path.parent.name for path in RELEASED.glob("*/record.json"))


def test_the_report_says_what_the_committed_tables_say_and_leads_to_what_is_there(root):
    text = reproduction.report_text(root)
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    headline, claims = (pd.read_csv(root / "figures" / "micro-full" / f"{name}.csv") for name in ("headline", "claims"))
    for row in headline.to_dict("records"):
        assert interval(*(row[f"micro-math{end}"] for end in ("", " low", " high"))) in plain, row["checkpoint"]
    for claim, own in claims.groupby("claim"):
        said = re.findall(rf"^\| {claim} +\| (holds|contradicted|undecided|premise absent)", plain, re.MULTILINE)
        assert said == [own["claim verdict"].iloc[0]], claim
    assert len(re.findall(r"^\| [PA]\d+ +\| .*points +\|$", plain, re.MULTILINE)) == claims["difference"].notna().sum()
    assert not re.search(r"\bnan\b|\bNone\b(?!\.)|\{\{", text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    for link in links:
        assert (root / link.removeprefix("../../")).is_file(), link


def test_no_measured_number_is_typed_by_hand(root):
    template = (root / "s2d_lib" / "report" / "report.md.j2").read_text()
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|^#.*?$", "", template, flags=re.MULTILINE)
    assert re.findall(r"\d+\.\d+|\d+ (?:points|runs|seeds|hours)", prose) == ["2605.12483"]


def test_the_page_holds_its_figures_and_the_pdf_is_left_out_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "report_text", lambda root: "![x](../../a.png)\n\n| a |\n|:--|\n| 1 |\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"a figure")
    page, said = reproduction.write_report(tmp_path)
    html = (tmp_path / "build" / "report" / "report.html").read_text()
    assert page.endswith("build/report/report.html")
    assert b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', html)[1]) == b"a figure"
    assert "<td" in html
    assert re.fullmatch(r"report\.pdf was left out, as there is no Chromium [^.]+: print report\.html yourself\.", said)
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\nexit 3\n")
    browser.chmod(0o755)
    assert "exit status 3" in reproduction.print_pdf(tmp_path / "build" / "report" / "report.html")


def test_a_report_without_results_is_refused(root, tmp_path):
    (tmp_path / "params").symlink_to(root / "params")
    with pytest.raises(StudyError, match=r"the report needs .*claims.csv: make it with `make figures`\."):
        reproduction.report_text(tmp_path)
