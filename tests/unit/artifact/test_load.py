import json
import shutil

import pytest
import torch

from bertpress.artifact import load, save
from bertpress.artifact.codecs import Dense, Stored
from bertpress.encoder.blueprint import AttentionSpec, HeadSpec, LayerSpec
from bertpress.encoder.model import BertpressForSequenceClassification, BertpressModel, build_model
from bertpress.errors import ArtifactError, MachineError


def edit(path, change):
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_from_pretrained_reads_packed_weights(folder, batch):
    model = BertpressForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, load(folder).model(**batch).logits)
    assert model.storage.keys() == load(folder).model.storage.keys()
    assert not model.training


def test_from_pretrained_refuses_what_was_changed(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"model\.safetensors: must have SHA-256"):
        BertpressForSequenceClassification.from_pretrained(folder)


def test_layers_that_all_differ(shape, tokenizer, task, batch, tmp_path):
    def layer(heads, ffn):
        return LayerSpec(attention=AttentionSpec(heads=heads, head_size=8, value_size=8), ffn=(ffn,))

    layers = (layer((0, 1, 2, 3), 48), layer((1, 3), 20), layer((2,), 4), layer((), 0))
    torch.manual_seed(0)
    model = build_model(shape.replace(layers=layers))
    save(model, tokenizer, task, tmp_path / "a")
    again = BertpressForSequenceClassification.from_pretrained(tmp_path / "a")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_buffers_of_quantized_activations_come_back(shape, tokenizer, task, tmp_path):
    model = build_model(shape.replace(activation_bits=8))
    model.encoder.layers[0].attention.input_slot.quantizer.set(0.125, 7)
    found = save(model, tokenizer, task, tmp_path / "a").model.encoder.layers[0].attention.input_slot.quantizer
    assert (float(found.scale), int(found.zero_point), found.active) == (0.125, 7, True)


def test_a_tied_masked_language_model(shape, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = build_model(shape.replace(head=HeadSpec(kind="masked_lm")))
    table = model.encoder.embeddings.word.weight
    table.data = table.data.half().float()
    model.storage = {"encoder.embeddings.word.weight": Stored((Dense(dtype="float16"),))}
    again = save(model, tokenizer, None, tmp_path / "a").model
    ids = torch.tensor([[2, 5, 7, 3]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.head.table() is again.encoder.embeddings.word.weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["blueprint"].update(
                hidden_size=2**20, embeddings={"vocabulary": 2**20, "size": 2**20}, layers=[]
            ),
            r"config\.json: asks for 2,199,567,466,498 parameters, model\.safetensors holds [\d,]+",
        ),
        (lambda c: c["blueprint"].update(hidden_size=10**12), r"config\.json: blueprint\.hidden_size: .*1048576"),
        (lambda c: c["blueprint"]["embeddings"].update(size=31), r"blueprint: embeddings\.size=31 must be"),
        (
            lambda c: c["blueprint"]["head"].update(labels=1),
            r"head\.classifier\.(weight|bias) has shape \[2.*must be \[1",
        ),
        (lambda c: c["blueprint"]["layers"].pop(), r"encoder\.layers\.1\.[a-z.]+ and \d+ more not of this model"),
        (lambda c: c.pop("blueprint"), "no configuration with a blueprint"),
        (lambda c: c.update(architectures=["os.system"]), r"architectures: 'os\.system' must be one of Bertpress"),
        (lambda c: c.update(architectures=["BertpressModel"]), None),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights(folder, change, message):
    edit(folder / "config.json", change)
    if message is None:
        assert type(load(folder, verify=False).model) is BertpressModel
        return
    with pytest.raises(ArtifactError, match=message) as caught:
        _ = load(folder, verify=False).model
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_are_named(folder, tmp_path, tokenizer, task, shape):
    small = save(build_model(shape.replace(layers=shape.layers[:1])), tokenizer, task, tmp_path / "less").path
    shutil.copy(small / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"asks for [\d,]+ parameters, model\.safetensors holds"):
        load(folder, verify=False)


def test_more_than_the_memory_is_refused_before_it_is_taken(folder, monkeypatch):
    class Little:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Little)
    with pytest.raises(MachineError, match=r"model\.safetensors: needs 0\.0 GB of memory, 0\.0 GB are free"):
        load(folder)


def test_no_folder_no_artifact_no_pickle(folder, tmp_path):
    with pytest.raises(ArtifactError, match="gone: no such folder"):
        load(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"empty: no bertpress\.json, so no artifact of bertpress"):
        load(tmp_path / "empty")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin: a pickle"):
        load(folder)


def test_a_configuration_that_is_no_json(folder):
    for text in ("", "{", "[]", "null", "[" * 100_000):
        (folder / "config.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"config\.json: no configuration with a blueprint"):
            load(folder, verify=False)


def test_weights_are_read_when_they_are_needed(folder, monkeypatch):
    artifact = load(folder)
    (folder / "model.safetensors").unlink()
    assert artifact.blueprint.hidden_size == 32
    assert artifact.task.name == "sst2"


def test_the_auto_classes_and_pipelines_know_it(folder, batch):
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

    artifact = load(folder)
    assert AutoConfig.from_pretrained(folder).model_type == "bertpress"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, artifact.model(**batch).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("good film")["input_ids"] == [2, 5, 7, 3]
    (found,) = pipeline("text-classification", str(folder))("good film")
    (answer,) = artifact.predict(["good film"], threads=1)
    assert found["label"] == answer["label"]
    assert found["score"] == pytest.approx(answer["score"], abs=1e-5)
