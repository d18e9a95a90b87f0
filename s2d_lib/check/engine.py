"""Can vLLM sample what the profile asks of it?"""

from collections.abc import Iterator

from s2d_lib.check.line import Line
from s2d_lib.check.params import resolved_runs
from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile
from s2d_lib.vllm import checked_version, refuse_what_cannot_be


def check_engine(profile: str) -> Iterator[Line]:
    """vLLM's version, and training on this hardware; nothing where transformers samples."""
    settings = load_profile(profile)
    if settings.sampling.vllm is None:
        return
    try:
        for run in resolved_runs(profile).values():
            refuse_what_cannot_be(run)
        yield Line("vLLM", f"{checked_version(settings.hardware.device)} is installed, and supported")
    except StudyError as error:
        yield Line("vLLM", str(error), ok=False)
