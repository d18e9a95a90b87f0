"""Loading rows: every way in which a dataset file can be broken gives one clear sentence."""

import json

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.problems.files import is_local, load_rows

ROWS = [{"problem": "1+1?\u2028", "answer": "2", "nested": {"a": [1]}}, {"problem": "ü", "answer": "3", "nested": None}]


@pytest.mark.parametrize("ending", ["parquet", "json", "jsonl"])
def test_all_kinds_of_file_give_the_same_rows_and_name_missing_columns(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    elif ending == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    else:
        lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
        path.write_bytes(f"\ufeff{lines}\n\n".encode())
    assert load_rows(path, columns=["problem", "answer"]) == load_rows(str(path)) == ROWS
    with pytest.raises(StudyError, match=r"lacks the column\(s\) prompt in row 1; it has problem, answer, nested"):
        load_rows(path, columns=["problem", "prompt"])


BROKEN = [
    ("a.parquet", b"<!DOCTYPE html><html><body>Not found</body></html>", "begins with b'<!DOCTYPE html>"),
    ("a.parquet", b"", "not readable as .parquet"),
    ("a.json", b"", "not readable as .json"),
    ("a.json", b'{"data": []}', "must hold objects"),
    ("a.json", b"[" * 100_000, "not readable as .json"),
    ("a.json", b"[]", "has no rows"),
    ("a.json", b"PAR1\x15\x04\xff\xfe", "codec can't decode"),
    ("a.json", b'[{"problem": "a", "answer": 1, "answer": 2}]', "'answer' is named twice in one row"),
    ("a.json", b'[{"a": "b"}, {"a": {"content": ["\\ud800"]}}]', "half of a character (a lone surrogate)"),
    ("a.jsonl", b'{"a": 1}\n{"a": \n', "not readable as .jsonl (line 2: "),
    ("a.jsonl", b'{"a": 1}\n[1]\n', "must hold objects"),
    ("a.jsonl", b'{"problem": "a", "answer": 1, "answer": 2}\n', "line 1: 'answer' is named twice in one row"),
    ("a.jsonl", b'{"a": "b"}\n\n{"a": {"content": ["\\ud800"]}}', "Row 2 of the dataset"),
    ("a.csv", b"a,b", "unknown ending: use one of .parquet, .json, .jsonl"),
    ("b/a.json", None, "does not exist"),
    (".", None, "is a folder"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_broken_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError) as caught:
        load_rows(tmp_path / name)
    sentence = str(caught.value)
    assert message in sentence
    assert str(tmp_path / name) in sentence
    assert "\n" not in sentence


def test_odd_tables_and_a_later_row(tmp_path):
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "a.parquet")
    twice = pa.table([pa.array(["a"]), pa.array(["1"]), pa.array(["2"])], names=["problem", "answer", "answer"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": 2}\n{"a": 1}\n')
    for name, sentence in (("a.parquet", "no rows"), ("twice.parquet", "Multiple .*answer"), ("a.jsonl", "b in row 2")):
        with pytest.raises(StudyError, match=sentence):
            load_rows(tmp_path / name, columns=["b"])


@pytest.mark.parametrize("source", ["data/test.jsonl", "./data", "/data/x", "a/b/c", "math500.jsonl"])
def test_what_is_a_local_file(source):
    assert is_local(source)
    assert not is_local("HuggingFaceH4/MATH-500")


def test_the_hub_is_asked_with_split_and_configuration(monkeypatch):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        if name == "not/there":
            raise ConnectionError("Couldn't reach\nthe Hub")
        return datasets.Dataset.from_list(ROWS[:1])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_rows("openai/gsm8k", split="test", config="main") == load_rows("a/b", columns=["answer"]) == ROWS[:1]
    assert asked == [("openai/gsm8k", "main", "test"), ("a/b", None, "train")]
    with pytest.raises(StudyError, match="lacks the column"):
        load_rows("a/b", columns=["gold"])
    with pytest.raises(StudyError, match=r"not/there \(configuration main, split test\).*Couldn't reach the Hub"):
        load_rows("not/there", split="test", config="main")
