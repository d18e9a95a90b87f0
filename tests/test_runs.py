"""Run folders: whole or not at all, never confused, never lost."""

import contextlib
import getpass
import hashlib
import json
import multiprocessing
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import threading
import time

import pytest

from s2d_lib import cli, provenance
from s2d_lib.batch import run_checkpoint
from s2d_lib.errors import StudyError
from s2d_lib.pipeline import Job, keep_markers
from s2d_lib.runs import DRIVER, Run, command_for, find_run, lock, open_run, read_finished, runs_root, write_json
from s2d_lib.study import project_root, resolve


def make(checkpoint="student", content="x") -> Run:
    """A finished run with one file of results and one of a model."""
    run = open_run("micro", checkpoint, 0)
    for kind in run.resolved.parents:
        run.parent(kind)
    run.path("evaluation.csv").write_text(content)
    run.path("model").mkdir(exist_ok=True)
    run.path("model/weights").write_text(content)
    run.remember(sampled={"tokens": 3})
    run.finish()
    return run


def remake(run: Run, content: str) -> None:
    """Delete a run and make it again."""
    shutil.rmtree(run.final)
    make(run.resolved.checkpoint, content=content)


def outdate(run: Run) -> dict:
    """Let a finished run be one of other parameters; the record that it had."""
    record = json.loads((run.final / "record.json").read_text())
    write_json(run.final / "record.json", record | {"hash": "of other parameters"})
    return record


def test_a_run_appears_only_when_it_is_whole(runs):
    run = open_run("micro", "student", 0)
    run.path("evaluation.csv").write_text("x")
    run.remember(sampled={"tokens": 3})
    assert not run.final.exists()
    run = open_run("micro", "student", 0)  # as after an interruption; it does not wait for itself
    run.path(".model.123").mkdir()  # what a killed save left behind
    (run.path(".model.123") / "half").write_text("x")
    assert run.finish()["sampled"] == {"tokens": 3}
    found = find_run(run.resolved)
    assert found.record["hash"] == run.resolved.hash == resolve("micro", "student", 0).hash
    assert set(found.record["files"]) == {"evaluation.csv", "resolved.json"}
    assert {p.name for p in run.final.iterdir()} == {"evaluation.csv", "resolved.json", "record.json"}
    assert open_run("micro", "student", 0).finished


def test_a_changed_parameter_makes_a_run_stale_and_its_replacement_replaces_it(runs):
    outdate(run := make(content="old"))
    assert find_run(run.resolved) is None
    with pytest.raises(StudyError, match="was made with other parameters"):
        open_run("micro", "student.grpo", 0).parent("from")
    make(content="new")
    assert (run.final / "evaluation.csv").read_text() == "new"
    assert [p.name for p in run.final.parent.iterdir() if p.suffix == ".stale"] == []


def test_overrides_get_a_folder_of_their_own_that_counts_like_the_profiles(runs):
    record = outdate(plain := make(content="as the profile said before"))
    tried = Run(plain.resolved.model_copy(update={"overrides": {"seeds": [0]}}))
    assert "micro@" in str(tried.final)
    shutil.copytree(plain.final, tried.final)
    write_json(tried.final / "record.json", record)
    assert find_run(plain.resolved).folder == tried.final  # now that the profile says the same
    keep_markers({plain.resolved.hash: (job := Job(plain.resolved))})
    assert job.done
    write_json(plain.final / "record.json", record)
    shutil.rmtree(tried.final)
    child = open_run("micro", "student.grpo", 0, {"stages": {"sparse_rl": {"steps": 3}}})
    assert child.parent("from").folder == plain.final  # which does not depend on sparse_rl.steps


@pytest.mark.parametrize("file", ["evaluation.csv", "record.json"])
def test_a_broken_folder_is_refused_with_the_remedy(runs, file):
    path = make().final / file
    for damage in (lambda: path.write_text('{"hash": '), path.unlink):
        damage()
        with pytest.raises(StudyError, match=r"delete .* and run it again"):
            read_finished(path.parent)


def test_a_missing_parent_names_the_command_and_the_notebook(runs):
    remedy = r"does not exist yet: make it with `s2d run --profile micro --seed 1 --checkpoint teacher\.rl` or .* 20_sparse_rl"
    with pytest.raises(StudyError, match=remedy):
        open_run("micro", "student.bridge.rl_teacher", 1).parent("teacher")
    with pytest.raises(StudyError, match=r"run it with notebook 31_opd\.ipynb"):
        open_run("micro", "student.bridge.rl_teacher", 0, stages=("sparse_rl",))


@pytest.fixture
def chain(runs) -> list[Run]:
    """Three finished runs, each made from the one before."""
    return [make(name) for name in ("teacher", "teacher.rl", "teacher.rl.rollouts.full")]


def test_a_parent_with_another_content_makes_all_below_it_stale_and_their_markers_go(chain):
    jobs = {run.resolved.hash: Job(run.resolved) for run in chain}
    keep_markers(jobs)
    assert all(job.done for job in jobs.values())
    remake(chain[0], "y")
    keep_markers(jobs)
    assert [job.done for job in jobs.values()] == [True, False, False]
    with pytest.raises(StudyError, match="which was made from runs made again since"):
        make("teacher.rl.rollouts.full")
    make("teacher.rl")  # which reads the new one, but comes out the same
    keep_markers(jobs)
    assert all(job.done for job in jobs.values())


def test_a_parent_that_is_made_again_the_same_makes_nothing_stale_nor_does_one_that_is_gone(chain):
    jobs = {run.resolved.hash: Job(run.resolved) for run in chain}

    def state() -> list[tuple[bytes, int]]:
        keep_markers(jobs)
        return [(p.read_bytes(), p.stat().st_mtime_ns) for p in (project_root() / job.marker for job in jobs.values())]

    before = state()
    assert state() == before
    remake(chain[0], "x")
    after = state()
    assert after[0][0] == (chain[0].final / "record.json").read_bytes()
    assert len({time for _, time in after}) == 1  # nobody's is older than a parent's
    assert [text for text, _ in after[1:]] == [text for text, _ in before[1:]]
    shutil.rmtree(chain[0].final)
    assert find_run(chain[1].resolved)


def test_an_unfinished_run_does_not_go_on_with_another_parent_or_other_parameters(runs):
    parent = make("student")
    open_run("micro", "student.grpo", 0).path("half").write_text("x")
    remake(parent, "x")
    run = open_run("micro", "student.grpo", 0)
    assert run.path("half").exists()
    remake(parent, "y")
    with pytest.raises(StudyError, match="'student' was made again after"):
        run.parent("from")
    run = open_run("micro", "student.grpo", 0)
    assert not run.path("half").exists()
    run.path("half").write_text("x")
    run.path("resolved.json").write_text(json.dumps({"hash": "another"}))
    assert not open_run("micro", "student.grpo", 0).path("half").exists()


def test_the_command_of_a_run_is_quoted_for_a_shell(runs, monkeypatch, capsys):
    overrides = {"problems": {"instruction": """it's "so", she said; $HOME `x`"""}}
    resolved = resolve("micro", "student", 0).model_copy(update={"overrides": overrides})
    asked = []
    monkeypatch.setattr("s2d_lib.batch.run_checkpoint", lambda *words: asked.append(words))
    for command in (command_for(resolved), "s2d " + Job(resolved).command):
        s2d, *words = shlex.split(command)
        assert (s2d, cli.main(words)) == ("s2d", 0)
    assert asked == [("micro", "student", 0, overrides)] * 2


@pytest.mark.parametrize(("given", "place"), [("", "{root}/runs"), ("a b", "{root}/a b"), ("~/a", "{home}/a")])
def test_runs_lie_in_one_place_wherever_something_is_started(root, tmp_path, monkeypatch, given, place):
    for name, value in {"HOME": str(tmp_path), "S2D_HOME": str(root), "S2D_RUNS": given}.items():
        monkeypatch.setenv(name, value)
    for folder in (root / "notebooks", tmp_path):
        monkeypatch.chdir(folder)
        assert str(runs_root()) == place.format(root=root, home=tmp_path)


def test_a_place_that_cannot_be_written_into_is_named(runs, monkeypatch, capsys):
    monkeypatch.setenv("S2D_RUNS", "/sys/runs")
    assert cli.main(["run", "--checkpoint", "student"]) == 1
    says = capsys.readouterr().err
    assert says.startswith("error: /sys/runs")
    assert says.endswith("let S2D_RUNS name a folder that you may write into.\n")


def test_a_user_without_a_name_gets_a_number(runs, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    assert cli.main(["run", "--checkpoint", "none"]) == 1
    assert getpass.getuser() == str(os.getuid())


def test_the_revision_is_that_of_this_checkout_or_the_version(tmp_path, monkeypatch):
    for words in ("init", "-c user.name=a -c user.email=a@b commit --allow-empty -m x"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    assert len(provenance.git_revision().removesuffix("+")) == 40
    unpacked = tmp_path / "s2d_lib" / "provenance.py"
    unpacked.parent.mkdir()
    unpacked.touch()
    monkeypatch.setattr(provenance, "__file__", str(unpacked))
    assert provenance.git_revision() == provenance.environment()["packages"]["s2d"]


def test_a_file_is_hashed_again_when_it_has_changed(tmp_path):
    for text in ("x", "yz"):
        (tmp_path / "weights").write_text(text)
        assert provenance.file_hash(tmp_path / "weights") == hashlib.sha256(text.encode()).hexdigest()


def test_under_the_driver_the_notebook_leaves_publishing_and_a_kill_before_that_loses_no_account(runs, monkeypatch):
    driver = open_run("micro", "student", 0)
    monkeypatch.setenv(DRIVER, "1")
    notebook = open_run("micro", "student", 0)
    notebook.remember(optimizer_steps=7)
    assert notebook.finish()["optimizer_steps"] == 7  # the driver could be killed here, before it publishes
    assert open_run("micro", "student", 0).finish()["optimizer_steps"] == 7
    assert not driver.final.exists()
    monkeypatch.delenv(DRIVER)
    driver.publish()
    assert read_finished(driver.final).record["optimizer_steps"] == 7
    assert not (driver.final / "facts.json").exists()


@contextlib.contextmanager
def held(final):
    """While another process holds a run's lock."""
    fork = multiprocessing.get_context("fork")
    has_it = fork.Event()

    def hold():
        with lock(final):
            has_it.set()
            time.sleep(100)

    holder = fork.Process(target=hold)
    holder.start()
    assert has_it.wait(60)
    yield holder
    holder.kill()
    holder.join()


def test_a_finished_run_is_read_without_its_lock(runs, capsys):
    with held(make().final):
        assert run_checkpoint("micro", "student", 0) == "student, seed 0: finished before"
        assert open_run("micro", "student", 0).finished
        assert "waiting" not in capsys.readouterr().out


def test_a_second_process_is_refused_or_waits_for_the_first_whose_lock_is_free_when_it_is_killed(tmp_path, capsys):
    with held(tmp_path / "run") as holder:
        with pytest.raises(StudyError, match="busy"), lock(tmp_path / "run", "busy"):
            pass
        threading.Timer(0.5, holder.kill).start()
        with lock(tmp_path / "run"):
            assert "waiting" in capsys.readouterr().out


def test_text_is_utf8_whatever_the_locale(tmp_path):
    (tmp_path / "page.yaml").write_text("instruction: Löse.\n", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code = "import pathlib, sys; from s2d_lib.study.strict import read_yaml; from s2d_lib.cli import main"
    code += "; print(ascii(read_yaml(pathlib.Path(sys.argv[1]))))"
    code += "; sys.exit(main(['study', '--profile', 'gr\\u00f6\\u00dfer']))"
    words = [sys.executable, "-c", code, str(tmp_path / "page.yaml")]
    done = subprocess.run(words, env=os.environ | ascii_only, capture_output=True, encoding="utf-8", check=False)
    assert done.stdout == "{'instruction': 'L\\xf6se.'}\n"
    assert done.stderr.startswith("error: unknown profile")
