"""Rows of a dataset, from a local file or from the Hugging Face Hub."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from s2d_lib.errors import StudyError

SUFFIXES = (".parquet", ".json", ".jsonl")


def load_rows(
    source: str | Path, *, columns: Sequence[str] = (), split: str | None = None, config: str | None = None
) -> list[dict[str, Any]]:
    """Load the rows of a dataset as plain dictionaries, in their order.

    Args:
        source: A local .parquet, .json (a list of objects) or .jsonl file, or a dataset's id on the Hub ("org/name").
        columns: Columns that every row must have.
        split: The Hub dataset's split, "train" if None; a local file has none and ignores it.
        config: The Hub dataset's configuration; a local file ignores it.

    Raises:
        StudyError: In one sentence: the source is missing, empty, not what its name says, or lacks a column.
    """
    if not is_local(source):
        rows = _from_hub(str(source), split or "train", config)
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            kind = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise StudyError(f"The dataset file {path} {kind}: check the path, or give the dataset's id on the Hub.")
        if path.stat().st_size == 0:
            raise StudyError(f"The dataset file {path} is empty: download it again.")
        read = {".parquet": _read_parquet, ".json": _read_json, ".jsonl": _read_jsonl}.get(path.suffix.lower())
        if read is None:
            raise StudyError(f"The dataset file {path} has an unknown ending: use one of {', '.join(SUFFIXES)}.")
        rows = read(path)
    if not rows:
        raise StudyError(f"The dataset {source} has no rows: choose another file or split.")
    _check_columns(source, rows, columns)
    for index, row in enumerate(rows):
        try:
            json.dumps(row, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise StudyError(
                f"Row {index + 1} of the dataset {source} holds half of a character (a lone surrogate), which is no text: "
                "repair it."
            ) from None
    return rows


def is_local(source: str | Path) -> bool:
    """Whether ``source`` means a local file: it exists, looks like a path, or ends like a dataset file."""
    if isinstance(source, Path):
        return True
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") != 1
    return looks_like_path or Path(source).suffix.lower() in SUFFIXES or Path(source).exists()


def _check_columns(source: str | Path, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    for index, row in enumerate(rows):
        missing = [column for column in columns if column not in row]
        if missing:
            raise StudyError(
                f"The dataset {source} lacks the column(s) {', '.join(missing)} in row {index + 1}; "
                f"it has {', '.join(map(str, row)) or 'none'}."
            )


def _from_hub(name: str, split: str, config: str | None) -> list[dict[str, Any]]:
    # Imported here: it takes seconds, and a study on local files or micro problems never needs it.
    from datasets import load_dataset

    label = f"{name} (configuration {config}, split {split})" if config else f"{name} (split {split})"
    try:
        dataset = load_dataset(name, config, split=split)
    except Exception as error:  # the Hub's client raises its own, datasets', requests' and OS errors
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise StudyError(
            f"The dataset {label} could not be loaded from the Hub ({detail}): "
            "check its name and the network, or give a local file."
        ) from error
    return dataset.to_list()


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_once(path, pq.read_schema(path).names)
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _not_as_named(path, "a readable parquet file") from error


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(_text(path), object_pairs_hook=partial(_object, path))
    except (ValueError, RecursionError) as error:
        raise _not_as_named(path, "valid JSON") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        found = "a list of other things" if isinstance(rows, list) else f"one {type(rows).__name__}"
        raise StudyError(f"The dataset file {path} must hold a JSON list of objects, but holds {found}.")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    # Not splitlines(): JSON may hold U+2028 and other characters that Python takes for line ends.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=partial(_object, path))
        except (ValueError, RecursionError) as error:
            raise _not_as_named(path, f"valid JSON in line {number}") from error
        if not isinstance(row, dict):
            raise StudyError(f"The dataset file {path} must hold one JSON object a line; line {number} is none.")
        rows.append(row)
    return rows


def _object(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once(path, [name for name, _ in pairs])
    return dict(pairs)


def _check_once(path: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StudyError(f"The dataset file {path} names {twice[0]!r} twice in one row: keep the column that is meant.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_as_named(path, "UTF-8 text") from error


def _not_as_named(path: Path, expected: str) -> StudyError:
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    hint = ""
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        hint = ", but a web page"
    elif start.startswith(b"version https://git-lfs"):
        hint = ", but a git-lfs pointer"
    elif start.startswith(b"par1"):
        hint = ", but a parquet file" if path.suffix.lower() != ".parquet" else ", it is cut off or damaged"
    return StudyError(f"The dataset file {path} is not {expected}{hint}: download it again.")
