"""Parity, integers in the file, dynamic shapes, the file alone."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from integer_kernels import integer_products
from uneven_models import albert_like, few_bits, int8, mixed, mpnet_like

from bertpress.export.openvino import export
from bertpress.export.parity import parity

ALONE = """
import json, sys, pathlib, numpy, openvino
folder = pathlib.Path(sys.argv[1]) / "openvino"
known = json.loads((folder / "metadata.json").read_text())
ids = numpy.array([[2, 7, 9, 3, 0], [2, 8, 3, 0, 0]], dtype=numpy.int64)
feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(numpy.int64), "token_type_ids": ids * 0}
model = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
out = model({name: feeds[name] for name in known["inputs"]})["logits"]
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


def test_metadata_says_what_a_program_needs(exported):
    _, folder = exported["float"]
    assert json.loads((folder / "openvino" / "metadata.json").read_text()) == {
        "inputs": ["input_ids", "attention_mask", "token_type_ids"],
        "labels": ["LABEL_0", "LABEL_1", "LABEL_2"],
        "positions": 64,
        "pad_id": 0,
        "task": "toy",
        "max_length": 32,
    }


def test_layers_that_all_differ_agree_on_any_batch_and_length(exported):
    found = parity(*exported["float"], "openvino")
    assert found.logit_difference < 1e-5
    assert found.label_agreement == 100
    assert found.compared == 10


def test_integers_agree_with_their_simulation_and_are_integers_in_the_file(exported):
    model, folder = exported["int8"]
    found = parity(model, folder, "openvino")
    assert found.logit_difference < 0.02
    assert found.label_agreement == 100
    path = folder / "openvino" / "model.xml"
    constants = Counter()
    for node in openvino.Core().read_model(path).get_ops():
        if node.get_type_name() == "Constant":
            constants[node.get_element_type().get_type_name()] += node.get_data().size
    matrices = sum(weight.numel() for name, weight in model.unique_weights() if name in model.storage)
    assert constants["i8"] == matrices
    rest = sum(weight.numel() for _, weight in model.unique_weights()) - matrices
    scales = sum(stored.parts["scale"].numel() for stored in model.storage.values())
    expected = matrices + 4 * (rest + scales)
    assert path.with_suffix(".bin").stat().st_size == pytest.approx(expected, rel=0.02)


def test_integer_kernels_run(exported):
    _, folder = exported["int8"]
    assert integer_products(folder) == {True: 19, False: 1}  # all but the classifier


def test_scales_of_each_token_run_as_integers(tmp_path):
    model = int8(mixed(), activation_scales="dynamic")
    export(model, tmp_path)
    found = parity(model, tmp_path, "openvino")
    assert found.logit_difference < 0.02
    assert found.label_agreement == 100
    assert integer_products(tmp_path) == {True: 19, False: 1}


@pytest.mark.parametrize("bits", [2, 6])
def test_few_bits_are_the_same_values_and_run_as_integers(bits, tmp_path):
    model = few_bits(mixed(), bits)
    export(model, tmp_path)
    found = parity(model, tmp_path, "openvino")
    assert found.logit_difference < 0.05
    assert found.label_agreement == 100
    assert integer_products(tmp_path) == {True: 19, False: 1}


@pytest.mark.parametrize(
    "make",
    [
        mpnet_like,
        pytest.param(albert_like, marks=pytest.mark.slow),
        pytest.param(lambda: mixed("token"), marks=pytest.mark.slow),
        pytest.param(lambda: mixed("span"), marks=pytest.mark.slow),
        pytest.param(lambda: mixed("embedding"), marks=pytest.mark.slow),
    ],
)
def test_other_shapes_and_heads(make, tmp_path):
    for name, model in {"float": make(), "int8": int8(make())}.items():
        export(model, tmp_path / name)
        found = parity(model, tmp_path / name, "openvino")
        assert found.logit_difference < (1e-5 if name == "float" else 0.05)
        assert found.label_agreement >= 99


def test_a_tied_table_is_in_the_file_once(tmp_path):
    model = int8(mixed("masked_lm"))
    path = export(model, tmp_path)
    sizes = [
        node.get_data().size
        for node in openvino.Core().read_model(path).get_ops()
        if node.get_type_name() == "Constant" and node.get_data().shape == (60, 48)
    ]
    assert sizes == [60 * 48]
    assert parity(model, tmp_path, "openvino").logit_difference < 0.1


def test_half_makes_a_float_file_half_as_large(tmp_path, exported):
    model, folder = exported["float"]
    half = export(model, tmp_path, half=True).with_suffix(".bin").stat().st_size
    assert half == pytest.approx((folder / "openvino" / "model.bin").stat().st_size / 2, rel=0.02)
    assert 1e-6 < parity(model, tmp_path, "openvino").logit_difference < 1e-2


TOLD = """
import pathlib, sys
sys.path[:0] = sys.argv[2:]
from openvino_telemetry.utils.sender import TelemetrySender
TelemetrySender.send = lambda *_: print("told")
from bertpress.engines import load_engine
from bertpress.export.openvino import export
from uneven_models import mixed
export(mixed(), pathlib.Path(sys.argv[1]))
load_engine("openvino", sys.argv[1])
"""


def test_nobody_is_told_of_imports_and_conversions(tmp_path):
    pytest.importorskip("openvino_telemetry")
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    line = [sys.executable, "-c", TOLD, str(tmp_path), str(Path(__file__).parents[1])]
    done = subprocess.run(line, env={**env, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert (tmp_path / "openvino/model.xml").is_file()
