"""Run folders: one (profile, seed, checkpoint) executed, whole or not there at all.

While a run is made it lives beside its final place, under a name that starts with a dot; `finish` writes record.json and
renames it. A killed run is therefore never taken for a finished one, and the next attempt resumes in the same unfinished
folder as long as its resolved parameters and the contents of its parents are the same. One process at a time makes a run: it
holds a lock, which reading a finished run does not need.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2d_lib.errors import StudyError
from s2d_lib.provenance import environment, file_hash, peak_memory_mb
from s2d_lib.study import STAGES, Resolved, lineage, project_root, resolve
from s2d_lib.study.resolve import run_of

READ, MODEL = "read", "the model"  # what a record says of content from outside the study, and of models in it
LOGS = "logs"  # folder of an experiment tracker, unrecorded too: its viewer may write into it
UNRECORDED = ("record.json", "notebook.ipynb", "facts.json")  # files that a record does not hash
DRIVER = "S2D_DRIVER"  # set by `s2d run`, which itself publishes the folder, the executed notebook in it


def runs_root() -> Path:
    """Where runs live, absolute: $S2D_RUNS (a relative path begins at the project, wherever a command or a notebook was
    started), or runs/ in the project."""
    return project_root() / Path(os.environ.get("S2D_RUNS") or "runs").expanduser()


def _place(resolved: Resolved, overridden: bool) -> Path:
    """Where a finished run lies. One with overrides has a folder of its own, so that it never replaces the study's:
    `<profile>@<hash of the run>`, the same whichever overrides lead to it."""
    label = f"{resolved.profile}@{resolved.hash[:12]}" if overridden else resolved.profile
    return runs_root() / label / f"seed-{resolved.seed}" / resolved.checkpoint


def read_json(path: Path) -> dict:
    """What `write_json` has written."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    beside.replace(path)


@dataclass
class FinishedRun:
    """A finished run, read only."""

    folder: Path
    record: dict

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.record["resolved"]["checkpoint"]

    @property
    def content(self) -> str:
        """SHA-256 over what other runs read of this one: its model and rollouts, and the files of the role's model where it
        was read (a base run has no other); not its evaluation, nor how long it took."""
        own = {n: h for n, h in self.record["files"].items() if n == "rollouts.parquet" or n.startswith("model/")}
        outside = {n: content for n, content in self.record.get(READ, {}).items() if n.startswith(MODEL)}
        return hashlib.sha256(json.dumps([own, outside], sort_keys=True).encode()).hexdigest()

    def path(self, name: str) -> Path:
        """Path of a file of the run."""
        return self.folder / name


def read_finished(folder: Path, verify: bool = True) -> FinishedRun | None:
    """The finished run in a final place, or None where there is none; `verify` compares every file's hash with the record.
    Raises a StudyError where the folder is broken: no record, or a file missing or changed since the record."""
    if not folder.exists():
        return None
    remedy = f"delete {folder} and run it again"
    try:
        record = read_json(folder / "record.json")
        files, _ = record["files"], record["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StudyError(f"the run folder {folder} has no readable record.json: {remedy}.") from None
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise StudyError(f"the run folder {folder} lacks its file {name}: {remedy}.")
        if verify and file_hash(folder / name) != expected:
            raise StudyError(f"{name} in the run folder {folder} was changed after the run finished: {remedy}.")
    return FinishedRun(folder, record)


def find_run(resolved: Resolved, verify: bool = True) -> FinishedRun | None:
    """The finished run with exactly these resolved parameters, made with overrides or without. None as well where a run that it
    was made from has been made again since, with another content. Raises as `read_finished`."""
    found = _made(resolved)
    if found is None or _outdated(resolved, found):
        return None
    return read_finished(found.folder) if verify else found


def _made(resolved: Resolved) -> FinishedRun | None:
    """The run with these parameters, whatever it was made from; its files are not compared."""
    own = bool(resolved.overrides)
    # A profile may have taken over since what was tried with overrides.
    places = [_place(resolved, overridden) for overridden in (own, not own)]
    found = (read_finished(place, verify=False) for place in places)
    return next((run for run in found if run and run.record["hash"] == resolved.hash), None)


def _outdated(resolved: Resolved, run: FinishedRun) -> bool:
    """Whether a finished run read others than those that are there. A parent that is not there says nothing, nor does a record
    that was written before records held contents."""
    known = run.record.get("parent_contents", {})
    made = [(parent, found) for parent in _parents(resolved) if (found := _made(parent))]
    return any(found.content != known.get(found.name, found.content) or _outdated(own, found) for own, found in made)


def _parents(resolved: Resolved) -> list[Resolved]:
    """What a run reads."""
    if not resolved.parents:
        return []
    above = lineage(resolved.profile, resolved.checkpoint, resolved.seed, resolved.overrides)
    return [above[name] for name in resolved.parents.values()]


def state(resolved: Resolved) -> str:
    """What there is of a run that `find_run` does not find."""
    run = Run(resolved)
    if run.final.exists():
        return "was made from runs made again since" if _made(resolved) else "was made with other parameters"
    return "is not finished" if run.folder.exists() else "does not exist yet"


def made_elsewhere(model: str) -> Path | None:
    """The folder of a model that a run of another profile has trained (`run:<profile>/<checkpoint>`), None for any other; a
    StudyError where that run is not there."""
    if (made := run_of(model)) is None:
        return None
    if (run := find_run(made)) is None:
        raise StudyError(
            f"the model {model!r} comes from a run that {state(made)}: `s2d study --profile {made.profile}` makes it."
        )
    return run.folder / "model"


def command_for(resolved: Resolved) -> str:
    """The command that makes a run, for a shell."""
    own = {"profile": resolved.profile, "seed": str(resolved.seed), "checkpoint": resolved.checkpoint}
    own |= {"overrides": json.dumps(resolved.overrides)} if resolved.overrides else {}
    return shlex.join(["s2d", "run", *(word for name, value in own.items() for word in (f"--{name}", value))])


@dataclass
class Run:
    """A run being made, or one found finished. Stages write into `folder`; `finish` publishes it."""

    resolved: Resolved
    finished: FinishedRun | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # what stages want in the record
    place: Path | None = None  # of its files, where they lie away from the study's or are another process's
    _started: float = field(default_factory=time.perf_counter)

    @property
    def final(self) -> Path:
        """Where the finished run will be."""
        return _place(self.resolved, bool(self.resolved.overrides))

    @property
    def folder(self) -> Path:
        """Where the run's files are now."""
        unfinished = self.place or self.final.with_name(f".{self.final.name}.unfinished")
        return self.finished.folder if self.finished else unfinished

    def path(self, name: str) -> Path:
        """Path of a file of the run."""
        return self.folder / name

    def parent(self, kind: str) -> FinishedRun:
        """The finished run that this one reads as `from`, `teacher` or `rollouts`. One that is missing, made with other
        parameters or from others than those that are there, broken, or made again since this run began, is a StudyError that
        says how to make it."""
        own = self.resolved
        parent = resolve(own.profile, own.parents[kind], own.seed, own.overrides)
        found = find_run(parent, verify=self.place is None)  # else whoever chose the place has compared the files
        if found is None:
            raise StudyError(
                f"{own.checkpoint!r} needs the run {parent.checkpoint!r} (profile {own.profile}, seed {own.seed}), which "
                f"{state(parent)}: make it with `{command_for(parent)}` or notebook {STAGES[parent.stage].notebook}."
            )
        known = self.facts.setdefault("parent_contents", {})
        if not self.finished and known.setdefault(found.name, found.content) != found.content:
            raise StudyError(
                f"the run {found.name!r} was made again after {own.checkpoint!r} had begun: run the notebook from its first cell."
            )
        return found

    def reload(self) -> None:
        """Take over the facts that other processes have kept for the record; time counts from now on."""
        if self.path("facts.json").is_file():
            self.facts = read_json(self.path("facts.json"))
        self._started = time.perf_counter()

    def remember(self, **facts: Any) -> None:
        """Keep facts for the record, also over an interruption; with them the seconds so far and the peak memory. Of an attempt
        that was killed, only what came before its last call counts."""
        now, peak = time.perf_counter(), peak_memory_mb()
        before = self.facts.get("peak_memory_mb", {})
        self.facts |= facts
        self.facts["seconds"] = round(self.facts.get("seconds", 0.0) + now - self._started, 2)
        self.facts["peak_memory_mb"] = {kind: max(value, before.get(kind, 0.0)) for kind, value in peak.items()}
        self._started = now
        write_json(self.path("facts.json"), self.facts)

    def finish(self) -> dict:
        """Write the record, which is returned, and publish the folder; under `s2d run` the driver publishes."""
        if self.finished:
            return self.finished.record
        shutil.rmtree(self.path("trainer"), ignore_errors=True)
        for leftover in self.folder.glob(".*"):  # what a killed save left behind
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        # facts.json stays until the folder is published: a kill before that must not lose what the run has cost.
        self.remember()
        files = [p for p in sorted(self.folder.rglob("*")) if p.is_file() and p.name not in UNRECORDED]
        names = [str(p.relative_to(self.folder)) for p in files]
        record = {
            "hash": self.resolved.hash,
            "resolved": self.resolved.model_dump(mode="json"),
            "environment": environment(),
            "files": {name: file_hash(self.path(name)) for name in names if not name.startswith(f"{LOGS}/")},
            **self.facts,
        }
        write_json(self.path("record.json"), record)
        if DRIVER not in os.environ:
            self.publish()
        return record

    def publish(self) -> None:
        """Move the run, whose record is written, to its final place, and give up its lock."""
        publish(self.folder, self.final)
        (self.final / "facts.json").unlink(missing_ok=True)
        self.finished = read_finished(self.final, verify=False)
        if held := _HELD.pop(self.final, None):
            held.close()


def publish(unfinished: Path, final: Path) -> None:
    """Move a complete run to its final place; a stale run that lies there goes only after the new one is whole."""
    stale = final.with_name(f".{final.name}.stale")
    shutil.rmtree(stale, ignore_errors=True)
    if final.exists():
        final.rename(stale)
    unfinished.rename(final)
    shutil.rmtree(stale, ignore_errors=True)


def open_run(
    profile: str,
    checkpoint: str,
    seed: int,
    overrides: dict | None = None,
    stages: tuple[str, ...] = (),
    show: bool = False,
) -> Run:
    """Resolve a run (see `resolve`) and open its folder: the finished one, an unfinished one to go on with, or a new one.

    `stages` are those that the calling notebook can run: of any other a StudyError names the notebook, unless the caller can
    `show` what is finished and evaluated.
    """
    resolved = resolve(profile, checkpoint, seed, overrides)
    run = Run(resolved, find_run(resolved))
    shown = show and run.finished and run.path("evaluation.csv").is_file()
    if stages and resolved.stage not in stages and not shown:
        raise StudyError(
            f"checkpoint {checkpoint!r} is stage {resolved.stage!r}: run it with notebook {STAGES[resolved.stage].notebook}, or "
            f"with `{command_for(resolved)}`."
        )
    if run.finished:
        print(f"{checkpoint} (profile {profile}, seed {seed}) is finished: showing {run.folder}.")
        return run
    run.final.parent.mkdir(parents=True, exist_ok=True)
    # A driver holds the lock for its notebook, and a cell that is run again must not wait for itself.
    if DRIVER not in os.environ and run.final not in _HELD:
        (held := contextlib.ExitStack()).enter_context(lock(run.final))
        _HELD[run.final] = held
        run.finished = find_run(resolved)  # another process may have finished it while this one waited
    if not run.finished:
        _prepare(run)
    return run


_HELD: dict[Path, contextlib.ExitStack] = {}  # locks of the runs that this process is making


@contextlib.contextmanager
def lock(final: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold the right to make what has its final place at `final`; the system frees it when its holder dies. Who comes second
    waits, or is told a refusal in a StudyError."""
    with final.with_name(f".{final.name}.lock").open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if refusal:
                raise StudyError(refusal) from None
            print(f"another process is working on {final}: waiting for it.", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _prepare(run: Run) -> None:
    """Open the unfinished folder, as it was left or, when that was of other parameters or parents, anew."""
    parents = [find_run(parent, verify=False) for parent in _parents(run.resolved)]
    contents = {parent.name: parent.content for parent in parents if parent}
    try:
        same = read_json(run.path("resolved.json"))["hash"] == run.resolved.hash
        run.facts = read_json(run.path("facts.json"))
        same = same and contents.items() <= run.facts["parent_contents"].items()
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.mkdir(parents=True)
        run.facts = {"parent_contents": contents}
        write_json(run.path("resolved.json"), {"hash": run.resolved.hash, **run.resolved.model_dump(mode="json")})
        write_json(run.path("facts.json"), run.facts)
