"""Few tokens run on one thread where that is faster, and answers do not depend on it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exit_models import mixed_speed, texts, tiny

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.engines import load_engine, one_thread
from bertpress.engines.one_thread import FixableOneOrAll, OneOrAll, few_on_one, seconds
from bertpress.errors import EngineError
from bertpress.export import onnx, openvino

FORMATS = {"openvino": openvino, "onnxruntime": onnx}


class Counted:
    """A part that remembers what it ran."""

    inputs, files, hidden = ("input_ids",), (), 0

    def __init__(self):
        self.ran = []

    def run(self, arrays):
        self.ran.append(arrays["input_ids"].shape)
        return [arrays["input_ids"] * 1.0]


def rows(rows, tokens):
    return {"input_ids": np.zeros((rows, tokens), np.int64)}


@pytest.fixture
def told(monkeypatch):
    """A model of 128 positions, whatever its files are."""

    def tell(positions=128):
        monkeypatch.setattr(one_thread, "padding_of", lambda path: (0, positions))
        return SimpleNamespace(inputs=("input_ids",), files=(Path("openvino/model.xml"),), hidden=0, run=print)

    return tell


def test_a_batch_counts_by_all_its_tokens():
    one, every = Counted(), Counted()
    part = OneOrAll(one, every, [8, 16, 48])
    for shape in ((1, 3), (2, 8), (1, 17), (1, 33), (2, 24), (7, 7), (1, 128), (1, 129)):
        part.run(rows(*shape))
    assert one.ran == [(1, 3), (2, 8), (1, 33), (2, 24)]
    assert every.ran == [(1, 17), (7, 7), (1, 128), (1, 129)]


def test_each_length_has_what_was_faster_there(told):
    every, one = told(), told()
    costs = {8: (1, 2), 16: (2, 2), 24: (3, 2), 32: (4, 5)}

    def clock(part, tokens):
        return costs.get(tokens, (9, 5))[part is every] * 1e-4

    (found,) = few_on_one([every], lambda: [one], 2, clock)
    assert found.alone == {8, 16, 32}


@pytest.mark.parametrize(
    ("threads", "shortest", "positions"), [(1, 1e-4, 128), (2, 2e-3, 128), (2, 1e-4, 7)],
    ids=["one thread only", "long operations", "few positions"],
)  # fmt: skip
def test_nothing_is_loaded_where_it_cannot_pay(told, threads, shortest, positions):
    every = told(positions)
    found = few_on_one([every], lambda: pytest.fail("loaded"), threads, lambda part, tokens: shortest)
    assert found == [every]


def test_no_length_is_longer_than_the_model(told):
    asked = []
    few_on_one([told(30)], lambda: [told(30)], 2, lambda part, tokens: asked.append(tokens) or 1e-4)
    assert set(asked) == {8, 16, 24}


def test_what_does_not_tell_its_positions_is_left_alone(told, monkeypatch):
    def missing(path):
        raise EngineError(f"{path}: not there")

    every = told()
    monkeypatch.setattr(one_thread, "padding_of", missing)
    assert few_on_one([every], lambda: pytest.fail("loaded"), 2) == [every]


@pytest.fixture
def always(monkeypatch):
    """One thread is faster for up to 16 tokens, whatever the clock says."""
    monkeypatch.setattr(one_thread, "seconds", lambda part, tokens: seconds(part, tokens) * 0 + 1e-6 * (tokens > 16))
    monkeypatch.setattr(
        one_thread, "_shared",
        lambda one, every, tokens, clock: (FixableOneOrAll if hasattr(every, "fix") else OneOrAll)(one, every, [8, 16]),
    )  # fmt: skip


@pytest.mark.parametrize("engine", FORMATS)
def test_answers_are_the_same(engine, tmp_path, always):
    torch.manual_seed(0)
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=32, vocabulary=30, positions=24,
                    head=HeadSpec(kind="sequence", labels=3))  # fmt: skip
    model = build_model(shape).eval()
    model.save_pretrained(tmp_path)
    FORMATS[engine].export(model, tmp_path)
    plain, shared = load_engine(engine, tmp_path, 1), load_engine(engine, tmp_path, 2)
    assert isinstance(shared, OneOrAll)
    for size in ((1, 5), (1, 20), (3, 5), (4, 12)):
        ids = np.random.default_rng(0).integers(5, 30, size)
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        assert np.allclose(shared.logits(batch), plain.logits(batch), atol=1e-6)
    assert shared.file_bytes() == plain.file_bytes()


@pytest.mark.parametrize("engine", FORMATS)
def test_models_with_exits_share_each_segment(engine, tmp_path, always):
    model, batch = tiny(kind="pooled"), texts(rows=12)
    model.save_pretrained(tmp_path)
    FORMATS[engine].export(model, tmp_path)
    speed = mixed_speed(model, batch)
    one, two = (load_engine(engine, tmp_path, threads, speed) for threads in (1, 2))
    for row in range(12):
        single = {name: value[row : row + 1] for name, value in batch.items()}
        assert np.allclose(one.logits(single), two.logits(single), atol=1e-6)
    assert list(one.left) == list(two.left)
    assert len(np.flatnonzero(two.left)) > 1


def test_graphs_for_a_length_are_made_where_they_run(tmp_path, always):
    shape = uniform(layers=1, hidden_size=16, heads=2, ffn=32, vocabulary=30, positions=24,
                    head=HeadSpec(kind="sequence", labels=3))  # fmt: skip
    model = build_model(shape).eval()
    model.save_pretrained(tmp_path)
    openvino.export(model, tmp_path)
    whole = load_engine("openvino", tmp_path, 2, lengths=(12, 20)).engine
    assert (list(whole.one._fixed), list(whole.every._fixed)) == ([12], [20])
