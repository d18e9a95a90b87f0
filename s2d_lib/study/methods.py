"""Methods: stages that come as a file each, of the folder s2d_lib/methods or of the folders that $S2D_METHODS names.

A file's name is its stage's. It has `STAGE`, mostly `like` one that is there; `CHECKPOINTS`, as study.yaml has them; and
`train(run, inputs)`, which imports what it needs itself: the study's commands read the file and must not wait for torch.
"""

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType, ModuleType

from s2d_lib.errors import StudyError
from s2d_lib.provenance import file_hash

OWN, FOLDERS = Path(__file__).parents[1] / "methods", "S2D_METHODS"


@dataclass(frozen=True)
class Method:
    """What a file declares."""

    file: Path
    checkpoints: dict[str, dict]  # as they would stand in study.yaml


_FOUND: dict[str, Method] = {}
_REFUSED: list[StudyError] = []  # said where the study is read: an import can't end in one sentence


def methods() -> dict[str, Method]:
    """Every method by the name of its stage; a StudyError where a file is none, or has a name that is taken."""
    for error in _REFUSED:
        raise error
    return _FOUND


def join(stages: dict) -> None:
    """Add the stage of every method to the others."""
    try:
        for file in _files():
            module = _executed(file)
            _check(module, file, stages)
            code = None if file.parent == OWN else file_hash(file)
            stages[file.stem] = replace(module.STAGE, train=module.train, code=code)
            _FOUND[file.stem] = Method(file, module.CHECKPOINTS)
    except StudyError as error:
        _REFUSED.append(error)


def _files() -> list[Path]:
    folders = [OWN, *map(Path, filter(None, os.environ.get(FOLDERS, "").split(os.pathsep)))]
    for folder in folders:
        if not folder.is_dir():
            raise StudyError(f"{FOLDERS} names {folder}, which is no folder.")
    return [file for folder in folders for file in sorted(folder.glob("[!_]*.py"))]


def _executed(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"s2d_methods.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise StudyError(f"the method in {file} can't be read: {type(error).__name__}: {error}.") from None
    return module


def _check(module: ModuleType, file: Path, stages: dict) -> None:
    kinds = {"STAGE": type(stages["base"]), "CHECKPOINTS": dict, "train": FunctionType}
    for part, kind in kinds.items():
        if not isinstance(getattr(module, part, None), kind):
            raise StudyError(
                f"the method in {file} lacks `{part}`, a {kind.__name__}: docs/how_to_add_a_method.md shows one."
            )
    if file.stem in stages:
        raise StudyError(f"the method in {file} has the name of a stage that is there: give the file another one.")
