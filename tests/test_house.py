"""How large the house is, and how much of it a stage brings along: what `make house` prints, and what it may not outgrow."""

from collections.abc import Iterable

import pytest

from tests.conftest import ROOT

MOST = {  # files, lines
    "the package": (104, 16_782),
    "reached from OPD (stages.dense)": (34, 4_996),
    "reached from SRPO (stages.self_distillation)": (39, 6_376),
    "tests": (91, 11_310),
}


def size(modules: Iterable[str]) -> tuple[int, int]:
    """Files and lines, docstrings and blanks too."""
    places = [ROOT / module.replace(".", "/") for module in modules]
    files = [path if (path := place.with_suffix(".py")).is_file() else place / "__init__.py" for place in places]
    return len(files), sum(len(path.read_text("utf-8").splitlines()) for path in files)


def reached(graph, module: str) -> set[str]:
    """Everything of the package that an import of a module imports, the faces of packages among it."""
    found, new = set(), {module}
    while new:
        found |= new
        faces = {name.rsplit(".", 1)[0] for name in found if "." in name}
        new = (faces | {other for name in found for other in graph.find_modules_directly_imported_by(name)}) - found
    return found


def measured() -> dict[str, tuple[int, int]]:
    graph = pytest.importorskip("grimp").build_graph("s2d_lib", cache_dir=None)
    tests = [str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("tests/**/*.py")]
    return {
        "the package": size(graph.modules),
        "reached from OPD (stages.dense)": size(reached(graph, "s2d_lib.stages.dense")),
        "reached from SRPO (stages.self_distillation)": size(reached(graph, "s2d_lib.stages.self_distillation")),
        "tests": size(tests),
    }


def test_the_house_is_as_small_as_it_was():
    found = measured()
    for what, (files, lines) in found.items():
        print(f"{what}: {files} files, {lines:,} lines (at most {MOST[what][0]} and {MOST[what][1]:,})")
    over = {what: both for what, both in found.items() if both > MOST[what] or both[1] > MOST[what][1]}
    assert not over
