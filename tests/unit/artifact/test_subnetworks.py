"""Sub-networks of an artifact: cut out they are artifacts that answer as in place; others are refused in one line."""

import pytest
import torch

from bertpress import api
from bertpress.artifact import load, save
from bertpress.encoder.blueprint import ElasticSpec
from bertpress.encoder.model import build_model
from bertpress.encoder.subnetworks import running, subnetwork
from bertpress.errors import ArtifactError
from bertpress.outcome import subnetworks
from bertpress.tasks import from_records

ELASTIC = ElasticSpec(widths=(0.25, 0.5, 1.0), depths=(0.5, 1.0))
ROWS = [{"sentence": text, "label": label} for text, label in (("good film", 1), ("the plot is bad", 0), ("who", 0))]


@pytest.fixture
def elastic(shape, tokenizer, task, tmp_path):
    torch.manual_seed(0)
    return save(build_model(shape.replace(elastic=ELASTIC)), tokenizer, task, tmp_path / "elastic", seed=3)


def test_cut_out_it_answers_as_in_place(elastic, batch, tmp_path):
    alone = load(elastic.path).subnetwork(tmp_path / "alone", width=0.5, depth=0.5)
    assert alone.blueprint.elastic is None
    assert (len(alone.blueprint.layers), alone.blueprint.layers[0].ffn) == (1, (24,))
    model = elastic.model
    with torch.no_grad():
        with running(model, subnetwork(model.blueprint, width=0.5, depth=0.5)):
            inside = model(**batch).logits
        torch.testing.assert_close(load(alone.path).model(**batch).logits, inside, atol=1e-5, rtol=0)
    assert alone.manifest.parent.name == "elastic"
    assert alone.manifest.parent.sha256 == elastic.manifest.files["model.safetensors"].sha256
    assert (alone.task, alone.has_tokenizer, alone.manifest.seed) == (elastic.task, True, 3)
    alone.verify()
    weights = [4 * made.blueprint.total_parameters for made in (elastic, alone)]
    sizes = [(made.path / "model.safetensors").stat().st_size for made in (elastic, alone)]
    assert sizes[0] - sizes[1] == pytest.approx(weights[0] - weights[1], rel=0.05)


def test_the_whole_is_the_model(elastic, batch, tmp_path):
    whole = elastic.subnetwork(tmp_path / "whole")
    with torch.no_grad():
        assert torch.equal(whole.model(**batch).logits, elastic.model(**batch).logits)


def test_other_artifacts_and_shares_are_refused(elastic, folder, quantized, tokenizer, task, shape, tmp_path):
    with pytest.raises(ArtifactError, match="small: has no sub-networks; prune/dynabert makes models that do$"):
        load(folder).subnetwork(tmp_path / "x", width=0.5)
    with pytest.raises(ArtifactError, match=r"elastic: width=0.3 must be one of 0.25, 0.5, 1$"):
        elastic.subnetwork(tmp_path / "x", width=0.3)
    with pytest.raises(ArtifactError, match=r"elastic: depth=0.75 must be one of 0.5, 1$"):
        elastic.subnetwork(tmp_path / "x", depth=0.75)
    packed = save(quantized(build_model(shape.replace(elastic=ELASTIC))), tokenizer, task, tmp_path / "packed")
    with pytest.raises(
        ArtifactError, match="packed: its weights are quantized; cut the sub-network first and quantize"
    ):
        packed.subnetwork(tmp_path / "x", width=0.5)
    assert not (tmp_path / "x").exists()


def test_export_writes_an_artifact_with_the_runtimes_files(elastic, tmp_path):
    pytest.importorskip("openvino")
    out = api.export(elastic.path, to="openvino", out=tmp_path / "half", width=0.5)
    made = load(out)
    assert made.exports == ("openvino",)
    assert [layer.ffn for layer in made.blueprint.layers] == [(24,), (24,)]
    assert load(elastic.path).exports == ()
    with pytest.raises(ArtifactError, match="export of a sub-network: needs a folder of its own$"):
        api.export(elastic.path, to="openvino", depth=0.5)
    with pytest.raises(ArtifactError, match="export of a sub-network: needs to=openvino or onnx; export the artifact"):
        api.export(elastic.path, to="transformers", out=tmp_path / "plain", depth=0.5)
    assert not (tmp_path / "plain").exists()


def test_all_are_scored_from_disk_by_size(elastic):
    found = subnetworks(elastic, from_records(ROWS), threads=1, tokens=16)
    assert {(each["width"], each["depth"]) for each in found} == {
        (w, d) for w in ELASTIC.widths for d in ELASTIC.depths
    }
    assert [each["parameters"] for each in found] == sorted(each["parameters"] for each in found)
    assert (found[0]["width"], found[0]["depth"]) == (0.25, 0.5)
    whole = found[-1]
    assert whole["parameters"] == elastic.blueprint.total_parameters
    assert whole["macs"] == sum(elastic.blueprint.macs(16).values())
    assert whole["metric"]["value"] == next(iter(elastic.evaluate(from_records(ROWS)).values())).value
    assert [each["weight_bytes"] for each in found] == sorted(each["weight_bytes"] for each in found)
