"""Two thin products instead of one: neither file multiplies the factors out, and integers run in both."""

import onnx
import openvino
import pytest
import torch
from factored_models import factored
from integer_kernels import integer_products
from uneven_models import int8, mixed

from bertpress.export import onnx as to_onnx
from bertpress.export import openvino as to_openvino
from bertpress.export.parity import parity

SHAPES = ((12, 1536), (12, 768))
EXPORT = {"openvino": to_openvino.export, "onnxruntime": to_onnx.export}


def thin():
    return factored(mixed(shapes=SHAPES), ranks=lambda layer, part: 8)


def products(folder, engine):
    """Shapes of the constants that are multiplied by something, without regard to order."""
    if engine == "onnxruntime":
        graph = onnx.load(folder / "onnx/model.onnx").graph
        stored = {tensor.name: tuple(sorted(tensor.dims)) for tensor in graph.initializer}
        return [
            stored[name]
            for node in graph.node
            if node.op_type in ("MatMul", "Gemm")
            for name in node.input[1:2]
            if name in stored
        ]
    nodes = openvino.Core().read_model(folder / "openvino/model.xml").get_ops()
    inputs = [node.input_value(1).get_node() for node in nodes if node.get_type_name() == "MatMul"]
    return [tuple(sorted(node.get_data().shape)) for node in inputs if node.get_type_name() == "Constant"]


@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_the_factors_stay_two_products(engine, tmp_path):
    model = thin()
    path = EXPORT[engine](model, tmp_path)
    found = parity(model, tmp_path, engine)
    assert found.logit_difference < 1e-5
    shapes = products(tmp_path, engine)
    expected = [tuple(sorted(part.weight.shape)) for part in model.modules() if isinstance(part, torch.nn.Linear)]
    assert sorted(shapes) == sorted(expected)
    weights = path.with_suffix(".bin") if engine == "openvino" else path
    slack = {"rel": 0.03} if engine == "openvino" else {"abs": 60_000}  # the graph itself is in the ONNX file
    assert weights.stat().st_size == pytest.approx(4 * model.blueprint.total_parameters, **slack)
    assert weights.stat().st_size < 0.5 * 4 * mixed(shapes=SHAPES).blueprint.total_parameters


@pytest.mark.parametrize("scales", ["static", "dynamic"])
def test_both_factors_run_as_integers(scales, tmp_path):
    model = int8(thin(), activation_scales=scales)
    to_openvino.export(model, tmp_path)
    found = parity(model, tmp_path, "openvino")
    assert found.logit_difference < 0.02
    assert found.label_agreement == 100
    linears = sum(isinstance(part, torch.nn.Linear) for part in model.modules())
    assert linears == 2 * 6 * 2 + 2
    assert integer_products(tmp_path) == {True: linears - 1, False: 1}  # all but the classifier


@pytest.mark.slow
def test_integers_in_onnx(tmp_path):
    model = int8(thin())
    path = to_onnx.export(model, tmp_path)
    found = parity(model, tmp_path, "onnxruntime")
    assert found.logit_difference < 0.02
    assert found.label_agreement == 100
    assert path.stat().st_size < 1.2 * model.blueprint.total_parameters + 120_000
