"""One protocol; what is missing is said in a line."""

import builtins
import gc
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from bertpress import engines
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.engines.base import inputs_of
from bertpress.errors import EngineError
from bertpress.export import onnx, openvino

IDS = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS > 0).long(), "labels": torch.zeros(2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with every file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    model = build_model(
        uniform(layers=1, hidden_size=16, heads=2, ffn=32, vocabulary=30, head=HeadSpec(kind="sequence"))
    )
    model.save_pretrained(path)
    onnx.export(model, path)
    openvino.export(model, path)
    return path


def test_all_engines_answer_alike_arrays_or_tensors(folder):
    arrays = {name: tensor.numpy().astype(np.int32) for name, tensor in BATCH.items()}
    found = {name: engines.load_engine(name, folder, 1).logits(BATCH) for name in engines.NAMES}
    for name, logits in found.items():
        assert logits.shape == (2, 2)
        assert logits.dtype == np.float32
        assert np.allclose(logits, found["torch"], atol=1e-5)
        engine = engines.load_engine(name, folder)
        assert np.allclose(engine.logits(arrays), logits, atol=1e-6)
        first = engine.logits(BATCH)
        engine.logits({name: BATCH[name][:1, :2] for name in ("input_ids", "attention_mask")})
        assert np.array_equal(first, engine.logits(BATCH))  # an answer is a copy, not a view of the next one


def test_file_bytes(folder):
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*.*") if path.is_file()}
    assert engines.load_engine("torch", folder).file_bytes() == sizes["model.safetensors"]
    assert engines.load_engine("onnxruntime", folder).file_bytes() == sizes["onnx/model.onnx"]
    both = sizes["openvino/model.xml"] + sizes["openvino/model.bin"]
    assert engines.load_engine("openvino", folder).file_bytes() == both


def test_threads_are_really_set(folder):
    before = torch.get_num_threads()
    try:
        one, two = (engines.load_engine("torch", folder, count) for count in (1, 2))
        one.logits(BATCH)
        assert torch.get_num_threads() == 1
        two.logits(BATCH)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for count in (1, 2):
        compiled = engines.load_engine("openvino", folder, count)._compiled
        assert compiled.get_property("INFERENCE_NUM_THREADS") == count
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
        session = engines.load_engine("onnxruntime", folder, count)._session
        assert session.get_session_options().intra_op_num_threads == count
    with pytest.raises(EngineError, match="threads=0 must be at least 1"):
        engines.load_engine("openvino", folder, 0)


def test_importing_engines_imports_no_runtime():
    code = "import sys, bertpress.engines as e; assert not {'torch', 'openvino', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert engines.available() == list(engines.NAMES)


def test_faults_are_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(EngineError, match="engine=tensorrt must be one of torch, onnxruntime, openvino"):
        engines.load_engine("tensorrt", folder)
    with pytest.raises(
        EngineError, match=r"has no openvino/model.xml; make it with: bertpress export .* --to openvino"
    ):
        engines.load_engine("openvino", tmp_path)
    with pytest.raises(EngineError, match=r"has no onnx/model.onnx; make it with"):
        engines.load_engine("onnxruntime", tmp_path)
    for kind, name in (("openvino", "model.xml"), ("onnx", "model.onnx")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / name).write_text("nonsense")
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(EngineError, match="cannot load it") as caught:
            engines.load_engine(name, tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="batch has no attention_mask; it has input_ids"):
        inputs_of({"input_ids": IDS}, ("input_ids", "attention_mask"))

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("openvino", "onnxruntime", "onnx"):
            raise ImportError(f"no {name}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for name, extra in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        with pytest.raises(EngineError, match=rf"not installed; pip install 'bertpress\[{extra}\]'"):
            engines.load_engine(name, folder)
    model = build_model(uniform(layers=0, hidden_size=8, heads=1, ffn=8, vocabulary=9))
    for exporter, extra in ((openvino, "openvino"), (onnx, "onnx")):
        with pytest.raises(EngineError, match=rf"not installed; pip install 'bertpress\[{extra}\]'"):
            exporter.export(model, folder)


def test_a_signal_is_survived_whatever_order_models_go_in(folder):
    first, second = engines.load_engine("openvino", folder), engines.load_engine("openvino", folder)
    del first
    gc.collect()
    del second
    gc.collect()
    hits = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: hits.append(number))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert hits == [signal.SIGTERM]
