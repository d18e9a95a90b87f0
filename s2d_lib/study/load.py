"""From params/*.yaml to the validated study and its profiles."""

import functools
import graphlib
import os
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.study.methods import OWN, methods
from s2d_lib.study.page import Study, all_nodes, parents_of
from s2d_lib.study.profile import Profile
from s2d_lib.study.stage_params import STAGES
from s2d_lib.study.strict import did_you_mean, read_yaml, validated, version_of

RESERVED = {"study", "claims", "published", "report"}  # files in params/ that are no profiles
# Keys of a profile that are about its problems
OF_PROBLEMS = ("problems", "stands_for", "lengths", "pretraining", "regime")


def project_root() -> Path:
    """The folder that holds params/study.yaml, absolute: $S2D_HOME, or the working directory or one above it, or the
    checkout this package was installed from.

    Raises:
        StudyError: When there is none.
    """
    here = Path.cwd()
    home = os.environ.get("S2D_HOME")
    installed = Path(__file__).resolve().parents[2]
    candidates = [Path(home).expanduser().absolute()] if home else [here, *here.parents, installed]
    for folder in candidates:
        if (folder / "params" / "study.yaml").is_file():
            return folder
    raise StudyError(
        f"no params/study.yaml in {candidates[0]} or above it: work inside the project or set S2D_HOME to its folder."
    )


def deep_merge(base: dict, changes: dict) -> dict:
    """`base` with `changes` laid over it, nested mappings merged key by key, and its `rules` after the base's; neither is
    modified."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = deep_merge(below, value)
        elif key == "rules" and isinstance(value, list) and isinstance(below, list):
            value = [*below, *value]
        merged[key] = value
    return merged


def load_study(root: Path | None = None) -> Study:
    """The validated params/study.yaml; a StudyError where it names a checkpoint that is not declared, or has a cycle."""
    path = (root or project_root()) / "params" / "study.yaml"
    return _study(path, *version_of(path))


@functools.lru_cache
def _study(path: Path, *version: int) -> Study:
    content = read_yaml(path)
    there = content.get("checkpoints")
    for method in methods().values() if isinstance(there, dict) else ():
        own = method.checkpoints
        if taken := own.keys() & there.keys():
            raise StudyError(f"the method in {method.file} declares {min(taken)!r}, which is there: name it otherwise.")
        # A study may lack what the package's own are made of.
        above = {node.get(kind) for node in own.values() for kind in ("from", "teacher")} - {None}
        if method.file.parent != OWN or above <= there.keys() | own.keys():
            content = deep_merge(content, {"checkpoints": own})
    study = validated(Study, content, path.name)
    files = {name: method.file for method in methods().values() for name in method.checkpoints}
    nodes = study.checkpoints.items()
    needs = {f"{files.get(n, path.name)}: checkpoint {n!r} needs": (node.from_, node.teacher) for n, node in nodes}
    needs |= {f"{path.name}: table {name!r} lists": table.rows for name, table in study.tables.items()}
    for who, names in needs.items():
        for name in filter(None, names):
            if name not in study.checkpoints:
                hint = did_you_mean(name, study.checkpoints)
                raise StudyError(f"{who} {name!r}, which is not declared; {hint}")
    try:
        graphlib.TopologicalSorter({n: parents_of(node).values() for n, node in all_nodes(study).items()}).prepare()
    except graphlib.CycleError as error:
        raise StudyError(f"{path.name}: {' needs '.join(reversed(error.args[1]))}, which is a cycle.") from None
    return study


def profile_names(root: Path | None = None) -> list[str]:
    """Names of the profiles in params/."""
    return sorted({p.stem for p in ((root or project_root()) / "params").glob("*.yaml")} - RESERVED)


def load_profile(name: str, overrides: dict | None = None, root: Path | None = None) -> Profile:
    """The validated params/<name>.yaml with `overrides` (nested, same shape as the file) laid over it.

    A file that says `extends: <other profile>` holds only what is different from that one. Overrides stand above all rules:
    what they say of a stage is laid over the defaults and is a rule as well, the last but for their own.

    Raises:
        StudyError: Unknown profile, unknown or ill-typed parameter.
    """
    methods()  # else what one of them lacks would be said of the profile
    root, overrides = root or project_root(), {} if overrides is None else overrides
    if name not in profile_names(root):
        raise StudyError(f"unknown profile {name!r}; {did_you_mean(str(name), profile_names(root))}")
    if not isinstance(overrides, dict):
        raise StudyError(f"`overrides` must be a mapping shaped like params/{name}.yaml, given {overrides!r}.")
    stages = overrides.get("stages")
    given = stages.items() if isinstance(stages, dict) else ()
    last = [{"match": {"stage": stage}, "set": own} for stage, own in given if stage in STAGES and own]
    above = deep_merge({"rules": last} if last else {}, overrides)
    content = deep_merge({"rules": []} | _extended(name, root), above)
    key = repr((name, content))
    if key not in _PROFILES:
        _PROFILES[key] = validated(Profile, content, f"profile {name!r}")
    return _PROFILES[key]


_PROFILES: dict[str, Profile] = {}  # by name and content: what has been validated is not validated again


def _extended(name: str, root: Path, path: tuple[str, ...] = ()) -> dict:
    """A profile's file laid over that of the profile it extends, if it does. Problems of another source bring everything that is
    about them: nothing of OF_PROBLEMS is taken over with them."""
    if name in path:
        raise StudyError(f"profile {path[0]!r} extends itself: {' extends '.join([*path, name])}.")
    if name not in (known := profile_names(root)):
        raise StudyError(f"profile {path[-1]!r} extends {name!r}, which there is not; {did_you_mean(name, known)}")
    content = dict(read_yaml(root / "params" / f"{name}.yaml"))
    below = content.pop("extends", None)
    if below is None:
        return content
    base = _extended(below, root, (*path, name))
    problems = [own for own in (base.get("problems"), content.get("problems")) if isinstance(own, dict)]
    if len({own["source"] for own in problems if "source" in own}) > 1:
        base = {key: value for key, value in base.items() if key not in OF_PROBLEMS}
    return deep_merge(base, content)
