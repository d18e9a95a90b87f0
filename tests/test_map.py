"""The map as a user makes it: Snakemake, papermill and the real notebooks on a map of a minute."""

import shutil

import pandas as pd
import pytest
import yaml

from s2d_lib.report.map import BRIDGE, FORWARD, OPD
from s2d_lib.study.load import deep_merge
from tests.conftest import ROOT, TINY
from tests.test_pipeline import run

pytestmark = pytest.mark.slow

MAP = {
    "seeds": [0],
    "problems": TINY["problems"] | {"labels": 8, "prompts": 12},
    "map": {
        "dials": {
            "warmup": {
                "1/4": {"stages": {"forward_kl": {"steps": 2}, "opd": {"steps": 6}}},
                "1/2": {"stages": {"forward_kl": {"steps": 4}, "opd": {"steps": 4}}},
            }
        },
        "parts": {
            "opening": {
                "title": "When?",
                "across": {"opening": ["0.6"], "warmup": ["1/4", "1/2"]},
                "routes": {route: {} for route in ("student", OPD, BRIDGE, FORWARD)},
            }
        },
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project whose map has two cells and runs of a second."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("params", "notebooks"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    path = folder / "params" / "map.yaml"
    whole = [yaml.safe_load((folder / "params" / f"{name}.yaml").read_text()) for name in ("micro", "map")]
    content = deep_merge(*whole)
    del content["extends"]
    content["map"]["parts"] = {}
    content["problems"]["evaluations"] = {}
    path.write_text(yaml.safe_dump(deep_merge(deep_merge(content, TINY), MAP)))
    return folder


def test_a_map_is_made_and_drawn_and_made_only_once(project):
    code, output = run(project, "study", "--profile", "map")
    assert code == 0, output
    points = pd.read_csv(project / "figures/map/results/points.csv")
    assert len(points) == 2 * 4
    # Once, whatever the share of warmup: the student, OPD only, forward KL only
    assert points["run"].nunique() == 3 + 2
    table = pd.read_csv(project / "figures/map/map.csv")
    assert set(table["decoding"]) == {"main", "t1", "greedy", "best"}
    assert (project / "figures/map/warmup_micro-math.svg").is_file()
    assert (project / "figures/map/temperature.svg").is_file()
    code, output = run(project, "study", "--profile", "map")
    assert code == 0
    assert "Nothing to be done" in output
