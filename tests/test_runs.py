"""Run folders: whole or not at all, never confused, never lost."""

import ast
import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.runs import DRIVER, Run, find_run, lock, open_run, publish, read_finished
from s2d_lib.study import resolve


def make(checkpoint="student", seed=0, overrides=None, content="x") -> Run:
    """A finished run with one file."""
    run = open_run("micro", checkpoint, seed, overrides)
    run.path("evaluation.csv").write_text(content)
    run.remember(sampled={"tokens": 3})
    run.finish()
    return run


def test_a_run_appears_only_when_it_is_whole(runs):
    run = open_run("micro", "student", 0)
    run.path("evaluation.csv").write_text("x")
    assert not run.final.exists()
    record = run.finish()
    assert run.final.is_dir()
    assert record["files"]["evaluation.csv"]
    found = find_run(run.resolved)
    assert found.record["hash"] == run.resolved.hash
    assert set(found.record["files"]) == {"evaluation.csv", "resolved.json"}


def test_facts_survive_an_interruption_and_end_in_the_record(runs):
    run = open_run("micro", "student", 0)
    run.remember(sampled={"tokens": 3})
    again = open_run("micro", "student", 0)
    assert again.finish()["sampled"] == {"tokens": 3}


def test_an_unfinished_folder_with_other_parameters_is_begun_anew(runs):
    overrides = {"evaluation": {"samples": 2}}
    run = open_run("micro", "student", 0, overrides)
    run.path("old").write_text("x")
    run.path("resolved.json").write_text(json.dumps({"hash": "another"}))
    assert not open_run("micro", "student", 0, overrides).path("old").exists()


def test_a_finished_run_is_found_again_and_not_made_anew(runs):
    make()
    assert open_run("micro", "student", 0).finished


def test_a_changed_parameter_makes_a_run_stale_and_its_replacement_replaces_it(runs):
    run = make(content="old")
    record = json.loads((run.final / "record.json").read_text())
    record["hash"] = "of other parameters"
    (run.final / "record.json").write_text(json.dumps(record))
    assert find_run(run.resolved) is None
    make(content="new")
    assert (run.final / "evaluation.csv").read_text() == "new"
    assert [p.name for p in run.final.parent.iterdir() if p.suffix == ".stale"] == []


@pytest.mark.parametrize("damage", ["changed", "missing", "no record", "half a record"])
def test_a_broken_folder_is_refused_with_the_remedy(runs, damage):
    run = make()
    if damage == "changed":
        (run.final / "evaluation.csv").write_text("y")
    elif damage == "missing":
        (run.final / "evaluation.csv").unlink()
    elif damage == "no record":
        (run.final / "record.json").unlink()
    else:
        (run.final / "record.json").write_text('{"hash": ')
    with pytest.raises(StudyError, match=r"delete .* and run it again"):
        read_finished(run.final)


def test_a_missing_parent_names_the_command_and_the_notebook(runs):
    run = open_run("micro", "student.bridge.rl_teacher", 1)
    with pytest.raises(StudyError) as error:
        run.parent("teacher")
    sentence = str(error.value)
    assert "s2d run --profile micro --seed 1 --checkpoint teacher.rl" in sentence
    assert "20_sparse_rl.ipynb" in sentence
    assert "does not exist yet" in sentence


def test_a_stale_parent_is_refused(runs):
    run = make("student")
    record = json.loads((run.final / "record.json").read_text())
    record["hash"] = "of other parameters"
    (run.final / "record.json").write_text(json.dumps(record))
    with pytest.raises(StudyError, match="was made with other parameters"):
        open_run("micro", "student.grpo", 0).parent("from")


def test_overrides_get_a_folder_of_their_own_and_reuse_equal_parents(runs):
    parent = make("student")
    run = open_run("micro", "student.grpo", 0, {"stages": {"sparse_rl": {"steps": 3}}})
    assert "micro@" in str(run.final)
    assert run.parent("from").folder == parent.final  # the base run does not depend on sparse_rl.steps


def test_the_wrong_notebook_is_named(runs):
    with pytest.raises(StudyError, match=r"run it with notebook 31_opd\.ipynb"):
        open_run("micro", "student.bridge.rl_teacher", 0, stages=("sparse_rl",))


def test_under_the_driver_the_notebook_leaves_publishing_to_it(runs, monkeypatch):
    monkeypatch.setenv(DRIVER, "1")
    run = open_run("micro", "student", 0)
    run.finish()
    assert not run.final.exists()
    unfinished = run.final.with_name(f".{run.final.name}.unfinished")
    assert (unfinished / "record.json").is_file()
    publish(unfinished, run.final)
    assert read_finished(run.final)


def test_a_kill_between_record_and_publishing_loses_no_account(runs, monkeypatch):
    monkeypatch.setenv(DRIVER, "1")
    run = open_run("micro", "student", 0)
    run.remember(optimizer_steps=7)
    first = run.finish()  # the driver is killed here, before it publishes
    second = open_run("micro", "student", 0).finish()
    assert first["optimizer_steps"] == second["optimizer_steps"] == 7


def test_what_a_killed_save_left_behind_is_not_published(runs):
    run = open_run("micro", "student", 0)
    run.path(".model.123").mkdir()
    (run.path(".model.123") / "half").write_text("x")
    assert not [name for name in run.finish()["files"] if name.startswith(".")]
    assert not (run.final / ".model.123").exists()


def test_a_notebooks_cell_can_be_run_again(runs):
    open_run("micro", "student", 0)
    assert not open_run("micro", "student", 0).finished  # it does not wait for itself


def test_facts_are_not_part_of_a_published_run(runs):
    assert not (make().final / "facts.json").exists()


def _hold(path, seconds):
    with lock(path):
        time.sleep(seconds)


def test_a_second_process_waits_for_the_first(tmp_path, capsys):
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "run", 1.0))
    holder.start()
    while not (tmp_path / ".run.lock").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    with lock(tmp_path / "run"):
        pass
    holder.join()
    assert "waiting" in capsys.readouterr().out


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "run", 60))
    holder.start()
    while not (tmp_path / ".run.lock").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    holder.kill()
    holder.join()
    with lock(tmp_path / "run"):
        pass


def test_the_hash_is_that_of_the_resolved_form(runs):
    assert make().final.joinpath("resolved.json").exists()
    assert json.loads((make().final / "record.json").read_text())["hash"] == resolve("micro", "student", 0).hash


def _in_the_locales_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text without naming how it is encoded."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    words = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    named = {keyword.arg for keyword in call.keywords}
    if "encoding" in named or ast.unparse(call.func) == "os.open":
        return False
    if name == "open":
        return not any(isinstance(word, str) and "b" in word for word in words)
    return (name in ("run", "Popen") and "text" in named) or (
        name in ("read_text", "write_text") and "utf-8" not in words
    )


def test_text_is_utf8_whatever_the_locale(root, tmp_path):
    for path in sorted(root.glob("s2d_lib/**/*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        assert not [(path.name, call.lineno) for call in calls if _in_the_locales_encoding(call)]
    (tmp_path / "page.yaml").write_text("instruction: Löse.\n", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code = (
        "import sys; from pathlib import Path; from s2d_lib.study.load import read_yaml; from s2d_lib.cli import main"
    )
    code += "; print(ascii(read_yaml(Path(sys.argv[1])))); sys.exit(main(['study', '--profile', 'gr\\u00f6\\u00dfer']))"
    words = [sys.executable, "-c", code, str(tmp_path / "page.yaml")]
    done = subprocess.run(words, env=os.environ | ascii_only, capture_output=True, encoding="utf-8", check=False)
    assert done.stdout == "{'instruction': 'L\\xf6se.'}\n"
    assert done.stderr.startswith("error: unknown profile")
