"""Are the parameters valid, down to every run of the profile's tables, can its processes train them together, and can its base
models be made?"""

from s2d_lib.check.line import Line
from s2d_lib.errors import StudyError
from s2d_lib.problems.micro import refuse_what_teaches_nothing
from s2d_lib.study import Resolved, lineage, load_profile, needed, points, resolve
from s2d_lib.study.several_processes import refuse_what_is_not_shared


def check_params(profile: str) -> Line:
    """The profile, the study's page, and every run that they ask for."""
    try:
        runs = resolved_runs(profile)
    except StudyError as error:
        return Line("parameters", str(error), ok=False)
    for name, run in runs.items():
        try:
            refuse_what_is_not_shared(run)
        except StudyError as error:
            return Line("parameters", f"{name}: {error}", ok=False)
    settings = load_profile(profile)
    if settings.pretraining:
        try:
            refuse_what_teaches_nothing(settings.problems, settings.pretraining)
        except StudyError as error:
            return Line("parameters", str(error), ok=False)
    parts = f" and {len(settings.map.parts)} parts of a map" if settings.map else ""
    return Line("parameters", f"{len(runs)} checkpoints of {len(settings.tables)} tables{parts} resolve")


def resolved_runs(profile: str) -> dict[str, Resolved]:
    """Every checkpoint that the profile's tables and map need, for its first seed; of those that a map needs in
    several forms, one.

    Raises:
        StudyError: Bad parameters.
    """
    seed = load_profile(profile).seeds[0]
    found = {name: resolve(profile, name, seed) for name in needed(profile)}
    for point in points(profile):
        for name, run in lineage(profile, point.route, seed, point.overrides).items():
            found.setdefault(name, run)
    return found
