"""Reading params/*.yaml: from files to validated study and profile, with one clear sentence for what is wrong."""

import difflib
import functools
import os
from collections.abc import Iterable
from pathlib import Path

import yaml
from pydantic import ValidationError

from s2d_lib.errors import StudyError
from s2d_lib.study.page import Study
from s2d_lib.study.profile import Profile
from s2d_lib.study.stage_params import STAGES


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # the former, where PyYAML has it, is ten times faster
    """Safe YAML in which a mapping gives a key once: PyYAML would take its last value and lose the others."""

    def construct_mapping(self, node, deep=False):
        """As PyYAML's.

        Raises:
            ConstructorError: A key stands in the mapping twice.
        """
        own = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and own.count((key.tag, key.value)) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def project_root() -> Path:
    """The folder that holds params/study.yaml, absolute: $S2D_HOME, or the working directory or one above it, or the
    checkout this package was installed from.

    Raises:
        StudyError: When there is none.
    """
    here = Path.cwd()
    candidates = [here, *here.parents, Path(__file__).resolve().parents[2]]
    if home := os.environ.get("S2D_HOME"):
        candidates = [Path(home).expanduser().absolute()]
    for folder in candidates:
        if (folder / "params" / "study.yaml").is_file():
            return folder
    raise StudyError(
        f"no params/study.yaml in {candidates[0]} or above it: work inside the project or set S2D_HOME to its folder."
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}."


def read_yaml(path: Path) -> dict:
    """A YAML file that holds a mapping, not to be changed: it is parsed once, and again when the file has changed.

    Raises:
        StudyError: When it is missing, not YAML, gives a key twice or is not a mapping.
    """
    return _parsed(path, *version_of(path))


def version_of(path: Path) -> tuple[int, int]:
    """What changes with a file: its time stamp and its size in bytes.

    Raises:
        StudyError: It is not there.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise StudyError(f"{path} does not exist.") from None
    return found.st_mtime_ns, found.st_size


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
    """`content` as an instance of `model`; the first validation errors become one sentence.

    Raises:
        StudyError: Naming the key, what is wrong and, for an unknown key, the closest known one.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{where}: " + "; ".join(_say(e) for e in error.errors()[:3])) from None


def _say(error: dict) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {place!r} (remove it or check its spelling)"
    if error["type"] == "missing":
        return f"parameter {place!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f", given {given!r}" if isinstance(given, str | int | float | bool | None) else ""
    return f"{place}: {message}{shown}" if place else message + shown


OF_PROBLEMS = ("problems", "stands_for", "lengths", "pretraining", "regime")


def deep_merge(base: dict, changes: dict) -> dict:
    """`base` with `changes` laid over it, nested mappings merged key by key, and its `rules` after the base's; neither is
    modified."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = deep_merge(merged[key], value)
        elif key == "rules" and isinstance(value, list) and isinstance(merged.get(key), list):
            value = [*merged[key], *value]
        merged[key] = value
    return merged


def overridden(content: dict, overrides: dict) -> dict:
    """A profile's content with overrides laid over it, which stand above all of its rules: what they say of a stage is laid
    over the defaults and is a rule as well, the last but for their own."""
    stages = overrides.get("stages")
    stages = stages if isinstance(stages, dict) else {}
    last = [{"match": {"stage": stage}, "set": own} for stage, own in stages.items() if stage in STAGES and own]
    above = deep_merge({"rules": last}, {"rules": overrides["rules"]} if "rules" in overrides else {})
    return deep_merge(content, overrides | above if last or "rules" in overrides else overrides)


def load_study(root: Path | None = None) -> Study:
    """The validated params/study.yaml.

    Raises:
        StudyError: When it is broken, or a checkpoint or table names a checkpoint that is not declared.
    """
    path = (root or project_root()) / "params" / "study.yaml"
    return _study(path, *version_of(path))


@functools.lru_cache
def _study(path: Path, *version: int) -> Study:
    study = validated(Study, read_yaml(path), str(path.name))
    for name, node in study.checkpoints.items():
        for parent in filter(None, (node.from_, node.teacher)):
            if parent not in study.checkpoints:
                hint = did_you_mean(parent, study.checkpoints)
                raise StudyError(f"{path.name}: checkpoint {name!r} needs {parent!r}, which is not declared; {hint}")
    for name, table in study.tables.items():
        for row in table.rows:
            if row not in study.checkpoints:
                hint = did_you_mean(row, study.checkpoints)
                raise StudyError(f"{path.name}: table {name!r} lists {row!r}, which is not declared; {hint}")
    return study


def profile_names(root: Path | None = None) -> list[str]:
    """Names of the profiles in params/."""
    reserved = {"study", "claims", "published", "report"}
    return sorted(p.stem for p in ((root or project_root()) / "params").glob("*.yaml") if p.stem not in reserved)


def load_profile(name: str, overrides: dict | None = None, root: Path | None = None) -> Profile:
    """The validated params/<name>.yaml with `overrides` (nested, same shape as the file) laid over it.

    A file that says `extends: <other profile>` holds only what is different from that one.

    Raises:
        StudyError: Unknown profile, unknown or ill-typed parameter.
    """
    root = root or project_root()
    if name not in profile_names(root):
        raise StudyError(f"unknown profile {name!r}; {did_you_mean(str(name), profile_names(root))}")
    if overrides is not None and not isinstance(overrides, dict):
        raise StudyError(f"`overrides` must be a mapping shaped like params/{name}.yaml, given {overrides!r}.")
    content = overridden({"rules": []} | _extended(name, root), overrides or {})
    key = repr((name, content))
    if key not in _PROFILES:
        _PROFILES[key] = validated(Profile, content, f"profile {name!r}")
    return _PROFILES[key]


_PROFILES: dict[str, Profile] = {}  # by name and content: what has been validated is not validated again


def _extended(name: str, root: Path, path: tuple[str, ...] = ()) -> dict:
    """A profile's file laid over that of the profile it extends, if it does.

    Problems of another source bring everything that is about them: nothing of OF_PROBLEMS is taken over with them.
    """
    if name in path:
        raise StudyError(f"profile {path[0]!r} extends itself: {' extends '.join([*path, name])}.")
    content = dict(read_yaml(root / "params" / f"{name}.yaml"))
    below = content.pop("extends", None)
    if below is None:
        return content
    if below not in profile_names(root):
        raise StudyError(
            f"profile {name!r} extends {below!r}, which there is not; {did_you_mean(below, profile_names(root))}"
        )
    base = _extended(below, root, (*path, name))
    if content.get("problems", {}).get("source", base["problems"]["source"]) != base["problems"]["source"]:
        base = {key: value for key, value in base.items() if key not in OF_PROBLEMS}
    return deep_merge(base, content)
