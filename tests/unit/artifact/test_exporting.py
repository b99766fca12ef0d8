import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bertpress.artifact import load
from bertpress.engines import load_engine
from bertpress.errors import ArtifactError, EngineError


@pytest.fixture
def exporter(monkeypatch):
    """A stand-in for bertpress.export.onnx: writes one file, or fails."""
    module = ModuleType("bertpress.export.onnx")
    module.calls, module.error = [], None

    def export(model, folder, **options):
        module.calls.append(options)
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").write_text(f"graph {len(module.calls)}")
        if module.error:
            raise module.error

    module.export = export
    monkeypatch.setitem(sys.modules, "bertpress.export.onnx", module)
    return module


def test_an_export_becomes_part_of_the_artifact(folder, exporter):
    artifact = load(folder)
    assert artifact.exports == ()
    assert artifact.export("onnx", opset=21) == folder / "onnx"
    assert exporter.calls[0] == {
        "metadata": {"name": "small", "task": "sst2", "kind": "text-classification", "max_length": 32},
        "opset": 21,
    }
    again = load(folder)
    assert again.exports == artifact.exports == ("onnx",)
    assert again.manifest == artifact.manifest
    assert "`onnx/` run with those runtimes alone" in (folder / "README.md").read_text()
    (folder / "onnx" / "model.onnx").write_text("other")
    with pytest.raises(ArtifactError, match=r"model\.onnx: must have SHA-256"):
        load(folder)
    load(folder, verify=False).export("onnx")
    assert (folder / "onnx" / "model.onnx").read_text() == "graph 2"
    load(folder)


def test_what_was_exported_can_be_left_out_as_a_whole(folder, exporter):
    load(folder).export("onnx")
    shutil.rmtree(folder / "onnx")
    artifact = load(folder)
    assert artifact.exports == ()
    with pytest.raises(EngineError, match="has no onnx/model.onnx; make it with: bertpress export"):
        artifact.predict(["a text"], engine="onnxruntime")
    assert artifact.export("onnx").is_dir()
    assert load(folder).exports == ("onnx",)


@pytest.mark.parametrize("error", [EngineError("not installed"), KeyboardInterrupt()])
def test_a_failed_export_leaves_the_artifact_as_it_was(folder, exporter, error):
    before = sorted(path.name for path in folder.iterdir())
    artifact = load(folder)
    exporter.error = error
    with pytest.raises(type(error)):
        artifact.export("onnx")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert load(folder).exports == artifact.exports == ()


def test_an_export_beside_the_artifact(folder, exporter, tmp_path):
    artifact = load(folder)
    assert artifact.export("onnx", tmp_path / "out") == tmp_path / "out"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert load(folder).exports == ()
    with pytest.raises(ArtifactError, match="out: exists and is not empty"):
        artifact.export("onnx", tmp_path / "out")


def test_targets_are_checked(folder):
    with pytest.raises(ArtifactError, match="export to 'tflite': must be one of openvino, onnx, transformers"):
        load(folder).export("tflite")
    with pytest.raises(ArtifactError, match="export to 'transformers': needs a folder"):
        load(folder).export("transformers")


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "engine"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_engines_give_the_answers_of_the_artifact(folder, batch, runtime, engine):
    pytest.importorskip(engine)
    pytest.importorskip(runtime)
    artifact = load(folder)
    artifact.export(runtime)
    found = load_engine(engine, folder, threads=1).logits(batch)
    with torch.no_grad():
        expected = artifact.model(**batch).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    texts = ["good film", "the plot is not very good"]
    labels = [answer["label"] for answer in artifact.predict(texts, engine=engine, threads=1)]
    assert labels == [answer["label"] for answer in artifact.predict(texts, threads=1)]


def test_plain_transformers(folder, batch, tmp_path):
    artifact = load(folder)
    artifact.export("transformers", tmp_path / "plain")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        found, expected = plain(**batch).logits, artifact.model(**batch).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
