import json
import sys

import pytest
import torch
from safetensors import SafetensorError

from bertpress.artifact import Parent, load, packing, parent_of, save
from bertpress.artifact import manifest as manifests
from bertpress.artifact.manifest import hash_file
from bertpress.artifact.save import update
from bertpress.errors import ArtifactError, BertpressError, MachineError
from bertpress.tasks import resolve


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_model_comes_back_with_the_same_bits(model, quantized, tokenizer, task, batch, tmp_path):
    quantized(model)
    with torch.no_grad():
        expected = model(**batch).logits
        artifact = save(model, tokenizer, task, tmp_path / "a")
        found = artifact.model(**batch).logits
    assert torch.equal(found, expected)
    assert not artifact.model.training
    assert artifact.task == task
    assert artifact.blueprint == model.blueprint
    assert artifact.tokenizer("good film")["input_ids"] == tokenizer("good film")["input_ids"]
    grids = {name: stored.grid() for name, stored in artifact.model.storage.items()}
    assert grids.keys() == model.storage.keys()
    for name, grid in grids.items():
        assert torch.equal(grid.scale, model.storage[name].parts["scale"])


def test_saving_what_was_loaded_gives_the_same_file(folder, tokenizer, task, tmp_path):
    again = save(load(folder).model, tokenizer, task, tmp_path / "again")
    assert (again.path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_folder_stands_alone(folder, tmp_path):
    assert names(folder) == [
        "README.md",
        "bertpress.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert set(load(folder).manifest.files) == set(names(folder)) - {"bertpress.json"}
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), f"{path.name} tells where it was made"
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert config["label2id"] == {"bad": 0, "good": 1}
    assert config["architectures"] == ["BertpressForSequenceClassification"]
    assert config["problem_type"] == "single_label_classification"


def test_the_model_that_is_saved_stays_as_it_is(model, tokenizer, task, tmp_path):
    before = model.config.to_dict()
    save(model, tokenizer, task, tmp_path / "a")
    assert model.config.to_dict() == before


def test_an_encoder_without_task_or_tokenizer(model, tmp_path):
    artifact = save(model, None, None, tmp_path / "a")
    assert artifact.task is None
    with pytest.raises(ArtifactError, match="no tokenizer"):
        _ = artifact.tokenizer


def test_facts_come_back(model, tokenizer, tmp_path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "model.safetensors").write_bytes(b"abc")
    artifact = save(
        model,
        tokenizer,
        resolve("stsb"),
        tmp_path / "a",
        recipe={"name": "quick", "stages": ({"use": []},)},
        metrics={"artifact": {"metric": {"value": 91.5}, "speedup": float("nan"), "samples": [1.0, 2.0]}},
        seed=3,
        command="bertpress compress x",
        parent=parent_of("user/teacher", tmp_path / "teacher"),
    )
    found = load(artifact.path).manifest
    assert found.recipe == {"name": "quick", "stages": [{"use": []}]}
    assert found.metrics == {"artifact": {"metric": {"value": 91.5}, "speedup": None}}
    assert (found.seed, found.command, found.name) == (3, "bertpress compress x", "teacher-quick")
    assert found.parent.sha256 == hash_file(tmp_path / "teacher" / "model.safetensors").sha256
    assert found.versions["torch"] == torch.__version__


def test_a_parent_is_named_without_its_place(tmp_path):
    (tmp_path / "big").mkdir()
    assert parent_of(str(tmp_path / "big")).name == "big"
    assert parent_of("user/big") == Parent(name="user/big", sha256=None)


def test_a_taken_place_is_refused(folder, model, tokenizer, task):
    before = (folder / "bertpress.json").read_bytes()
    with pytest.raises(ArtifactError, match="exists and is not empty"):
        save(model, tokenizer, task, folder)
    assert (folder / "bertpress.json").read_bytes() == before
    model.storage = {}
    save(model, tokenizer, task, folder, overwrite=True)
    assert load(folder).model.storage == {}


def full(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_loses_nothing(folder, model, tokenizer, task, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "save_file", full)
    with pytest.raises(MachineError, match="new: no space left on the disk"):
        save(model, tokenizer, task, tmp_path / "new")
    with pytest.raises(MachineError, match="small: no space left on the disk"):
        save(model, tokenizer, task, folder, overwrite=True)
    assert names(tmp_path) == ["small"]
    assert load(folder).model.storage


def test_a_weight_off_its_grid_leaves_nothing(model, quantized, tokenizer, task, tmp_path):
    quantized(model).head.classifier.weight.data += 1e-3
    with pytest.raises(BertpressError, match=r"head\.classifier\.weight: codec uniform would change a value"):
        save(model, tokenizer, task, tmp_path / "a")
    assert names(tmp_path) == []


def test_no_half_of_an_artifact_loads(folder):
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(ArtifactError, match=path.name):
            load(folder)
        for part in (b"", data[: len(data) // 2], data[:-1], data + b"\n"):
            path.write_bytes(part)
            with pytest.raises(ArtifactError, match=path.name):
                load(folder)
        path.write_bytes(data)
    load(folder)


def test_one_flipped_bit_anywhere_is_seen(folder):
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for i in (0, 9, len(data) // 3, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:i] + bytes([data[i] ^ 4]) + data[i + 1 :])
            with pytest.raises(ArtifactError, match=rf"{path.name}: .*(SHA-256|JSON)") as caught:
                load(folder)
            assert "\n" not in str(caught.value)
        path.write_bytes(data)
    load(folder)


def test_an_update_is_valid_at_every_instant(folder, monkeypatch):
    """Stop before each write of an update: what lies there must always load."""
    real, writes = manifests.write_file, []

    def stops_at(count):
        def write(path, text):
            if len(writes) == count:
                raise KeyboardInterrupt
            writes.append(path.name)
            real(path, text)

        return write

    finished = False
    for count in range(5):
        writes.clear()
        for module in (manifests, sys.modules["bertpress.artifact.save"]):
            monkeypatch.setattr(module, "write_file", stops_at(count))
        artifact = load(folder)
        try:
            update(folder, artifact.manifest.replace(metrics={"n": count}), {"README.md": f"card {count}"})
            finished = True
        except KeyboardInterrupt:
            pass
        assert load(folder).manifest.files.keys() >= {"config.json", "model.safetensors"}
    assert finished
    assert writes == ["bertpress.json", "README.md", "bertpress.json"]
    assert load(folder).manifest.files["README.md"] == hash_file(folder / "README.md")
