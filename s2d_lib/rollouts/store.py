"""Teacher rollouts on disk: one parquet file, a row a rollout, with how they were sampled in its metadata."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from s2d_lib.errors import StudyError
from s2d_lib.rollouts.sample import Rollout

SCHEMA = pa.schema(
    {
        "problem": pa.string(),
        "sample": pa.int32(),
        "ids": pa.list_(pa.int32()),
        "text": pa.string(),
        "finished": pa.bool_(),
        "log_prob": pa.float32(),
    }
)


def write_rollouts(path: Path, rollouts: Sequence[Rollout], log_probs: Sequence[float], how: dict) -> None:
    """Write rollouts with their log-probabilities.

    Args:
        path: The file; it is there whole or not at all.
        rollouts: The rollouts.
        log_probs: Log-probability of each under the policy that made it, nats at temperature 1.
        how: Teacher, temperature, top-p, top-k, seed: kept in the file's metadata.
    """
    rows = [
        {
            "problem": r.problem,
            "sample": r.sample,
            "ids": list(r.ids),
            "text": r.text,
            "finished": r.finished,
            "log_prob": lp,
        }
        for r, lp in zip(rollouts, log_probs, strict=True)
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"s2d": json.dumps(how, sort_keys=True)}))
    beside = path.with_name(f".{path.name}")
    pq.write_table(table, beside)
    beside.replace(path)


def read_rollouts(path: Path) -> tuple[list[Rollout], dict]:
    """Rollouts and how they were sampled.

    Raises:
        StudyError: When the file is missing, is no parquet file or lacks a column.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise StudyError(
            f"{path} is not a readable parquet file of rollouts: delete its run and make it again."
        ) from None
    missing = set(SCHEMA.names) - set(table.column_names)
    if missing:
        raise StudyError(f"{path} lacks the columns {sorted(missing)}: delete its run and make it again.")
    how = json.loads((table.schema.metadata or {}).get(b"s2d", b"{}"))
    return [
        Rollout(r["problem"], r["sample"], tuple(r["ids"]), r["text"], r["finished"], r["log_prob"])
        for r in table.to_pylist()
    ], how
