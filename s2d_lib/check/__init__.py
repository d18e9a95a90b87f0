"""`s2d check`: whether everything that a profile needs is here and fits, before anything is trained."""

from collections.abc import Iterator

from s2d_lib.check.data import check_problems
from s2d_lib.check.engine import check_engine
from s2d_lib.check.hardware import check_disk, check_gpus, check_machine, check_memory
from s2d_lib.check.line import Line
from s2d_lib.check.lora import check_lora
from s2d_lib.check.models import check_models, check_tokenizers
from s2d_lib.check.packages import check_logging, check_packages
from s2d_lib.check.params import check_params
from s2d_lib.errors import StudyError

__all__ = ["Line", "check"]


def check(profile: str) -> Iterator[Line]:
    """One line a check, as soon as it is known. Nothing is trained, downloaded or asked of the network, but for a vLLM
    server that the profile names.

    Without valid parameters nothing else can be asked, so then there is only that line.
    """
    params = check_params(profile)
    yield params
    if not params.ok:
        return
    for part in (
        check_packages,
        check_logging,
        check_models,
        check_tokenizers,
        check_problems,
        check_lora,
        check_gpus,
        check_engine,
        check_memory,
        check_machine,
        check_disk,
    ):
        try:
            yield from part(profile)
        except StudyError as error:
            yield Line(part.__name__.removeprefix("check_"), str(error), ok=False)
