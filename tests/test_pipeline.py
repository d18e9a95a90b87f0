"""The whole way as a user goes it: Snakemake, papermill, the real notebooks, on a study of seconds."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from s2d_lib import cli
from s2d_lib.batch import execute
from s2d_lib.provenance import file_hash
from s2d_lib.warm_kernels import ADDRESS
from tests.conftest import HEADLINE, TINY, copy_project

pytestmark = pytest.mark.slow

RUNS = "its runs"  # S2D_RUNS, from the project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project whose micro profile takes seconds, with one seed and a headline of seven runs."""
    rows = ["student", "student.grpo", "student.bridge.rl_teacher", "teacher", "teacher.rl"]
    changes = {"micro": {**TINY, **HEADLINE, "seeds": [0]}, "study": {"tables": {"headline": {"rows": rows}}}}
    return copy_project(tmp_path_factory.mktemp("a pröject's folder"), **changes)


def command(project, *words, **environment):
    """How a user's command line starts s2d, in its own process group."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("S2D_")}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    line = [sys.executable, "-m", "s2d_lib.cli", *words]
    return subprocess.Popen(line, cwd=project, env=kept | {"S2D_HOME": ".", "S2D_RUNS": RUNS} | environment, **streams)


def run(project, *words, **environment) -> tuple[int, str]:
    """Exit code and output."""
    process = command(project, *words, **environment)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def succeed(project, *words, **environment) -> str:
    status, output = run(project, *words, **environment)
    assert status == 0, output
    return output


def fail(project, *words, **environment) -> str:
    status, output = run(project, *words, **environment)
    assert status == 1, output
    return output


def made(project) -> dict:
    """When each run was finished."""
    return {p: p.stat().st_mtime_ns for p in project.glob(f"{RUNS}/micro/seed-0/[!.]*/record.json")}


def tables(project) -> dict[str, bytes]:
    return {name: (project / "figures" / "micro" / name).read_bytes() for name in ("headline.csv", "headline.md")}


@contextlib.contextmanager
def for_a_while(*paths):
    """Files that are as before after the block."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@pytest.fixture(scope="module")
def study(project):
    """The study, made after a kill -9 in the middle, and its table's files."""
    process = command(project, "study", "--cores", "2")
    deadline = time.monotonic() + 300
    while len(made(project)) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    survived = made(project)
    output = succeed(project, "study", "--cores", "2")
    return {"survived": survived, "tables": tables(project), "output": output}


def test_the_study_survives_a_kill_and_nothing_finished_is_lost_or_made_again(project, study):
    assert 2 <= len(study["survived"]) < 7
    assert study["survived"].items() <= made(project).items()
    assert len(made(project)) == 7
    assert "| route" in study["output"]
    assert "figures/micro/" in study["output"]


def test_a_run_folder_holds_everything_about_the_run(project, study):
    folder = project / RUNS / "micro" / "seed-0" / "student.bridge.rl_teacher"
    tables = {f"{name}.csv" for name in ("metrics", "validation", "samples", "evaluation")}
    assert {p.name for p in folder.iterdir()} == {*tables, "record.json", "resolved.json", "notebook.ipynb", "model"}
    record = json.loads((folder / "record.json").read_text())
    assert record["resolved"]["parents"] == {"from": "student.warm.rl_teacher", "teacher": "teacher.rl"}
    assert record["environment"]["packages"]["torch"]
    assert min(record["seconds"], record["peak_memory_mb"]["cpu"]) > 0
    notebook = json.loads((folder / "notebook.ipynb").read_text())
    assert str(project) not in json.dumps(notebook["metadata"])
    assert not [p for p in folder.parent.iterdir() if p.name.endswith((".unfinished", ".stale"))]


def test_snakemakes_report_holds_the_table(project, study):
    command = [sys.executable, "-m", "snakemake", "--report", "report.html", "--config", "profile=micro.yaml"]
    subprocess.run(command, cwd=project, env=os.environ | {"S2D_HOME": ".", "S2D_RUNS": RUNS}, check=True, timeout=300)
    assert "headline.csv" in (project / "report.html").read_text()


def test_a_run_made_again_is_the_same_and_only_what_another_one_changes_is_made_again(project, study):
    """What is made alone has the bytes of what was made beside others or went on after the kill."""
    folder = project / RUNS / "micro" / "seed-0"
    results = project / "figures" / "micro" / "results" / "records.json.xz"
    before = made(project) | {results: results.stat().st_mtime_ns}
    shutil.rmtree(folder / "teacher.rl")
    succeed(project, "run", "--checkpoint", "teacher.rl")
    succeed(project, "study")
    changed = {p.parent.name for p in before if p.stat().st_mtime_ns != before[p]}
    assert changed == {"teacher.rl", "results"}  # and none of its children
    assert tables(project) == study["tables"]
    record, config = (folder / "teacher.rl" / name for name in ("record.json", "model/config.json"))
    with for_a_while(record, config):
        config.write_text(config.read_text() + "\n")  # another teacher
        other = json.loads(record.read_text())
        other["files"]["model/config.json"] = file_hash(config)
        record.write_text(json.dumps(other))
        assert "7 runs, 3 of them to make" in succeed(project, "study", "--dry-run")
        assert "is missing" in fail(project, "results")


def test_figures_are_redrawn_from_the_compact_results_alone(project, study):
    folder = project / "figures" / "micro"
    drawn = {p.name: p.read_bytes() for p in folder.glob("headline.*")}
    assert set(drawn) == {f"headline.{suffix}" for suffix in ("csv", "md", "png", "svg")}
    for path in folder.glob("headline.*"):
        path.unlink()
    succeed(project, "figures", "--profile", "micro", S2D_RUNS="no runs")
    assert {p.name: p.read_bytes() for p in folder.glob("headline.*")} == drawn


def test_a_study_under_way_is_collected_by_whole_seeds(project, study):
    path, results = project / "params" / "micro.yaml", project / "figures" / "micro" / "results" / "records.json.xz"
    before, one_seed = results.read_bytes(), path.read_text()
    with for_a_while(path):
        path.write_text(one_seed.replace("seeds:\n- 0\n", "seeds:\n- 0\n- 1\n", 1))
        assert "seed 1, is missing" in fail(project, "results")
        succeed(project, "results", "--so-far")
        assert results.read_bytes() == before
        path.write_text(one_seed.replace("seeds:\n- 0\n", "seeds:\n- 1\n", 1))
        assert "no seed of profile 'micro' has all its runs yet" in fail(project, "results", "--so-far")


def test_an_ablation_is_a_few_lines_of_yaml_and_makes_only_what_is_new(project, study):
    path = project / "params" / "study.yaml"
    declared = yaml.safe_load(path.read_text())
    name = "student.bridge.rl_teacher.jsd"
    declared["checkpoints"][name] = declared["checkpoints"]["student.bridge.rl_teacher"] | {"overrides": {"beta": 0.5}}
    declared["tables"]["headline"]["rows"].append(name)
    path.write_text(yaml.safe_dump(declared))
    before = made(project)
    succeed(project, "study")
    assert before.items() <= made(project).items()
    assert name in (project / "figures" / "micro" / "headline.csv").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("study", "--profile", "mikro"), "error: unknown profile 'mikro'; did you mean 'micro'?"),
        (("run", "--checkpoint", "teachr"), "error: unknown checkpoint 'teachr'; did you mean 'teacher'?"),
        (("study", "--cores", "0"), "error: --cores must be at least 1, given 0."),
        (("run", "--checkpoint", "student", "--overrides", "{"), "error: --overrides must be JSON"),
        (("run", "--checkpoint", "student", "--overrides", '{"a": 1, "a": 2}'), "error: --overrides must be JSON"),
        (("run", "--checkpoint", "student.grpo", "--seed", "77"), "error: 'student.grpo' needs the run 'student'"),
        (("figures", "--profile", "smollm2-smoke"), "error: there are no results in figures/smollm2-smoke"),
    ],
)
def test_bad_input_is_one_sentence_and_a_failure(runs, capsys, words, sentence):
    assert cli.main(words) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert line.startswith(sentence)


def test_a_broken_run_folder_stops_the_study_with_the_remedy(project):
    (project / "params" / "2025.yaml").write_text("extends: micro\n")  # a name that stays text
    record = project / RUNS / "2025" / "seed-0" / "student" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"hash": ')
    output = fail(project, "study", "--profile", "2025", **{ADDRESS: ""})  # whose server takes long to import
    assert "has no readable record.json: delete" in output


def test_a_notebook_with_its_defaults_shows_the_finished_run(project, study, tmp_path, monkeypatch):
    monkeypatch.setenv("S2D_HOME", str(project))
    monkeypatch.setenv("S2D_RUNS", RUNS)
    execute(project / "notebooks" / "31_opd.ipynb", tmp_path / "out.ipynb", {})
    assert "is finished: showing" in (tmp_path / "out.ipynb").read_text()
