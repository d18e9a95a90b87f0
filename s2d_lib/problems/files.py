"""Rows of a dataset, from a local file or from the Hugging Face Hub."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2d_lib.errors import StudyError

SUFFIXES = (".parquet", ".json", ".jsonl")


def load_rows(
    source: str | Path, *, columns: Sequence[str] = (), split: str | None = None, config: str | None = None
) -> list[dict[str, Any]]:
    """The rows of a dataset as plain dictionaries, in their order; each must have the `columns`.

    The source is a local .parquet, .json (a list of objects) or .jsonl file, or a dataset's id on the Hub ("org/name"), of which
    a split ("train" if None) and a configuration are loaded; a file has neither and ignores them. Raises StudyError where it is
    missing, empty, not what its name says, or lacks a column.
    """
    rows = _from_file(Path(source).expanduser()) if is_local(source) else _from_hub(source, split or "train", config)
    if not rows:
        raise StudyError(f"The dataset {source} has no rows: choose another file or split.")
    for number, row in enumerate(rows, 1):
        if missing := [column for column in columns if column not in row]:
            raise StudyError(
                f"The dataset {source} lacks the column(s) {', '.join(missing)} in row {number}; "
                f"it has {', '.join(map(str, row)) or 'none'}."
            )
        try:
            json.dumps(row, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise StudyError(
                f"Row {number} of the dataset {source} holds half of a character (a lone surrogate), which is no text: "
                "repair it."
            ) from None
    return rows


def is_local(source: str | Path) -> bool:
    """Whether ``source`` means a local file: it exists, looks like a path, or ends like a dataset file."""
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") != 1:
        return True
    return Path(source).suffix.lower() in SUFFIXES or Path(source).exists()


def _from_hub(name: str, split: str, config: str | None) -> list[dict[str, Any]]:
    # Imported here: it takes seconds, and a study on local files or micro problems never needs it.
    from datasets import load_dataset

    try:
        return load_dataset(name, config, split=split).to_list()
    except Exception as error:  # the Hub's client raises its own, datasets', requests' and OS errors
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        part = f"configuration {config}, split {split}" if config else f"split {split}"
        raise StudyError(
            f"The dataset {name} ({part}) could not be loaded from the Hub ({detail}): check its name and the network, or give "
            "a local file."
        ) from error


def _from_file(path: Path) -> list[dict[str, Any]]:
    kind = path.suffix.lower()
    if not path.is_file():
        found = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise StudyError(f"The dataset file {path} {found}: check the path, or give the dataset's id on the Hub.")
    if kind not in SUFFIXES:
        raise StudyError(f"The dataset file {path} has an unknown ending: use one of {', '.join(SUFFIXES)}.")
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(path).to_pylist()
        else:
            rows = _from_json(path, by_line=kind == ".jsonl")
    except (ValueError, OSError, RuntimeError) as error:  # RecursionError and some of arrow's are a RuntimeError
        with path.open("rb") as file:
            start = file.read(40)  # tells a web page or a git-lfs pointer
        raise StudyError(
            f"The dataset file {path} is not readable as {kind} ({' '.join(str(error).split())[:200]}; it begins with "
            f"{start!r}): repair it or download it again."
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StudyError(f"The dataset file {path} must hold objects: a list of them, or in .jsonl one a line.")
    return rows


def _from_json(path: Path, by_line: bool) -> Any:
    text, rows = path.read_text(encoding="utf-8-sig"), []
    if not by_line:
        return json.loads(text, object_pairs_hook=_named_once)
    # Not splitlines(): JSON may hold U+2028 and other characters that Python takes for line ends.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line, object_pairs_hook=_named_once))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return rows


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice!r} is named twice in one row")
    return dict(pairs)
