"""params/report.yaml: what routes are called and look like, which pairs are contrasted, which notebook writes what."""

import functools
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from s2d_lib.claims import Claims
from s2d_lib.errors import StudyError
from s2d_lib.report.style import BLACK
from s2d_lib.results.bundle import BEST
from s2d_lib.study import load_study, project_root
from s2d_lib.study.profile import Profile
from s2d_lib.study.strict import Strict, did_you_mean, read_yaml, validated, version_of


class Route(Strict):
    """What a checkpoint is called and looks like."""

    label: str
    short: str | None = None  # where all rows of a table have one
    color: str = Field(BLACK, pattern="^#[0-9A-F]{6}$")
    marker: str = "o"
    dashes: str = "-"


class Contrast(Strict):
    """Paired differences: the first of every pair minus the second."""

    title: str
    pairs: list[tuple[str, str]] = Field(min_length=1)


class Criterion(Strict):
    """What a regime must be like for its question to be open: the best of some checkpoints so many points ahead of another."""

    says: str
    of: list[str] = Field(min_length=1)
    minus: str
    at_least: float
    outside: bool = False  # on every set that is not like the pool, instead of on the lower of those that are


class Analysis(Strict):
    """A notebook over committed results: what it writes and reads, and what a profile must have for it."""

    writes: list[str] = Field(default_factory=list)  # tables of study.yaml
    reads: list[str] = Field(default_factory=list)
    contrasts: list[str] = Field(default_factory=list)
    families: bool = False  # whether claims.yaml must give the profile a table of model families
    committed: str = "micro-full"  # the profile whose results the notebook itself is committed with


class Report(Strict):
    """params/report.yaml."""

    colors: dict[str, str]  # for the file itself
    routes: dict[str, Route]
    paper_b: dict[str, str]
    stages: dict[str, str]
    metrics: dict[str, str]
    quantities: dict[str, str]
    notes: dict[str, str]
    contrasts: dict[str, Contrast]
    criteria: list[Criterion]
    notebooks: dict[str, Analysis]
    generic: str  # the notebook that writes any one table
    courses: str  # the notebook over a group of benchmarks


def load_report(root: Path | None = None) -> Report:
    """The validated params/report.yaml; a StudyError where it is broken, or names a checkpoint, table or contrast that is not
    declared."""
    root = root or project_root()
    path = root / "params" / "report.yaml"
    return _report(root, path, *version_of(path))


@functools.lru_cache
def _report(root: Path, path: Path, *version: int) -> Report:
    report, study = validated(Report, read_yaml(path), path.name), load_study(root)
    sides = {side for contrast in report.contrasts.values() for pair in contrast.pairs for side in pair}
    tables = {table for one in report.notebooks.values() for table in (*one.writes, *one.reads)}
    contrasts = {name for one in report.notebooks.values() for name in one.contrasts}
    for names, declared in ((sides, study.checkpoints), (tables, study.tables), (contrasts, report.contrasts)):
        for name in sorted(names - set(declared)):
            raise StudyError(f"{path.name} names {name!r}, which is not declared; {did_you_mean(name, declared)}")
    return report


def analyses_of(name: str, profile: Profile, claims: Claims) -> tuple[dict[str, Analysis], list[str]]:
    """The analysis notebooks that a profile has results for, all of whose tables are in the settings, and the tables that none
    of them writes; `families` of the claims say for which profiles there is a table of families."""
    chosen = {
        notebook: one
        for notebook, one in load_report().notebooks.items()
        if {*one.writes, *one.reads} <= set(profile.tables) and (name in claims.families or not one.families)
    }
    written = {table for analysis in chosen.values() for table in analysis.writes}
    return chosen, [table for table in profile.tables if table not in written]


def route_of(checkpoint: str) -> Route:
    """Label and look of a checkpoint, of an unforeseen one after those of the trained one that its name begins with."""
    routes, (start, *ends) = load_report().routes, checkpoint.removesuffix(BEST).split(".")
    for end in range(len(ends), 0, -1):
        known = ".".join([start, *ends[:end]])
        if known in routes:
            found, more = routes[known], ends[end:]
            return Route(label=", ".join([found.label, *more]), color=found.color) if more else found
    return routes.get(start, Route(label=start)) if not ends else Route(label=checkpoint)


def route_label(checkpoint: str) -> str:
    """What a reader sees where routes from several teachers stand side by side: `bridge, RL teacher (1H), GRPO on 2H`."""
    return route_of(checkpoint).label + (", at its best temperature" if checkpoint.endswith(BEST) else "")


def route_labels(checkpoints: Sequence[str]) -> dict[str, str]:
    """Labels of the rows of one table, the short ones where all have one."""
    routes = {name: route_of(name) for name in checkpoints}
    if not all(route.short for route in routes.values()):
        return {name: route_label(name) for name in routes}
    return {name: route_label(name) if name.endswith(BEST) else str(route.short) for name, route in routes.items()}


def route_look(checkpoint: str) -> tuple[str, str]:
    """Colour (hex) and marker of a checkpoint; no two of the study's share both."""
    return route_of(checkpoint).color, route_of(checkpoint).marker
