"""The map as a user makes it: Snakemake, papermill and the real notebooks on a map of a minute; and a method on it."""

import json
import re

import pandas as pd
import pytest
import yaml

from s2d_lib.report.map import BRIDGE, FORWARD, GRPO, OPD
from s2d_lib.study.load import deep_merge
from tests.conftest import ROOT, TINY, copy_project
from tests.test_pipeline import RUNS, run

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
            },
            "methods": {
                "title": "What do other objectives bring?",
                "across": {"opening": ["0.6"]},
                "at": {"warmup": "1/2"},
                "routes": {route: {} for route in (GRPO, OPD, BRIDGE)},
            },
        },
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project whose map has two cells and runs of a second."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
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
    assert len(points) == 2 * 4 + 3
    # Once, whatever the share of warmup: the student, OPD only, forward KL only; and GRPO
    assert points["run"].nunique() == 3 + 2 + 1
    table = pd.read_csv(project / "figures/map/map.csv")
    assert set(table["decoding"]) == {"main", "t1", "greedy", "best"}
    assert (project / "figures/map/warmup_micro-math.svg").is_file()
    assert (project / "figures/map/temperature.svg").is_file()
    code, output = run(project, "study", "--profile", "map")
    assert code == 0
    assert "Nothing to be done" in output


def test_a_method_written_by_the_page_about_it_is_compared_with_the_others(project):
    """docs/how_to_add_a_method.md, word for word."""
    page = (ROOT / "docs" / "how_to_add_a_method.md").read_text()
    (project / "my_methods").mkdir()
    for name, code in re.findall(r"`my_methods/(\w+)\.py`.*?```python\n(.*?)```", page, re.DOTALL):
        (project / "my_methods" / f"{name}.py").write_text(code)
    code, output = run(project, "compare", "--method", "student.raft")
    assert (code, output.count("error: unknown checkpoint 'student.raft'")) == (1, 1)
    ours = {"S2D_METHODS": str(project / "my_methods")}
    code, output = run(project, "compare", "--method", "student.raft", **ours)
    assert code == 0, output
    gains = pd.read_csv(project / "figures/map/methods/student.raft.csv")
    assert set(gains["than"]) == {GRPO, OPD, BRIDGE}
    assert gains["verdict"].isin(["ahead", "behind", "undecided"]).all()
    (folder,) = (project / RUNS).glob("map@*/seed-0/student.raft")
    record = json.loads((folder / "record.json").read_text())
    account = pd.read_json(folder / "gradings.jsonl", lines=True)
    assert record["label_use"]["gradings"] == len(account) == 8 * 16  # labels, samples of each
    assert record["resolved"]["code"]
    assert "What it takes, teachers included" in (project / "figures/map/methods/student.raft.md").read_text()
    code, output = run(project, "compare", "--profile", "micro", "--method", "student.raft", **ours)
    assert (code, "has no part 'methods'" in output) == (1, True)
