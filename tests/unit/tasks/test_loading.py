import gzip
import json

import pytest

from bertpress.errors import DataError
from bertpress.tasks import load, resolve
from bertpress.tasks.loading import find

SST2 = [{"sentence": f"s{i}", "label": i % 2} for i in range(10)]


def lay(folder, split, records=SST2, suffix=".jsonl.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"{split}{suffix}").write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())


def test_the_folder_or_the_one_above(tmp_path):
    lay(tmp_path / "sst2", "train")
    for data in (tmp_path, tmp_path / "sst2", str(tmp_path)):
        rows = load(resolve("sst2"), "train", data)
        assert rows.column("sentence") == [f"s{i}" for i in range(10)]
    lay(tmp_path / "snips", "train", [{"tokens": ["a"], "slot_tags": [0]}])
    assert len(load(resolve("snips-slots"), "train", tmp_path)) == 1


@pytest.mark.parametrize("split", ["validation", "validation_matched", "dev", "test"])
def test_where_validation_is_found(tmp_path, split):
    lay(tmp_path, "train")
    lay(tmp_path, split)
    assert find(resolve("sst2"), "validation", tmp_path).name == f"{split}.jsonl.gz"
    lay(tmp_path, "validation")
    assert find(resolve("sst2"), "validation", tmp_path).name == "validation.jsonl.gz"


@pytest.mark.parametrize(
    "content",
    [["bad", "good"], {"label": ["bad", "good"]}, {"sst2": {"label": ["bad", "good"]}}, {"0": "bad", "1": "good"}],
)
@pytest.mark.parametrize("above", [False, True])
def test_labels_json(tmp_path, content, above):
    lay(tmp_path / "sst2", "train")
    (tmp_path / ("." if above else "sst2") / "labels.json").write_text(json.dumps(content))
    wanted = ("bad", "good") if not above or "sst2" in content else None
    assert load(resolve("sst2"), "train", tmp_path).names.get("label") == wanted


def test_labels_json_that_is_none(tmp_path):
    lay(tmp_path, "train")
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(DataError, match=r"labels\.json: not a JSON file in UTF-8"):
        load(resolve("sst2"), "train", tmp_path)
    (tmp_path / "labels.json").write_text("7")
    with pytest.raises(DataError, match=r"labels\.json: needs a list of names, or one for column 'label'"):
        load(resolve("sst2"), "train", tmp_path)


def test_limit_and_unlabelled(tmp_path):
    lay(tmp_path, "train", [{"sentence": "x"}] * 5)
    assert len(load(resolve("sst2"), "train", tmp_path, limit=3, labelled=False)) == 3
    with pytest.raises(DataError, match=r"train\.jsonl\.gz: no column 'label' \(available: sentence\)"):
        load(resolve("sst2"), "train", tmp_path)


def test_what_is_missing_is_named(tmp_path):
    task = resolve("sst2")
    with pytest.raises(DataError, match=r"--data .*/nowhere does not exist"):
        load(task, "train", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no data files \(needed: train with one of \.jsonl, "):
        load(task, "train", tmp_path)
    lay(tmp_path, "train")
    with pytest.raises(DataError, match=r"no split 'validation' \(available: train\)"):
        load(task, "validation", tmp_path)
    with pytest.raises(DataError, match=r"is a file, not a folder that holds train\.\*"):
        load(task, "train", tmp_path / "train.jsonl.gz")
    with pytest.raises(DataError, match=r"no column 'text' \(available: sentence, label\)"):
        load(resolve("text-classification"), "train", tmp_path)
    lay(tmp_path, "train", suffix=".jsonl")
    with pytest.raises(DataError, match=r"several files for split 'train': train\.jsonl, train\.jsonl\.gz"):
        load(task, "train", tmp_path)
