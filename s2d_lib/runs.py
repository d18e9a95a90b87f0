"""Run folders: one (profile, seed, checkpoint) executed, whole or not there at all.

While a run is made it lives beside its final place, under a name that starts with a dot; `finish` checks it, writes
record.json and renames it. A killed run is therefore never taken for a finished one, and the next attempt resumes in
the same unfinished folder as long as its resolved parameters are the same.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from s2d_lib.errors import StudyError
from s2d_lib.provenance import environment, peak_memory_mb
from s2d_lib.study import NOTEBOOKS, Resolved, project_root, resolve

UNRECORDED = ("record.json", "notebook.ipynb", "facts.json")  # files of a run folder that its record does not hash
LOGS = "logs"  # folder of an experiment tracker, unrecorded too: its viewer may write into it
# Set by `s2d run`, which publishes the folder itself once the executed notebook lies in it too: when that process began
# (seconds since 1970)
DRIVER = "S2D_DRIVER"


def runs_root() -> Path:
    """Where runs live: $S2D_RUNS, or runs/ in the project."""
    return Path(os.environ.get("S2D_RUNS", project_root() / "runs")).absolute()


def seed_folder(resolved: Resolved) -> Path:
    """Folder of a profile's seed. A run with overrides has a folder of its own, so that it never replaces the
    study's; `<profile>@<hash of the overrides>`."""
    label = resolved.profile
    if resolved.overrides:
        text = json.dumps(resolved.overrides, sort_keys=True)
        label += "@" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return runs_root() / label / f"seed-{resolved.seed}"


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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

    def path(self, name: str) -> Path:
        """Path of a file of the run."""
        return self.folder / name


def read_finished(folder: Path, verify: bool = True) -> FinishedRun | None:
    """The finished run in `folder`, or None when there is none.

    Args:
        folder: A run's final place.
        verify: Compare every file's hash with the record.

    Raises:
        StudyError: When the folder is there but broken: no record, or a file missing or changed since the record.
    """
    if not folder.exists():
        return None
    remedy = f"delete {folder} and run it again"
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        files, _ = record["files"], record["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StudyError(f"the run folder {folder} has no readable record.json: {remedy}.") from None
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise StudyError(f"the run folder {folder} lacks its file {name}: {remedy}.")
        if verify and file_hash(path) != expected:
            raise StudyError(f"{name} in the run folder {folder} was changed after the run finished: {remedy}.")
    return FinishedRun(folder, record)


def find_run(resolved: Resolved, verify: bool = True) -> FinishedRun | None:
    """The finished run with exactly these resolved parameters: its own folder, or the plain profile's."""
    plain = resolved.model_copy(update={"overrides": {}})
    for folder in dict.fromkeys(seed_folder(r) / r.checkpoint for r in (resolved, plain)):
        found = read_finished(folder, verify)
        if found and found.record["hash"] == resolved.hash:
            return found
    return None


def command_for(resolved: Resolved) -> str:
    """The command that makes a run."""
    extra = f" --overrides '{json.dumps(resolved.overrides)}'" if resolved.overrides else ""
    return f"s2d run --profile {resolved.profile} --seed {resolved.seed} --checkpoint {resolved.checkpoint}{extra}"


@dataclass
class Run:
    """A run being made, or one found finished. Stages write into `folder`; `finish` publishes it."""

    resolved: Resolved
    finished: FinishedRun | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # what stages want in the record
    _started: float = field(default_factory=time.perf_counter)

    @property
    def final(self) -> Path:
        """Where the finished run will be."""
        return seed_folder(self.resolved) / self.resolved.checkpoint

    @property
    def folder(self) -> Path:
        """Where the run's files are now."""
        return self.finished.folder if self.finished else self.final.with_name(f".{self.final.name}.unfinished")

    def path(self, name: str) -> Path:
        """Path of a file of the run."""
        return self.folder / name

    def parent(self, kind: str) -> FinishedRun:
        """The finished run that this one reads as `from`, `teacher` or `rollouts`.

        Raises:
            StudyError: When it is missing, made with other parameters, or broken; the sentence says how to make it.
        """
        resolved = self.resolved
        parent = resolve(resolved.profile, resolved.parents[kind], resolved.seed, resolved.overrides)
        found = find_run(parent)
        if found is None:
            stale = (seed_folder(parent) / parent.checkpoint).exists()
            what = "was made with other parameters" if stale else "does not exist yet"
            raise StudyError(
                f"{resolved.checkpoint!r} needs the run {parent.checkpoint!r} (profile {resolved.profile}, seed "
                f"{resolved.seed}), which {what}: make it with `{command_for(parent)}` or notebook "
                f"{NOTEBOOKS[parent.stage]}."
            )
        return found

    def reload(self) -> None:
        """Take over the facts that other processes have kept for the record; time counts from now on."""
        if self.path("facts.json").is_file():
            self.facts = json.loads(self.path("facts.json").read_text(encoding="utf-8"))
        self._started = time.perf_counter()

    def remember(self, **facts: Any) -> None:
        """Keep facts for the record, also over an interruption; with them the seconds so far and the peak memory.

        Of an attempt that was killed, only what came before its last call counts.
        """
        now, peak = time.perf_counter(), peak_memory_mb()
        before = self.facts.get("peak_memory_mb", {})
        self.facts |= facts
        self.facts["seconds"] = round(self.facts.get("seconds", 0.0) + now - self._started, 2)
        self.facts["peak_memory_mb"] = {kind: max(value, before.get(kind, 0.0)) for kind, value in peak.items()}
        self._started = now
        write_json(self.path("facts.json"), self.facts)

    def spent(self, **phases: float) -> None:
        """Add seconds to what phases of the run (loading, sampling, updates, ...) have taken, for the record."""
        before = self.facts.setdefault("phases", {})
        for name, seconds in phases.items():
            before[name] = round(before.get(name, 0.0) + seconds, 2)

    @contextlib.contextmanager
    def phase(self, name: str):
        """Count the time inside the block as a phase's."""
        began = time.perf_counter()
        yield
        self.spent(**{name: time.perf_counter() - began})

    def finish(self) -> dict:
        """Write record.json and publish the folder; under `s2d run` the driver publishes.

        Returns:
            The record.
        """
        if self.finished:
            return self.finished.record
        shutil.rmtree(self.path("trainer"), ignore_errors=True)
        for leftover in self.folder.glob(".*"):  # what a killed save left behind
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        # facts.json stays until the folder is published: a kill before that must not lose what the run has cost.
        self.remember()
        logs = self.path(LOGS)
        files = sorted(
            p for p in self.folder.rglob("*") if p.is_file() and p.name not in UNRECORDED and not p.is_relative_to(logs)
        )
        record = {
            "hash": self.resolved.hash,
            "resolved": self.resolved.model_dump(mode="json"),
            "environment": environment(),
            "files": {str(p.relative_to(self.folder)): file_hash(p) for p in files},
            **self.facts,
        }
        write_json(self.path("record.json"), record)
        if DRIVER not in os.environ:
            publish(self.folder, self.final)
            self.finished = FinishedRun(self.final, record)
        release(self.final)
        return record


@dataclass
class PlacedRun(Run):
    """A run whose files lie in a folder of their own: away from the study's, or beside another process's."""

    place: Path = Path()

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        return self.place


def publish(unfinished: Path, final: Path) -> None:
    """Move a complete run to its final place; a stale run that lies there goes only after the new one is whole."""
    stale = final.with_name(f".{final.name}.stale")
    shutil.rmtree(stale, ignore_errors=True)
    if final.exists():
        final.rename(stale)
    unfinished.rename(final)
    (final / "facts.json").unlink(missing_ok=True)
    shutil.rmtree(stale, ignore_errors=True)


def open_run(
    profile: str,
    checkpoint: str,
    seed: int,
    overrides: dict | None = None,
    stages: tuple[str, ...] = (),
    show: bool = False,
) -> Run:
    """Resolve a run and open its folder: the finished one, an unfinished one to go on with, or a new one.

    Args:
        profile: Name of params/<profile>.yaml.
        checkpoint: A checkpoint of study.yaml.
        seed: Of the run.
        overrides: Nested, shaped like the profile's file; such a run gets a folder of its own.
        stages: Stages that the calling notebook can run.
        show: Whether the notebook can also show finished and evaluated runs of any other stage.

    Raises:
        StudyError: Bad parameters, or a checkpoint that belongs to another notebook.
    """
    resolved = resolve(profile, checkpoint, seed, overrides)
    run = Run(resolved, find_run(resolved))
    shown = show and run.finished and run.path("evaluation.csv").is_file()
    if stages and resolved.stage not in stages and not shown:
        raise StudyError(
            f"checkpoint {checkpoint!r} is stage {resolved.stage!r}: run it with notebook {NOTEBOOKS[resolved.stage]}, or "
            f"with `{command_for(resolved)}`."
        )
    if run.finished:
        print(f"{checkpoint} (profile {profile}, seed {seed}) is finished: showing {run.folder}.")
        return run
    run.final.parent.mkdir(parents=True, exist_ok=True)
    if DRIVER not in os.environ:  # the driver holds the lock for its notebook
        release(run.final)  # a notebook's cell that is run again must not wait for itself
        _HELD[run.final] = contextlib.ExitStack()
        _HELD[run.final].enter_context(lock(run.final))
        run.finished = find_run(resolved)  # another process may have finished it while this one waited
    if not run.finished:
        _prepare(run)
    return run


_HELD: dict[Path, contextlib.ExitStack] = {}  # locks of the runs that this process is making


def release(final: Path) -> None:
    """Give up this process's lock on a run, if it holds one."""
    if held := _HELD.pop(final, None):
        held.close()


@contextlib.contextmanager
def lock(final: Path):
    """Hold the right to make the run whose final place is `final`; the system frees it when its holder dies."""
    with final.with_name(f".{final.name}.lock").open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is working on {final}: waiting for it.", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _prepare(run: Run) -> None:
    resolved_file = run.path("resolved.json")
    same = resolved_file.is_file() and json.loads(resolved_file.read_text("utf-8")).get("hash") == run.resolved.hash
    if not same:
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.mkdir(parents=True)
        write_json(resolved_file, {"hash": run.resolved.hash, **run.resolved.model_dump(mode="json")})
    if run.path("facts.json").is_file():
        run.facts = json.loads(run.path("facts.json").read_text(encoding="utf-8"))
    if began := os.environ.get(DRIVER):  # a kernel that a person started may have idled for hours
        kernel = psutil.Process().create_time()
        run.spent(papermill=kernel - float(began), imports=time.time() - kernel)
