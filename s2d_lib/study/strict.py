"""Reading what people write in YAML: nothing is passed over in silence, and what is wrong gets one clear sentence."""

import difflib
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from s2d_lib.errors import StudyError


class Strict(BaseModel):
    """Base of all parameter models: unknown keys and infinite or undefined numbers are errors, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def _refusals(self) -> Iterator[tuple[Any, str]]:
        """What parameters can't say together: whether they do, and the sentence for it. The first that holds is raised."""
        yield from ()

    @model_validator(mode="after")
    def _refuse(self):
        if sentence := next((sentence for wrong, sentence in self._refusals() if wrong), None):
            raise ValueError(sentence)
        return self


def refuse(refusals: Iterable[tuple[Any, str]], where: str = "") -> None:
    """Raise a StudyError with the first sentence that holds, of pairs of whether one does and the sentence."""
    if sentence := next((sentence for wrong, sentence in refusals if wrong), None):
        raise StudyError(f"{where}{sentence}" + "." * (sentence[-1] not in ".?"))


def unless(default: Any, **limits: Any) -> Any:
    """A field that stands in the dump only where it differs from its default, so that a parameter which is new leaves the
    hashes of runs that don't use it as they were."""
    return Field(default, exclude_if=lambda value: value == default, **limits)


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # the former, where PyYAML has it, is ten times faster
    """Safe YAML in which a mapping gives a key once: PyYAML would take its last value and lose the others."""

    def construct_mapping(self, node, deep=False):
        """As PyYAML's, which raises a ConstructorError where a key stands in the mapping twice."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, or as many as one reads."""
    known = sorted(known)
    close, more = difflib.get_close_matches(name, known, n=1), len(known) - 24
    shown = ", ".join(known[:24]) + (f" and {more} more" if more > 0 else "")
    return f"did you mean {close[0]!r}?" if close else f"known: {shown}."


def version_of(path: Path) -> tuple[int, int]:
    """What changes with a file: its time stamp and its size in bytes. Raises a StudyError where it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise StudyError(f"{path} does not exist.") from None
    return found.st_mtime_ns, found.st_size


def read_yaml(path: Path) -> dict:
    """A YAML file that holds a mapping, not to be changed: it is parsed once, and again when the file has changed.

    Raises:
        StudyError: When it is missing, not YAML, gives a key twice or is not a mapping.
    """
    return _parsed(path, *version_of(path))


@functools.lru_cache
def _parsed(path: Path, *version: int) -> dict:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path} must hold a mapping, found {type(content).__name__}.")
    return content


def validated(model, content: dict, where: str):
    """`content` as an instance of `model`; the first validation errors become the one sentence of a StudyError."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{where}: " + "; ".join(_say(e) for e in error.errors()[:3])) from None


def _say(error: dict) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {place!r} (remove it or check its spelling)"
    if error["type"] == "missing":
        return f"parameter {place!r} is missing"
    given = error.get("input")
    shown = f", given {given!r}" if isinstance(given, str | int | float | bool | None) else ""
    return (f"{place}: " if place else "") + error["msg"].removeprefix("Value error, ") + shown
