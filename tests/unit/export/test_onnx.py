"""Parity, integers in the file, dynamic shapes, the file alone."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from uneven_models import few_bits, int8, mixed, mpnet_like

from bertpress.export.onnx import drop_unused, export, fold_transposes, look_up_integers
from bertpress.export.parity import parity

ALONE = """
import json, sys, pathlib, numpy, onnxruntime
folder = pathlib.Path(sys.argv[1]) / "onnx"
known = json.loads((folder / "metadata.json").read_text())
ids = numpy.array([[2, 7, 9, 3, 0], [2, 8, 3, 0, 0]], dtype=numpy.int64)
feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(numpy.int64), "token_type_ids": ids * 0}
session = onnxruntime.InferenceSession(folder / "model.onnx")
out = session.run(["logits"], {name: feeds[name] for name in known["inputs"]})[0]
assert not {"bertpress", "torch"} & set(sys.modules)
print(json.dumps(out.tolist()))
"""


def test_the_file_runs_without_bertpress(exported):
    model, folder = exported["float"]
    run = subprocess.run([sys.executable, "-c", ALONE, str(folder)], capture_output=True, text=True, check=True)
    ids = torch.tensor([[2, 7, 9, 3, 0], [2, 8, 3, 0, 0]])
    with torch.no_grad():
        expected = model(ids, (ids > 0).long()).logits
    assert np.allclose(json.loads(run.stdout), expected, atol=1e-5)


def test_layers_that_all_differ_agree_on_any_batch_and_length(exported):
    found = parity(*exported["float"], "onnxruntime")
    assert found.logit_difference < 1e-5
    assert found.label_agreement == 100
    assert found.compared == 10


def test_integers_agree_with_their_simulation_and_are_integers_in_the_file(exported):
    model, folder = exported["int8"]
    found = parity(model, folder, "onnxruntime")
    assert found.logit_difference < 0.02
    assert found.label_agreement == 100
    graph = onnx.load(folder / "onnx" / "model.onnx").graph
    elements = Counter()
    for tensor in graph.initializer:
        elements[tensor.data_type] += int(np.prod(tensor.dims))
    matrices = sum(weight.numel() for name, weight in model.unique_weights() if name in model.storage)
    zeros = sum(stored.parts["scale"].numel() for stored in model.storage.values())
    assert matrices <= elements[TensorProto.INT8] <= matrices + zeros
    rest = sum(weight.numel() for _, weight in model.unique_weights()) - matrices
    assert elements[TensorProto.FLOAT] <= rest + zeros + 200
    assert not [node for node in graph.node if node.op_type == "Transpose" and "weight" in node.input[0]]


def integer_products(folder):
    """How many matrix products run as integers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return sum(node.op_type == "MatMulIntegerToFloat" for node in nodes)


def test_scales_of_each_token_run_as_integers(tmp_path):
    model = int8(mixed(), activation_scales="dynamic")
    export(model, tmp_path)
    found = parity(model, tmp_path, "onnxruntime")
    assert found.logit_difference < 0.02
    assert found.label_agreement == 100
    assert integer_products(tmp_path) == 18  # all but the head's


@pytest.mark.parametrize("bits", [2, 6])
def test_few_bits_are_the_same_values_and_run_as_integers(bits, tmp_path):
    model = few_bits(mixed(), bits)
    export(model, tmp_path)
    found = parity(model, tmp_path, "onnxruntime")
    assert found.logit_difference < 0.05
    assert found.label_agreement == 100
    assert integer_products(tmp_path) == 24  # scores, and averages of values, too


def test_nothing_of_the_machine_is_in_the_file(exported):
    _, folder = exported["float"]
    assert b"site-packages" not in (folder / "onnx" / "model.onnx").read_bytes()


def test_relative_positions_and_no_segments(tmp_path):
    model = int8(mpnet_like("token"))
    export(model, tmp_path)
    found = parity(model, tmp_path, "onnxruntime")
    assert found.logit_difference < 0.05
    assert found.label_agreement >= 99
    assert json.loads((tmp_path / "onnx" / "metadata.json").read_text())["inputs"] == ["input_ids", "attention_mask"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["span", "masked_lm", "embedding"])
def test_other_heads(kind, tmp_path):
    for name, model in {"float": mixed(kind), "int8": int8(mixed(kind))}.items():
        export(model, tmp_path / name)
        found = parity(model, tmp_path / name, "onnxruntime")
        assert found.logit_difference < (1e-5 if name == "float" else 0.1)


def graph_of(nodes, tensors, inputs, outputs):
    ports = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (*inputs, *outputs)]
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    return helper.make_graph(nodes, "g", ports[: len(inputs)], ports[len(inputs) :], stored)


def run(graph, **feeds):
    import onnxruntime

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def test_rewrites_keep_the_meaning():
    random = np.random.default_rng(0)
    table = random.integers(-127, 128, (5, 3), dtype=np.int8)
    scale, zeros = random.random(5, dtype=np.float32), np.zeros(5, dtype=np.int8)
    unpack = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0)
    ids = np.array([[0, 4], [3, 3]])
    x = random.random((2, 3), dtype=np.float32)

    looked = graph_of(
        [unpack, helper.make_node("Gather", ["d", "ids"], ["y"])],
        {"w": table, "s": scale, "z": zeros},
        [("ids", TensorProto.INT64, [2, 2])],
        [("y", TensorProto.FLOAT, [2, 2, 3])],
    )
    before = run(looked, ids=ids)[0]
    assert look_up_integers(looked) == 1
    drop_unused(looked)
    assert "DequantizeLinear" not in {node.op_type for node in looked.node}
    assert np.array_equal(run(looked, ids=ids)[0], before)

    multiplied = graph_of(
        [
            unpack,
            helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["y"]),
        ],
        {"w": table, "s": scale, "z": zeros},
        [("x", TensorProto.FLOAT, [2, 3])],
        [("y", TensorProto.FLOAT, [2, 5])],
    )
    before = run(multiplied, x=x)[0]
    assert fold_transposes(multiplied) == 1
    drop_unused(multiplied)
    assert {tensor.name for tensor in multiplied.initializer} == {"w.transposed", "s", "z"}
    assert np.allclose(run(multiplied, x=x)[0], before, atol=1e-4)
