"""LSTMs, convolutions and shortened sequences answer alike in both engines, at lengths that were not traced."""

from importlib import import_module

import pytest
from mixed_students import students

from bertpress.export.parity import parity


@pytest.mark.parametrize("name", students())
@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_exported_they_answer_alike(name, engine, tmp_path):
    model = students()[name]
    import_module(f"bertpress.export.{engine.removesuffix('runtime')}").export(model, tmp_path)
    found = parity(model, tmp_path, engine)
    assert found.logit_difference <= 1e-5
    assert found.compared >= 10
