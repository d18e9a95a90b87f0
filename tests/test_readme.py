"""The README says what the committed results say."""

import re
from pathlib import Path

import pytest

PAGES = ("README.md", "docs/scale.md", "CONTRIBUTING.md")


def test_the_readmes_table_is_the_committed_one(root):
    readme = (root / "README.md").read_text()
    committed = (root / "figures" / "micro-full" / "headline.md").read_text()
    shown = re.search(r"<!-- figures/micro-full/headline.md -->\n(.*?)<!-- end -->", readme, re.DOTALL)[1]
    assert shown.strip() == committed.strip().replace(
        "](runs/", "](figures/micro-full/runs/"
    )  # links as seen from README.md


@pytest.mark.parametrize("page", PAGES)
def test_every_path_a_page_links_to_exists(root, page):
    for link in re.findall(r"\]\(([^)#]+)\)", (root / page).read_text()):
        assert (Path(root / page).parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_a_page_names_exists(root, page):
    targets = re.findall(r"^([a-z0-9-]+):", (root / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", (root / page).read_text(), re.MULTILINE):
        assert target in targets, target
