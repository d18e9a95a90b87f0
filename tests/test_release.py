"""A study's runs as one file, and the trained student that comes with the project."""

import io
import tarfile
from contextlib import nullcontext

import pytest

from s2d_lib import look
from s2d_lib.cli import main
from s2d_lib.pipeline import jobs, keep_markers
from s2d_lib.results.map import read_map
from s2d_lib.runs import read_finished
from tests.conftest import HEADLINE, copy_project
from tests.test_runs import make

TRAINED = "micro/seed-0/student.grpo"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project with a profile micro of two runs, finished without training and packed; runs now go elsewhere."""
    rows = {"tables": {"headline": {"rows": ["student", "student.grpo"]}}}
    copy_project(tmp_path, micro=HEADLINE | {"seeds": [0]}, study=rows)
    monkeypatch.setenv("S2D_HOME", str(tmp_path))
    monkeypatch.setenv("S2D_RUNS", "runs")
    for name in ("student", "student.grpo"):
        make(name)
    assert main(["bundle", "--to", str(tmp_path / "study.tar")]) == 0
    monkeypatch.setenv("S2D_RUNS", "elsewhere")
    return tmp_path


@pytest.fixture
def taken(project, monkeypatch):
    """Take a bundle over, without Snakemake and its kernels; the exit code."""
    monkeypatch.setattr("s2d_lib.warm_kernels.warm_kernels", nullcontext)
    monkeypatch.setattr("s2d_lib.cli.snakemake_command", lambda chosen, root: ["true"])
    monkeypatch.setattr("s2d_lib.cli._print_first_table", lambda profile, folder: None)
    return lambda name="study.tar": main(["study", "--from", str(project / name)])


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("[!.]*")) if p.is_file()}


def test_a_finished_study_goes_through_a_file(project, taken, capsys):
    assert taken() == 0
    assert "2 runs of profile micro, 2 of them put into" in capsys.readouterr().out
    assert files(project / "elsewhere") == files(project / "runs")
    found = jobs("micro")
    keep_markers(found)
    assert all(job.done and job.record.stat().st_mtime > 1e9 for job in found.values())  # newer than any table
    assert main(["bundle", "--to", str(project / "again.tar")]) == 0
    assert (project / "again.tar").read_bytes() == (project / "study.tar").read_bytes()


def test_what_is_finished_stays_and_what_is_missing_is_named(project, taken, capsys):
    make("student", content="of one's own")
    assert main(["bundle", "--to", str(project / "no.tar")]) == 1
    assert "does not exist yet: `s2d run --profile micro --seed 0 --checkpoint student.grpo`" in capsys.readouterr().err
    assert taken() == 0
    assert "1 of them put into" in capsys.readouterr().out
    assert (project / "elsewhere/micro/seed-0/student/evaluation.csv").read_text() == "of one's own"
    assert taken("no.tar") == 1
    assert "no.tar is no bundle of runs ([Errno 2] No such file" in capsys.readouterr().err


HOSTILE = [  # what a bundle holds instead or besides, and what is said of it
    (f"{TRAINED}/evaluation.csv", b"y", f"holds {TRAINED}/evaluation.csv, not just whole runs of profile 'micro'"),
    (f"{TRAINED}/evaluation.csv", "a link", f"holds {TRAINED}/model/weights, not just whole runs"),
    (f"{TRAINED}/record.json", b'{"hash": "h", "files": {}}', f"holds {TRAINED}/evaluation.csv, not just whole"),
    (f"{TRAINED}/model/more", b"x", f"holds {TRAINED}/model/more, not just whole runs"),
    ("micro-full/seed-0/student/more", b"x", "holds micro-full/seed-0/student/more, not just whole runs"),
    ("micro/../../outside", b"x", "is no bundle of runs ("),
    ("cut off", b"", "is no bundle of runs ("),
]


def test_a_file_that_is_no_whole_bundle_is_one_sentence(project, taken, capsys):
    path = project / "other.tar"
    with tarfile.open(project / "study.tar") as whole:
        contents = {member.name: whole.extractfile(member).read() for member in whole}
    for name, content, sentence in HOSTILE:
        with tarfile.open(path, "w") as tar:
            for one, text in (contents | {name: content}).items():
                member = tarfile.TarInfo(one)
                member.size = len(text)
                if text == "a link":
                    member.type, member.size, member.linkname = tarfile.SYMTYPE, 0, "resolved.json"
                tar.addfile(member, io.BytesIO(text) if member.size else None)
        path.write_bytes(path.read_bytes()[: 5000 if name == "cut off" else None])
        capsys.readouterr()
        assert taken("other.tar") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"other.tar {sentence}" in line
        assert files(project / "elsewhere") == {}
        assert not (project / "outside").exists()


def test_the_first_look_is_of_the_committed_results(root, project, monkeypatch, capsys):
    assert main(["look"]) == 1  # the copy of the project has another study
    assert "figures/micro/look is not of profile 'micro' as it is: `make study` writes it." in capsys.readouterr().err
    kept = read_finished(root / "figures" / "micro" / "look")
    (project / "figures" / "micro").mkdir(parents=True)
    look.keep(kept)
    assert files(project / "figures" / "micro" / "look") == files(kept.folder)
    monkeypatch.setenv("S2D_HOME", str(root))
    runs = read_map(root / "figures" / "micro" / "results").runs
    (cost,) = runs[(runs["run"] == f"{kept.name}@{look.shown().hash[:8]}") & (runs["seed"] == 0)]["seconds"]
    assert (kept.record["hash"], kept.record["seconds"]) == (look.shown().hash, cost)
    assert main(["look"]) == 0
    shown = capsys.readouterr().out
    assert (shown.count("right: "), shown.count("wrong: ")) == (3, 3)
    assert (root / "figures" / "micro" / "ends.md").read_text() in shown
