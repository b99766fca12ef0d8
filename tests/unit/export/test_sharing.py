"""Layers that share weights: the files hold them once, whatever the numbers are stored as."""

import onnx
import pytest
from onnx import numpy_helper
from uneven_models import albert_like, int8, mixed

from bertpress.export import onnx as to_onnx
from bertpress.export import openvino as to_openvino
from bertpress.export.parity import parity

STORED = {
    "float": lambda model: model,
    "int8": int8,
    "int8, scales of each token": lambda model: int8(model, activation_scales="dynamic"),
}
SMALLEST_MATRIX = 48 * 16  # bytes, in integers; shapes and equal zero-points make a few bytes more or less


def one_layer():
    return mixed(shapes=((4, 96),))


@pytest.fixture(params=STORED)
def pair(request):
    """A model whose three layers share one's weights, and one of that layer alone."""
    return [STORED[request.param](make()) for make in (albert_like, one_layer)]


def test_openvino_stores_one_layer(pair, tmp_path):
    sizes = [
        to_openvino.export(model, tmp_path / str(i)).with_suffix(".bin").stat().st_size for i, model in enumerate(pair)
    ]
    assert abs(sizes[0] - sizes[1]) < SMALLEST_MATRIX
    assert parity(pair[0], tmp_path / "0", "openvino").logit_difference < 0.05


def test_openvino_stores_one_layer_in_half_precision(tmp_path):
    models = albert_like(), one_layer()
    paths = [to_openvino.export(model, tmp_path / str(i), half=True) for i, model in enumerate(models)]
    sizes = [path.with_suffix(".bin").stat().st_size for path in paths]
    assert abs(sizes[0] - sizes[1]) < SMALLEST_MATRIX


def test_onnx_stores_one_layer(pair, tmp_path):
    sizes = []
    for i, model in enumerate(pair):
        graph = onnx.load(to_onnx.export(model, tmp_path / str(i))).graph
        sizes.append(sum(numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer))
    assert abs(sizes[0] - sizes[1]) < SMALLEST_MATRIX
    assert parity(pair[0], tmp_path / "0", "onnxruntime").logit_difference < 0.05
