"""The README says what the committed results say."""

import re
import tomllib
from pathlib import Path

import pytest


def test_the_readmes_table_is_the_committed_one(root):
    table = "figures/micro/ends.md"
    readme = (root / "README.md").read_text()
    shown = re.search(rf"<!-- {table} -->\n(.*?)<!-- end -->", readme, re.DOTALL)[1]
    links = f"]({Path(table).parent}/runs/"  # as seen from README.md
    assert shown.strip() == (root / table).read_text().strip().replace("](runs/", links)


def test_every_make_target_a_page_names_exists(root):
    targets = re.findall(r"^([a-z0-9-]+):", (root / "Makefile").read_text(), re.MULTILINE)
    for page in (root / "README.md", root / "CONTRIBUTING.md", *root.glob("docs/*.md")):
        named = re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= set(targets), page


def test_the_code_of_how_opd_works_runs_and_takes_the_student_to_its_teacher(root, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "how_opd_works.md").read_text(), re.DOTALL)
    exec(compile(code, "how_opd_works.md", "exec"), {})
    nats = [float(value) for value in re.findall(r"step \d: (\S+) nats", capsys.readouterr().out)]
    assert len(nats) == 3
    assert nats[0] > nats[1] > nats[2] > 0


def test_the_rooms_of_contributing_are_those_that_the_import_contract_checks(root):
    contract = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    lines = [set(layer.split(" | ")) for layer in reversed(contract["layers"])]
    rooms = re.findall(r"^\| (\d+) \| `(\w+)` \|", (root / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {(number, room) for number, line in enumerate(lines, 1) for room in line} == {(int(n), r) for n, r in rooms}


def test_no_import_breaks_the_contracts(root):
    use_cases = pytest.importorskip("importlinter.cli")
    assert use_cases.lint_imports(config_filename=str(root / "pyproject.toml"), no_cache=True) == 0
