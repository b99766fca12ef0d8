"""Exits on every engine: the whole model at speed 0, each row judged alone, less work for what has left."""

import numpy as np
import pytest
from exit_models import answers, mixed_speed, texts, tiny

from bertpress import artifact, engines
from bertpress.encoder.blueprint import ExitRule
from bertpress.encoder.leaving import chosen_exits
from bertpress.encoder.segments import parts
from bertpress.engines.staged import Staged
from bertpress.engines.torch import Torch, TorchPart
from bertpress.errors import EngineError
from bertpress.export import onnx, openvino
from bertpress.measure.size import size
from bertpress.methods.base import Context
from bertpress.methods.quantize.int8 import Int8

CASES = {
    "pairs": {"kind": "pooled"},
    "branch": {"kind": "branch", "layers": 7, "every": 2, "rule": ExitRule(criterion="uncertainty")},
    "regression": {"kind": "linear", "labels": 1, "rule": ExitRule(criterion="patience", tolerance=0.5)},
    "relative": {"kind": "linear", "relative": True, "rule": ExitRule(criterion="patience")},
    "mean": {"kind": "pooled", "pooling": "mean"},
}


def staged(model, speed):
    """On torch, in memory."""
    whole = Torch(model, [], 1)
    chain = [TorchPart(whole, part.eval(), part.inputs) for part in parts(model).values()]
    return Staged(chain, model.blueprint, speed)


@pytest.mark.parametrize("case", CASES)
def test_speed_0_is_the_whole_model_bit_for_bit(case):
    model, batch = tiny(**CASES[case]), texts()
    engine = staged(model, 0.0)
    assert np.array_equal(engine.logits(batch), answers(model, batch)[:, -1])
    assert engine.left.tolist() == [0, 0, 0, len(batch["input_ids"])]


@pytest.mark.parametrize("case", CASES)
def test_a_row_gets_the_answer_of_the_exit_that_the_rule_chooses(case):
    model, batch = tiny(**CASES[case]), texts(rows=12)
    everything, speed = answers(model, batch), mixed_speed(model, batch)
    chosen = chosen_exits(model.blueprint.exit, speed, model.blueprint.exits, everything)
    engine = staged(model, speed)
    expected = everything[np.arange(len(chosen)), chosen]
    assert np.allclose(engine.logits(batch), expected, atol=1e-5)
    assert engine.left.tolist() == np.bincount(chosen, minlength=4).tolist()


@pytest.mark.parametrize("case", CASES)
def test_batch_mates_and_order_change_nothing(case):
    model, batch = tiny(**CASES[case]), texts(rows=12)
    engine = staged(model, mixed_speed(model, batch))
    together, order = engine.logits(batch), np.random.default_rng(0).permutation(12)
    assert np.allclose(engine.logits({name: each[order] for name, each in batch.items()}), together[order], atol=1e-5)
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        alone = {name: each[row : row + 1, :length] for name, each in batch.items()}
        assert np.allclose(engine.logits(alone)[0], together[row], atol=1e-5)


def test_later_segments_see_only_what_is_left_without_needless_pads(tmp_path):
    shared = tmp_path / "weights"
    shared.write_bytes(b"shared")

    class Spy:
        inputs = ("input_ids", "attention_mask")

        def __init__(self, answer):
            self.answer, self.seen, self.files = answer, [], (shared, tmp_path / answer)
            self.files[1].write_bytes(b"of its own")

        def run(self, arrays):
            self.seen.append({name: array.shape for name, array in arrays.items()})
            rows = arrays["attention_mask"].sum(1)
            sure = (rows > 3).astype(np.float32) * 50 if self.answer == "long" else np.full(len(rows), 50.0)
            hidden = np.zeros((*arrays["attention_mask"].shape, 2), np.float32)
            return [np.stack([sure, np.zeros_like(sure)], 1).astype(np.float32), hidden]

    parts = [Spy("long"), Spy("all"), Spy("none")]
    engine = Staged(parts, tiny(layers=3, labels=2).blueprint, 0.5)
    mask = (np.arange(8) < np.array([[8], [2], [5], [3]])).astype(np.int64)
    found = engine.logits({"input_ids": mask, "attention_mask": mask})
    assert parts[0].seen == [{"input_ids": (4, 8), "attention_mask": (4, 8)}]
    assert parts[1].seen == [{"states": (2, 3, 2), "attention_mask": (2, 3)}]
    assert parts[2].seen == []
    assert engine.left.tolist() == [2, 2, 0]
    assert (found[:, 0] == 50).all()
    assert engine.file_bytes() == 3 * len(b"of its own") + len(b"shared")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders with every file, by case."""
    made = {}

    def of(case):
        if case not in made:
            model, path = tiny(**CASES[case]), tmp_path_factory.mktemp(case)
            model.save_pretrained(path)
            openvino.export(model, path)
            made[case] = model, path
        return made[case]

    return of


def test_integers_leave_where_their_simulation_does(tmp_path):
    ctx = Context(task=None, tokenizer=None, seed=0, calibration=lambda count, *_: [texts(count, seed=1)])
    pressed = artifact.save(Int8(examples=64).finish(tiny(), ctx), None, None, tmp_path / "int8")
    pressed.export("openvino")
    batch = texts(rows=12)
    for speed in (0.0, mixed_speed(pressed.model, batch)):
        found = engines.load_engine("openvino", pressed.path, 1, speed=speed).logits(batch)
        expected = staged(pressed.model, speed).logits(batch)
        apart = np.abs(found - expected).max(1)  # a value beside a boundary may round to the other side: in few rows
        assert np.median(apart) < 1e-4
        assert (found.argmax(1) == expected.argmax(1)).all()


ONNX = pytest.param("onnxruntime", marks=pytest.mark.slow)  # five graphs, which its exporter takes seconds for


@pytest.mark.parametrize("case", ["pairs", "regression", "relative", "branch"])
@pytest.mark.parametrize("name", ["torch", "openvino", ONNX])
def test_every_engine_leaves_at_the_same_exits(name, case, exported):
    model, path = exported(case)
    if name == "onnxruntime":
        onnx.export(model, path)
    batch = texts(rows=12)
    whole = engines.load_engine(name, path, 1, speed=0).logits(batch)
    assert np.allclose(whole, answers(model, batch)[:, -1], atol=1e-4)
    speed = mixed_speed(model, batch)
    engine, expected = engines.load_engine(name, path, 1, speed=speed), staged(model, speed)
    assert np.allclose(engine.logits(batch), expected.logits(batch), atol=1e-4)
    assert engine.left.tolist() == expected.left.tolist()


@pytest.mark.parametrize("engine", ["openvino", ONNX])
def test_segments_store_no_weight_twice(engine, exported):
    model, path = exported("pairs")
    kind = {"openvino": "openvino", "onnxruntime": "onnx"}[engine]
    if kind == "onnx":
        onnx.export(model, path)
    weights = 4 * model.blueprint.total_parameters
    data = path / kind / {"openvino": "model.bin", "onnx": "model.onnx.data"}[kind]
    assert data.stat().st_size <= 1.3 * weights  # alignment, of tensors this small
    parts = engines.load_engine(engine, path, 1, speed=0.5)
    graphs = sum(file.stat().st_size for file in (path / kind).glob("exit-*"))
    assert parts.file_bytes() == data.stat().st_size + graphs
    assert size(path, engine).weight_bytes_without_embeddings > 0


def test_what_makes_no_sense_is_refused(tmp_path, exported):
    _, path = exported("pairs")
    with pytest.raises(EngineError, match=r"speed=1.5 must be in \[0, 1\]"):
        engines.load_engine("torch", path, speed=1.5)
    with pytest.raises(EngineError, match="has no early exits, so speed=0.5 means nothing"):
        engines.load_engine("torch", tmp_path, speed=0.5)
    bare = tmp_path / "bare"
    tiny().save_pretrained(bare)
    with pytest.raises(EngineError, match=r"has no openvino/exit-0.xml; make it with: bertpress export"):
        engines.load_engine("openvino", bare, speed=0.5)
