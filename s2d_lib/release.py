"""The runs of a study as one file: packed, and put into a runs folder elsewhere once every hash agrees."""

import contextlib
import tarfile
import tempfile
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.pipeline import jobs
from s2d_lib.runs import Run, command_for, find_run, lock, publish, read_finished, runs_root, state


def _places(profile: str) -> dict[str, Run]:
    """The runs of a profile's graph, parents first, by their folders as seen from the runs folder."""
    runs = [Run(job.resolved) for job in jobs(profile).values()]
    return {run.final.relative_to(runs_root()).as_posix(): run for run in runs}


def pack(profile: str, to: Path) -> str:
    """Write all runs of a profile's graph into a tar file: of each its record and the files that it hashes, the same runs as
    the same bytes. Returns what was packed in one line; a run that is missing or broken is a StudyError."""
    places = _places(profile)
    for run in places.values():
        run.finished = find_run(run.resolved)
        if run.finished is None:
            what = f"the run {run.resolved.checkpoint!r} (profile {profile}, seed {run.resolved.seed}) {state(run.resolved)}"
            raise StudyError(f"{what}: `{command_for(run.resolved)}` makes it.")
    to.parent.mkdir(parents=True, exist_ok=True)
    beside = to.with_name(f".{to.name}")
    with tarfile.open(beside, "w") as tar:
        for place, run in sorted(places.items()):
            for name in sorted(["record.json", *run.finished.record["files"]]):
                member = tarfile.TarInfo(f"{place}/{name}")  # without an owner or a time
                member.size = run.path(name).stat().st_size
                with run.path(name).open("rb") as stream:
                    tar.addfile(member, stream)
    beside.replace(to)
    return f"{to}: {len(places)} runs of profile {profile}, {to.stat().st_size / 1e6:.0f} MB"


def unpack(profile: str, file: Path) -> str:
    """Put the runs that `pack` wrote into the runs folder, but for those that are there and finished; returns in one line what
    was put. A file that holds anything but whole runs of the profile as it resolves here is a StudyError, and nothing is put."""
    root, places, placed = runs_root(), _places(profile), 0
    remedy = f"take what `s2d bundle --profile {profile}` wrote of the same params/"
    with tempfile.TemporaryDirectory(prefix=".bundle.", dir=root) as beside:
        try:
            with tarfile.open(file, "r:") as tar:  # files alone, as new as now, so that tables are made after them
                tar.extractall(beside, [one.replace(mtime=None) for one in tar if one.isreg()], filter="data")
        except (FileNotFoundError, IsADirectoryError, tarfile.TarError) as error:
            raise StudyError(f"{file} is no bundle of runs ({error}): {remedy}.") from None
        found = {place: folder for place in places if (folder := Path(beside, place)).exists()}
        strange = {path for path in Path(beside).rglob("*") if path.is_file()}
        for place, folder in found.items():
            with contextlib.suppress(StudyError):  # of a record that its files don't agree with
                if (record := read_finished(folder).record)["hash"] == places[place].resolved.hash:
                    strange -= {folder / name for name in ("record.json", *record["files"])}
        if strange or not found:
            what = min(strange).relative_to(beside) if strange else "nothing"
            raise StudyError(
                f"{file} holds {what}, not just whole runs of profile {profile!r} as it is here: {remedy}."
            )
        for place, folder in found.items():
            run = places[place]
            run.final.parent.mkdir(parents=True, exist_ok=True)
            with lock(run.final):
                if find_run(run.resolved, verify=False) is None:
                    publish(folder, run.final)
                    placed += 1
    return f"{file}: {len(found)} runs of profile {profile}, {placed} of them put into {root}"
