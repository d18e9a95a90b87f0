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


@pytest.fixture
def files(tmp_path):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / "a.jsonl").write_bytes(f"\ufeff{lines}\n\n".encode())
    return tmp_path


@pytest.mark.parametrize("ending", ["parquet", "json", "jsonl"])
def test_all_kinds_of_file_give_the_same_rows(files, ending):
    assert load_rows(files / f"a.{ending}", columns=["problem", "answer"]) == ROWS
    assert load_rows(str(files / f"a.{ending}")) == ROWS


@pytest.mark.parametrize("ending", ["parquet", "json", "jsonl"])
def test_missing_columns_are_named_with_those_found(files, ending):
    with pytest.raises(StudyError, match=r"lacks the column\(s\) prompt in row 1; it has problem, answer, nested"):
        load_rows(files / f"a.{ending}", columns=["problem", "prompt"])


def test_a_column_missing_in_a_later_row(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": 2}\n{"a": 1}\n')
    with pytest.raises(StudyError, match="b in row 2"):
        load_rows(tmp_path / "a.jsonl", columns=["a", "b"])


PARQUET_START = b"PAR1\x15\x04\x15 and then nothing more"
BROKEN = [
    ("a.parquet", b"<!DOCTYPE html><html><body>Not found</body></html>", "not a readable parquet file, but a web page"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
    ("a.parquet", PARQUET_START, "cut off or damaged"),
    ("a.parquet", b"hello", "not a readable parquet file: "),
    ("a.json", b"  <html></html>", "not valid JSON, but a web page"),
    ("a.json", b'{"data": []}', "list of objects, but holds one dict"),
    ("a.json", b"[1, 2]", "list of objects, but holds a list of other things"),
    ("a.json", b'[{"a": 1}', "not valid JSON"),
    ("a.json", b"[" * 100_000, "not valid JSON"),
    ("a.json", b"[]", "has no rows"),
    ("a.json", PARQUET_START + b"\xff\xfe", "not UTF-8 text, but a parquet file"),
    ("a.jsonl", b'{"a": 1}\n{"a": \n', "not valid JSON in line 2"),
    ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2 is none"),
    ("a.jsonl", b'[{"a": 1}]', "line 1 is none"),
    ("a.jsonl", b"\n \n", "has no rows"),
    ("a.jsonl", b"\x80\x81", "not UTF-8 text"),
    ("a.parquet", b"", "is empty"),
    ("a.csv", b"a,b", "unknown ending: use one of .parquet, .json, .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError) as caught:
        load_rows(tmp_path / name)
    sentence = str(caught.value)
    assert message in sentence
    assert str(tmp_path / name) in sentence
    assert "\n" not in sentence


def test_an_empty_table_a_missing_file_and_a_folder(tmp_path):
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(StudyError, match="no rows"):
        load_rows(tmp_path / "a.parquet")
    with pytest.raises(StudyError, match="does not exist"):
        load_rows(tmp_path / "b.parquet")
    with pytest.raises(StudyError, match="is a folder"):
        load_rows(tmp_path)


@pytest.mark.parametrize(
    ("source", "local"),
    [
        ("openai/gsm8k", False),
        ("HuggingFaceH4/MATH-500", False),
        ("data/test.jsonl", True),
        ("./data", True),
        ("/data/x", True),
        ("a/b/c", True),
        ("math500.jsonl", True),
    ],
)
def test_what_is_a_local_file(source, local):
    assert is_local(source) is local


def test_the_hub_is_asked_with_split_and_configuration(monkeypatch):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list(ROWS[:1])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_rows("openai/gsm8k", split="test", config="main") == ROWS[:1]
    assert load_rows("a/b", columns=["answer"]) == ROWS[:1]
    assert asked == [("openai/gsm8k", "main", "test"), ("a/b", None, "train")]
    with pytest.raises(StudyError, match="lacks the column"):
        load_rows("a/b", columns=["gold"])


def test_a_dataset_that_the_hub_does_not_give(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(StudyError, match=r"openai/gsm8k \(configuration main, split test\).*Couldn't reach the Hub"):
        load_rows("openai/gsm8k", split="test", config="main")


def test_a_column_named_twice_is_said_of_each_kind_of_file(tmp_path):
    twice = pa.table([pa.array(["a"]), pa.array(["1"]), pa.array(["2"])], names=["problem", "answer", "answer"])
    pq.write_table(twice, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"problem": "a", "answer": 1, "answer": 2}\n')
    (tmp_path / "a.json").write_text('[{"problem": "a", "answer": 1, "answer": 2}]')
    for path in tmp_path.iterdir():
        with pytest.raises(StudyError, match="names 'answer' twice in one row"):
            load_rows(path)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_half_of_a_character_is_said_with_its_row(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    lines = ['{"problem": "a"}', '{"problem": {"content": ["\\ud800"]}}']
    path.write_text(f"[{','.join(lines)}]" if ending == "json" else "\n".join(lines))
    with pytest.raises(StudyError, match=r"Row 2 of .* lone surrogate"):
        load_rows(path)
