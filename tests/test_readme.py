"""The README says what the committed results say."""

import re


def test_the_readmes_table_is_the_committed_one(root):
    readme = (root / "README.md").read_text()
    committed = (root / "figures" / "micro-full" / "headline.md").read_text()
    shown = re.search(r"<!-- figures/micro-full/headline.md -->\n(.*?)<!-- end -->", readme, re.DOTALL)[1]
    assert shown.strip() == committed.strip().replace(
        "](runs/", "](figures/micro-full/runs/"
    )  # links as seen from README.md


def test_every_path_the_readme_links_to_exists(root):
    for link in re.findall(r"\]\(([^)#]+)\)", (root / "README.md").read_text()):
        assert (root / link).exists(), link


def test_every_make_target_the_readme_names_exists(root):
    targets = re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([a-z]+)", (root / "README.md").read_text(), re.MULTILINE):
        assert target in targets, target
