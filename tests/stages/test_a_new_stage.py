"""docs/how_to_add_a_stage.md, word for word: in a copy of the project, through the command and the general notebook."""

import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests.conftest import ROOT, TINY

SMALL = {"stages": {"raft": {"steps": 4, "batch": 4, "micro_batch": 4, "save_steps": 2}}}


@pytest.mark.slow
def test_a_new_stage_is_an_entry_its_parameters_and_a_function(tmp_path):
    """What the page says is all that is changed."""
    page = (ROOT / "docs" / "how_to_add_a_stage.md").read_text()
    params, entry, function, checkpoint, profile = re.findall(r"```(?:python|yaml)\n(.*?)```", page, re.DOTALL)
    for name in ("s2d_lib", "params", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name)

    def insert(file: str, before: str, text: str) -> None:
        content = (tmp_path / file).read_text()
        assert content.count(before) == 1
        (tmp_path / file).write_text(content.replace(before, text + before))

    insert("s2d_lib/study/stage_params.py", "@dataclass(frozen=True)\nclass Stage:", f"{params}\n\n")
    insert("s2d_lib/study/stage_params.py", '    "sparse_rl": Stage(', entry)
    (tmp_path / "s2d_lib" / "stages" / "raft.py").write_text(function)
    insert("params/study.yaml", "  student.grpo:  ", checkpoint)
    (tmp_path / "params" / "mine.yaml").write_text(profile)

    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "S2D_HOME": str(tmp_path),
        "S2D_RUNS": str(tmp_path / "runs"),
    }
    for name in ("student", "student.raft"):
        overrides = {**TINY, "stages": TINY["stages"] | SMALL["stages"]}
        command = [sys.executable, "-m", "s2d_lib.cli", "run", "--profile", "mine", "--checkpoint", name]
        command += ["--overrides", json.dumps(overrides)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "runs").glob("mine@*/seed-0/student.raft")
    record = json.loads((folder / "record.json").read_text())
    account = pd.read_json(folder / "gradings.jsonl", lines=True)
    assert record["label_use"]["gradings"] == len(account) == 16 * 16  # problems of the pool, samples of each
    assert 4 <= account["correct"].sum() < len(account)
    assert record["optimizer_steps"] == 4
    assert {path.name for path in folder.iterdir()} >= {"evaluation.csv", "validation.csv", "notebook.ipynb", "model"}
