"""The graph of runs: what a profile's tables and its map need, and in which order it can be made."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import product
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.study.load import deep_merge, load_profile, load_study, project_root
from s2d_lib.study.page import Checkpoint, Study, Table, all_nodes, parents_in
from s2d_lib.study.profile import Map, Part, Profile, Settings
from s2d_lib.study.strict import did_you_mean


def needed(profile: str, root: Path | None = None) -> dict[str, list[str]]:
    """Checkpoints that the profile's tables need, ancestors included, parents before children; with each the runs it reads.

    Raises:
        StudyError: When the profile lists a table that the study does not have, or one for which it has no model at all.
    """
    root = root or project_root()
    study, settings = load_study(root), load_profile(profile, root=root)
    nodes, order = all_nodes(study), {}

    def visit(name: str) -> None:
        if name not in order:
            parents = list(parents_in(name, nodes, settings.roles).values())
            for parent in parents:
                visit(parent)
            order[name] = parents

    for table in settings.tables:
        for row in table_in(study, table, settings, profile)[0].rows:
            visit(row)
    return order


def table_in(study: Study, name: str, settings: Profile, profile: str) -> tuple[Table, list[str]]:
    """A table as a profile makes it: without the rows for which the profile lacks a model; and the roles of these models.

    Raises:
        StudyError: There is no such table, no row of it is left, or not the one that the others are compared with.
    """
    if name not in study.tables:
        hint = did_you_mean(name, study.tables)
        raise StudyError(f"profile {profile!r} lists table {name!r}, which study.yaml lacks; {hint}")
    nodes, table = all_nodes(study), study.tables[name]
    missing = {row: role for row in table.rows if (role := _lacking(row, nodes, settings))}
    rows = [row for row in table.rows if row not in missing]
    if not rows or table.reference in missing:
        row = table.reference or table.rows[0]
        raise StudyError(
            f"profile {profile!r} can't make table {name!r}, which needs {row!r}: add a model for role {missing[row]!r} under "
            "`roles`, or drop it."
        )
    return table.model_copy(update={"rows": rows}), list(dict.fromkeys(missing.values()))


def _lacking(name: str, nodes: Mapping[str, Checkpoint], settings: Profile) -> str | None:
    """The first role for which a profile lacks a model that a checkpoint is made of."""
    if role := nodes[name].role:
        return None if role in settings.roles and settings.roles[role].model else role
    parents = parents_in(name, nodes, settings.roles).values()
    return next(filter(None, (_lacking(parent, nodes, settings) for parent in parents)), None)


@dataclass(frozen=True, eq=False)
class Point:
    """One run that a part of a profile's map asks for, but for its seed."""

    part: str
    cell: Settings  # its dials
    trial: Settings  # those of the route's trial
    route: str  # the checkpoint
    overrides: dict  # of the profile: all dials laid over each other


def points(profile: str, root: Path | None = None) -> list[Point]:
    """All points of a profile's map, part by part; none for a profile without a map."""
    chart = load_profile(profile, root=root).map
    parts = chart.parts if chart else {}
    return [point for name, part in parts.items() for point in points_of(chart, name, part)]


def points_of(chart: Map, name: str, part: Part) -> list[Point]:
    """All points of one part."""
    found = []
    for cell, route in product(part.cells, part.routes):
        for trial in part.trials(route):
            dials = part.at | cell | trial
            overrides = reduce(deep_merge, (chart.dials[dial][value] for dial, value in dials.items()), {})
            found.append(Point(name, cell, trial, route, overrides))
    return found
