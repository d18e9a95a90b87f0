"""GPUs by name: what their datasheets say."""

from functools import cache
from pathlib import Path

from pydantic import PositiveFloat

from s2d_lib.errors import StudyError
from s2d_lib.study.load import did_you_mean, read_yaml, validated
from s2d_lib.study.strict import Strict

FILE = Path(__file__).with_name("gpus.yaml")


class Gpu(Strict):
    """One GPU."""

    memory: PositiveFloat  # bytes
    flops: PositiveFloat  # peak dense bfloat16, per second
    bandwidth: PositiveFloat  # of its memory, bytes per second
    source: str


@cache
def gpus() -> dict[str, Gpu]:
    """All GPUs that are known, by name."""
    return {name: validated(Gpu, facts, f"{FILE.name}, {name}") for name, facts in read_yaml(FILE).items()}


def gpu_named(name: str) -> Gpu:
    """A GPU.

    Raises:
        StudyError: An unknown name.
    """
    if name not in gpus():
        raise StudyError(f"unknown GPU {name!r}; {did_you_mean(name, gpus())} (add others to s2d_lib/plan/{FILE.name})")
    return gpus()[name]
