"""The graph of runs: what a profile's tables need, and in which order it can be made."""

from dataclasses import dataclass
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.study.load import deep_merge, did_you_mean, load_profile, load_study, project_root
from s2d_lib.study.page import Study, Table, all_nodes, parents_in
from s2d_lib.study.profile import Profile, Settings


def needed(profile: str, root: Path | None = None) -> dict[str, list[str]]:
    """Checkpoints that the profile's tables need, ancestors included, parents before children.

    Returns:
        Checkpoint name -> names of the runs it reads.

    Raises:
        StudyError: When the profile lists a table that the study does not have, or one for which it has no model at all, or
            checkpoints are made of each other.
    """
    root = root or project_root()
    study, settings = load_study(root), load_profile(profile, root=root)
    nodes, order = all_nodes(study), {}

    def visit(name: str, table: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise StudyError(f"study.yaml: {' needs '.join([*path[path.index(name) :], name])}, which is a cycle.")
        if name in order:
            return
        if (role := nodes[name].role) not in {None, *settings.roles}:
            raise StudyError(
                f"profile {profile!r} can't make table {table!r}, which needs {name!r}: add a model for role {role!r} under "
                "`roles`, or drop it."
            )
        parents = list(parents_in(name, nodes, settings.roles).values())
        for parent in parents:
            visit(parent, table, (*path, name))
        order[name] = parents

    for table in settings.tables:
        if table not in study.tables:
            raise StudyError(
                f"profile {profile!r} lists table {table!r}, which study.yaml lacks; {did_you_mean(table, study.tables)}"
            )
        for row in table_in(study, table, settings, profile)[0].rows:
            visit(row, table, ())
    return order


def table_in(study: Study, name: str, settings: Profile, profile: str) -> tuple[Table, list[str]]:
    """A table as a profile makes it.

    Returns:
        The table without the rows for which the profile lacks a model, and the roles of these models.

    Raises:
        StudyError: When no row is left, or not the one that the others are compared with.
    """
    nodes, table = all_nodes(study), study.tables[name]

    def lacking(row: str, path: tuple[str, ...] = ()) -> str | None:
        role, spec = nodes[row].role, settings.roles.get(nodes[row].role)
        if role:
            return None if spec and spec.model else role
        if row in path:
            return None  # a cycle, for `needed` to refuse
        above = parents_in(row, nodes, settings.roles).values()
        return next(filter(None, (lacking(parent, (*path, row)) for parent in above)), None)

    missing = {row: role for row in table.rows if (role := lacking(row))}
    rows = [row for row in table.rows if row not in missing]
    if not rows or table.reference in missing:
        row = table.reference or table.rows[0]
        raise StudyError(
            f"profile {profile!r} can't make table {name!r}, which needs {row!r}: add a model for role {missing[row]!r} under "
            "`roles`, or drop it."
        )
    return table.model_copy(update={"rows": rows}), list(dict.fromkeys(missing.values()))


@dataclass(frozen=True, eq=False)
class Point:
    """One run that a part of a profile's map asks for, but for its seed.

    Attributes:
        part: Which.
        cell: Its dials.
        trial: Those of the route's trial.
        route: The checkpoint.
        overrides: All of them laid over each other, and over the profile.
    """

    part: str
    cell: Settings
    trial: Settings
    route: str
    overrides: dict


def points(profile: str, root: Path | None = None) -> list[Point]:
    """All points of a profile's map, part by part; none for a profile without a map."""
    settings = load_profile(profile, root=root)
    found: list[Point] = []
    for name, part in settings.map.parts.items() if settings.map else ():
        for cell in part.cells:
            for route in part.routes:
                for trial in part.trials(route):
                    overrides: dict = {}
                    for dial, value in (part.at | cell | trial).items():
                        overrides = deep_merge(overrides, settings.map.dials[dial][value])
                    found.append(Point(name, cell, trial, route, overrides))
    return found
