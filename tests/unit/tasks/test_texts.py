"""Text without labels, from files, folders and the columns of labelled rows."""

import gzip
import json

import pytest

from bertpress.errors import DataError
from bertpress.tasks import Rows, load, load_texts, resolve, texts_of, train_texts


def test_every_text_of_the_columns_once():
    pairs = Rows({"a": ["x", "y", " "], "b": ["y", "z", None], "label": [0, 1, 0]})
    assert texts_of(("a", "b"), pairs).columns == {"text": ["x", "y", "z"]}
    tagged = Rows({"tokens": [["the", "cat"], ["a"]], "tags": [["O", "O"], ["O"]]})
    assert texts_of(("tokens",), tagged).columns == {"text": ["the cat", "a"]}
    with pytest.raises(DataError, match=r"^memory: no texts in the columns c$"):
        texts_of(("c",), pairs)


def test_files_of_lines_and_of_records(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \r\n", encoding="utf-8")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "three", "n": 1}) + "\n" + json.dumps({"text": "one", "n": 2}) + "\n")
    (tmp_path / "notes.md").write_text("no text of ours", encoding="utf-8")
    assert load_texts(tmp_path / "a.txt").columns == {"text": ["one", " two "]}
    assert load_texts(tmp_path / "b.jsonl.gz").columns == {"text": ["three", "one"]}
    assert load_texts(tmp_path).columns == {"text": ["one", " two ", "three"]}


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"^--unlabelled .*none.txt: cannot be read \(No such file or directory\)$"):
        load_texts(tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no text files \(needed: .txt, .txt.gz, .jsonl, "):
        load_texts(tmp_path / "empty")
    (tmp_path / "bad.txt").write_bytes(b"good\n\xff\n")
    with pytest.raises(DataError, match=r"bad.txt line 2: byte 0xff at column 1 is not UTF-8"):
        load_texts(tmp_path / "bad.txt")
    (tmp_path / "other.csv").write_text("words\nx\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'text'"):
        load_texts(tmp_path / "other.csv")


def test_texts_of_all_tasks_of_a_folder(tmp_path):
    def write(name, *records):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")

    write("sst2", {"sentence": "mine", "label": 0}, {"sentence": "shared", "label": 1})
    write("mrpc", {"sentence1": "left", "sentence2": "shared", "label": 0})
    write("own", {"sentence": "like mine", "label": 5})
    write("else", {"words": "of another form", "label": 5})
    (tmp_path / "validation-only").mkdir()
    sst2 = resolve("sst2")
    found = train_texts(sst2, load(sst2, "train", tmp_path), tmp_path)
    assert found.columns == {"text": ["mine", "shared", "left", "like mine"]}
    alone = tmp_path / "sst2"
    assert train_texts(sst2, load(sst2, "train", alone), alone).columns == {"text": ["mine", "shared"]}
    assert train_texts(sst2, load(sst2, "train", alone), None).columns == {"text": ["mine", "shared"]}
