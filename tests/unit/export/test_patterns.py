"""Patterns of attention answer alike in both engines, at lengths that were not traced."""

from importlib import import_module

import pytest
from patterned_models import PATTERNS, model_of

from bertpress.export.parity import parity


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_exported_they_answer_alike(name, engine, tmp_path):
    model = model_of(PATTERNS[name])
    import_module(f"bertpress.export.{engine.removesuffix('runtime')}").export(model, tmp_path)
    found = parity(model, tmp_path, engine)
    assert found.logit_difference <= 1e-5
    assert found.compared >= 10
