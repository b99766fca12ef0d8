import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bertpress.errors import ArtifactError, ModelError
from bertpress.measure.size import (
    BERT_BASE_BYTES,
    is_embedding,
    openvino_embedding_bytes,
    safetensors_tensors,
    size,
)


def test_bert_base_in_float32():
    assert BERT_BASE_BYTES == 437_928_960  # 109.48 M x 4


def test_plain_folder(tmp_path):
    tensors = {
        "bert.embeddings.word_embeddings.weight": torch.zeros(100, 8),
        "bert.embeddings.LayerNorm.weight": torch.zeros(8),
        "bert.encoder.layer.0.output.dense.weight": torch.zeros(8, 16),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = size(tmp_path)
    assert found.weight_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert found.weight_bytes - found.weight_bytes_without_embeddings == 4 * (800 + 8)
    assert found.artifact_bytes == found.weight_bytes
    assert found.as_keys(2 * found.weight_bytes)["percent_of_teacher"] == 50.0
    assert found.files == ("model.safetensors",)


def test_packed_parts_and_shards(tmp_path):
    save_file({"encoder.embeddings.word.weight::q": torch.zeros(50, 4, dtype=torch.int8)},
              tmp_path / "model-00001-of-00002.safetensors")  # fmt: skip
    save_file({"head.classifier.weight": torch.zeros(2, 4)}, tmp_path / "model-00002-of-00002.safetensors")
    found = size(tmp_path)
    assert found.weight_bytes - found.weight_bytes_without_embeddings == 200
    assert len(found.files) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.embeddings.projection.weight", True),
        ("electra.embeddings_project.weight", True),
        ("albert.encoder.embedding_hidden_mapping_in.weight", True),
        ("mobilebert.embeddings.embedding_transformation.weight", True),
        ("embeddings.position_embeddings.weight", True),
        ("encoder.layers.3.attention.query.weight", False),
        ("cls.predictions.decoder.bias", False),
        ("head.dense.weight", False),
    ],
)
def test_names_of_embeddings(name, expected):
    assert is_embedding(name) is expected


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"{]"])
def test_broken_safetensors(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is no safetensors file"):
        safetensors_tensors(path)


def test_missing_files(tmp_path):
    with pytest.raises(ModelError, match="safetensors"):
        size(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"openvino/\*.xml"):
        size(tmp_path, "openvino")
    with pytest.raises(ModelError, match=r"onnx/\*.onnx"):
        size(tmp_path, "onnxruntime")


class Lookup(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(300, 16)
        self.linear = torch.nn.Linear(16, 64)

    def forward(self, ids):
        return self.linear(self.table(ids))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_openvino_graph(tmp_path):
    openvino = pytest.importorskip("openvino")
    converted = openvino.convert_model(Lookup().eval(), example_input=torch.zeros(1, 5, dtype=torch.int64))
    (tmp_path / "openvino").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    for half, bytes_each in ((False, 4), (True, 2)):
        openvino.save_model(converted, tmp_path / "openvino" / "model.xml", compress_to_fp16=half)
        found = size(tmp_path, "openvino")
        assert found.weight_bytes - found.weight_bytes_without_embeddings == 300 * 16 * bytes_each
        assert found.files == ("openvino/model.bin", "openvino/model.xml")


def test_openvino_garbage(tmp_path):
    (tmp_path / "model.xml").write_text("<net><layers>")
    with pytest.raises(ArtifactError, match="is no OpenVINO graph"):
        openvino_embedding_bytes(tmp_path / "model.xml")


def test_onnx_graph_with_quantized_table(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    stored = [
        numpy_helper.from_array(np.zeros((300, 16), np.int8), "q"),
        numpy_helper.from_array(np.ones(300, np.float32), "scale"),
        numpy_helper.from_array(np.zeros((16, 64), np.float32), "w"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["table"], axis=0),
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [1, "n"])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, "n", 64])
    (tmp_path / "onnx").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", [ids], [out], stored)),
        tmp_path / "onnx" / "model.onnx",
    )
    found = size(tmp_path, "onnxruntime")
    assert found.weight_bytes - found.weight_bytes_without_embeddings == 300 * 16 + 4 * 300


def test_keys_are_json(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert json.loads(json.dumps(size(tmp_path).as_keys()))["weight_bytes_without_embeddings"] is None
