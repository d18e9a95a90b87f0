"""Are the installed packages those that the project supports?"""

from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from s2d_lib.check.line import Line
from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile

REMEDY = "`make install` installs the versions that were tested"


def check_packages(profile: str) -> Iterator[Line]:
    """Every requirement of pyproject.toml against what is installed; extras are asked for by what needs them."""
    try:
        wanted = metadata.requires("s2d") or []
    except metadata.PackageNotFoundError:
        yield Line("packages", f"the package s2d is not installed: {REMEDY}.", ok=False)
        return
    misfits = [problem for text in wanted if (problem := misfit(Requirement(text)))]
    for problem in misfits:
        yield Line("packages", f"{problem}: {REMEDY}.", ok=False)
    if not misfits:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "trl"))
        yield Line("packages", f"all are of supported versions ({versions})")


def check_logging(profile: str) -> Iterator[Line]:
    """The package of the tracker that the profile logs to; nothing without one."""
    name = load_profile(profile).logging
    if name == "none":
        return
    from s2d_lib.stages.trackers import check_tracker

    try:
        check_tracker(name)
    except StudyError as error:
        yield Line("logging", str(error), ok=False)
    else:
        yield Line("logging", f"{name} is installed")


def misfit(requirement: Requirement) -> str | None:
    """What is wrong with an installed package; None where nothing is, or where it is not asked for here."""
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed, and {requirement} is needed"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}, but {requirement} is supported"
