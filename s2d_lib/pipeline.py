"""What Snakemake needs to know: the jobs of a profile, and which of them are already done."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from s2d_lib.errors import StudyError
from s2d_lib.runs import Run, command_for, find_run, runs_root
from s2d_lib.study import Point, Resolved, load_profile, needed, points, project_root, resolve
from s2d_lib.study.graph import points_of
from s2d_lib.study.profile import Part, Regime, settings_text
from s2d_lib.study.stage_params import METHODS

METHODS_PART = "methods"
"""The part of a map on which methods are compared."""


@dataclass(frozen=True)
class Job:
    """One run as a job of the graph."""

    resolved: Resolved
    elsewhere: bool = False  # of another profile than the graph's

    @property
    def parents(self) -> tuple[str, ...]:
        """Hashes of the runs it reads."""
        return tuple(self.resolved.parent_hashes.values())

    @property
    def rule(self) -> str:
        """Name of the Snakemake rule."""
        hint = f"_{self.resolved.hash[:8]}" if self.resolved.overrides or self.elsewhere else ""
        return f"{self.resolved.checkpoint.replace('.', '_')}_seed_{self.resolved.seed}{hint}"

    @property
    def command(self) -> str:
        """The command for a shell, after `python -m s2d_lib.cli`."""
        return command_for(self.resolved).removeprefix("s2d ")

    @property
    def record(self) -> Path:
        """Where the run's record is once it is finished."""
        return Run(self.resolved).final / "record.json"

    @property
    def marker(self) -> str:
        """A copy of the record, from the project: it says that this run, with exactly these parameters, is finished. Snakemake
        takes a newer file for a new one only if its content differs. See `keep_markers`."""
        name = f"{self.resolved.checkpoint}-{self.resolved.hash[:12]}"
        path = runs_root() / self.resolved.profile / "finished" / f"seed-{self.resolved.seed}" / name
        return os.path.relpath(path, project_root())

    @property
    def done(self) -> bool:
        """Whether its marker is there."""
        return (project_root() / self.marker).exists()


def blocks(profile: str) -> list[dict[str, Job]]:
    """What a study comes in: the tables of one seed after the other, then the map part by part and seed by seed; jobs by
    their hash, parents first. A job of an earlier block can stand in a later one again."""
    tables = ([resolve(profile, name, seed) for name in needed(profile)] for seed in load_profile(profile).seeds)
    return [_jobs(runs, profile) for runs in (*tables, *(placed.values() for _, placed in placed_on_map(profile)))]


def placed_on_map(profile: str) -> Iterator[tuple[int, dict[Point, Resolved]]]:
    """The runs of a profile's map, part by part and seed by seed: a seed, and what stands at every point."""
    settings, asked = load_profile(profile), points(profile)
    for part, seed in product(settings.map.parts if settings.map else (), settings.seeds):
        yield seed, {p: resolve(profile, p.route, seed, p.overrides) for p in asked if p.part == part}


def jobs(profile: str) -> dict[str, Job]:
    """All jobs of a profile by their hash, in the order of `blocks`."""
    return {key: job for block in blocks(profile) for key, job in block.items()}


def with_route(part: Part, route: str) -> Part:
    """A part with one more route, of which as much is tried as of the others that are trained."""
    tried = next(filter(None, part.routes.values()), {})
    return part.model_copy(update={"routes": {route: tried} | part.routes})


def method_points(profile: str, checkpoint: str) -> dict[tuple[int, Point], Resolved]:
    """The runs of a checkpoint in the cells of the map's part `methods`, by seed and point, as many trials as the part's other
    routes have; a StudyError where the profile has no such part."""
    settings = load_profile(profile)
    if settings.map is None or METHODS_PART not in settings.map.parts:
        raise StudyError(f"profile {profile!r} has no part {METHODS_PART!r} of a map on which methods are compared.")
    part = settings.map.parts[METHODS_PART]
    asked = points_of(settings.map, METHODS_PART, with_route(part, checkpoint))
    own = [point for point in asked if point.route == checkpoint]
    return {(seed, p): resolve(profile, checkpoint, seed, p.overrides) for seed, p in product(settings.seeds, own)}


def method_jobs(profile: str, checkpoint: str) -> dict[str, Job]:
    """The jobs of `method_points`."""
    return _jobs(method_points(profile, checkpoint).values(), profile)


def regime_jobs(profile: str) -> dict[str, Job]:
    """The jobs of a profile's regime check, likewise; a profile without one is a StudyError."""
    looked_at = [run for seed in _regime(profile).seeds for _, run in regime_runs(profile, seed)]
    return _jobs([*looked_at, *(trial.resolved for trial in regime_trials(profile))], profile)


def _regime(profile: str) -> Regime:
    if (found := load_profile(profile).regime) is None:
        raise StudyError(f"profile {profile!r} has no `regime` block.")
    return found


def regime_runs(profile: str, seed: int) -> list[tuple[str, Resolved]]:
    """What a profile's regime check looks at on one seed: its checkpoints, and the parts of its map; with each the dials of its
    cell, empty for none."""
    regime = _regime(profile)
    plain = [("", resolve(profile, checkpoint, seed)) for checkpoint in regime.checkpoints]
    placed = [point for point in points(profile) if point.part in regime.parts]
    return plain + [(settings_text(p.cell), resolve(profile, p.route, seed, p.overrides)) for p in placed]


class Trial(NamedTuple):
    """One pair of learning rate and length, tried on one run."""

    stage: str  # or stage_3, bridge, or a method of self-distillation
    learning_rate: float
    steps: int  # of the stage, as the profile would have them
    warmup: float | None  # share of a bridge's steps that is forward_kl's
    resolved: Resolved


def regime_trials(profile: str) -> list[Trial]:
    """What a profile's regime check tries, on its first seed, there and on the profiles of `also_on`; a pair that a profile
    has is its plain run."""
    regime, found = _regime(profile), []
    for name, block in product([profile, *regime.also_on], regime.trials):
        plain = resolve(name, block.checkpoint, regime.seeds[0])
        for rate, steps, share in product(block.learning_rates, block.steps, block.warmups or [None]):
            tried = {"learning_rate": rate, "steps": steps}
            if block.stage == "stage_3":
                rules = [({"stage": "sparse_rl", "goes_on": True}, tried)]
            elif block.stage in METHODS:
                rules = [({"stage": "self_distillation", "method": block.stage}, tried)]
            elif share:
                parts = {"forward_kl": round(share * steps), "opd": steps - round(share * steps)}
                rules = [({"stage": stage, "role": plain.role}, tried | {"steps": n}) for stage, n in parts.items()]
            else:
                rules = [({"stage": block.stage, "role": plain.role}, tried)]
            over = {"rules": [{"match": match, "set": own} for match, own in rules]}
            run = _plainest(resolve(name, block.checkpoint, regime.seeds[0], over))
            found.append(Trial(block.stage, rate, steps, share, run))
    return found


def _plainest(resolved: Resolved) -> Resolved:
    """The run itself, or its profile's plain one where its overrides don't touch that."""
    plain = resolve(resolved.profile, resolved.checkpoint, resolved.seed) if resolved.overrides else resolved
    return plain if plain.hash == resolved.hash else resolved


def _jobs(runs: Iterable[Resolved], profile: str) -> dict[str, Job]:
    """Jobs of runs and of all that they are made from."""
    found: dict[str, Job] = {}

    def add(resolved: Resolved) -> None:
        resolved = _plainest(resolved)
        for name, parent in resolved.parent_hashes.items():
            if parent not in found:
                add(resolve(resolved.profile, name, resolved.seed, resolved.overrides))
        found[resolved.hash] = Job(resolved, resolved.profile != profile)

    for resolved in runs:
        if resolved.hash not in found:
            add(resolved)
    return found


def keep_markers(jobs: dict[str, Job]) -> None:
    """Bring the markers of jobs (by hash, parents first) into step with the run folders: there where a run is finished and its
    parents are those that it read, as old as its record, but never older than a parent's, since a parent that was made again
    the same makes nothing stale. A broken run folder is a StudyError."""
    made: dict[str, int] = {}  # when, in nanoseconds
    for key, job in jobs.items():
        marker, run = project_root() / job.marker, find_run(job.resolved, verify=False)
        if run is None:
            marker.unlink(missing_ok=True)
            continue
        record = run.path("record.json")
        made[key] = max(record.stat().st_mtime_ns, *(made.get(parent, 0) for parent in job.parents), 0)
        content = record.read_bytes()
        if not marker.exists() or marker.stat().st_mtime_ns < made[key] or marker.read_bytes() != content:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_bytes(content)
            os.utime(marker, ns=(made[key], made[key]))
        made[key] = marker.stat().st_mtime_ns
