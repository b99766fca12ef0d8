"""Graphs in which tokens leave answer as the model does, at any length, in padded batches, as floats and integers."""

import pytest
import torch
from integer_kernels import integer_products
from token_models import RULES, logits, ruled, texts, tiny

from bertpress.engines import load_engine
from bertpress.export import onnx, openvino
from bertpress.methods.base import Context
from bertpress.methods.quantize.int8 import Int8

SIZES = ((6, 11), (1, 11), (3, 20), (2, 2), (2, 1), (1, 32))


def difference(model, folder, engine):
    """The largest, over batches of other sizes than the one that was traced."""
    loaded, worst = load_engine(engine, folder, 1), 0.0
    for seed, (rows, longest) in enumerate(SIZES):
        given = texts(rows, longest, seed)
        given["token_type_ids"] = torch.zeros_like(given["input_ids"])
        worst = max(worst, float((torch.as_tensor(loaded.logits(given)) - logits(model, given)).abs().max()))
    return worst


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_openvino_answers_alike(rules, relative, tmp_path):
    model = ruled(tiny(relative=relative, pooling="mean"), rules)
    openvino.export(model, tmp_path)
    assert difference(model, tmp_path, "openvino") <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_onnx_answers_alike(rules, tmp_path):
    model = ruled(tiny(relative=True, pooling="mean"), rules)
    onnx.export(model, tmp_path)
    assert difference(model, tmp_path, "onnxruntime") <= 1e-4


@pytest.mark.parametrize("name", ["shares", "merged share"])
def test_integers_run_as_integers(name, tmp_path):
    ctx = Context(task=None, tokenizer=None, seed=0, calibration=lambda n, *_: [texts(8, 16, 9)])
    model = Int8().finish(ruled(tiny(), RULES[name]), ctx)
    openvino.export(model, tmp_path)
    products = integer_products(tmp_path)
    assert products[True] >= 3 * 6
    assert products[False] <= 1  # the classifier
    for seed in range(3):
        given = texts(6, 16, seed)
        given["token_type_ids"] = torch.zeros_like(given["input_ids"])
        found = torch.as_tensor(load_engine("openvino", tmp_path, 1).logits(given))
        assert (found - logits(model, given)).abs().median() <= 0.05
