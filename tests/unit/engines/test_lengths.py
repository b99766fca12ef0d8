"""Graphs of their own for some lengths: the same answers, and no others where a text does not fit."""

import json

import numpy as np
import pytest
import token_models
import torch
from exit_models import mixed_speed, texts, tiny
from patterned_models import PATTERNS, model_of
from tiny_world import fast_tokenizer

from bertpress import api, artifact, engines, tasks
from bertpress.cli.shared import whole_numbers
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.model import build_model
from bertpress.engines.lengths import FixedLengths
from bertpress.errors import DataError, EngineError, UserError
from bertpress.export import openvino
from bertpress.measure.worker import Bench


def exported(path, kind, **changes):
    torch.manual_seed(0)
    shape = uniform(
        layers=2, hidden_size=16, heads=2, ffn=32, vocabulary=30, positions=24, head=HeadSpec(kind=kind, labels=3)
    )
    model = build_model(shape.replace(embeddings=shape.embeddings.model_copy(update=changes))).eval()
    model.save_pretrained(path)
    openvino.export(model, path)
    return path


def text(tokens, rows=1):
    ids = np.random.default_rng(tokens).integers(5, 30, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.mark.parametrize("kind", ["sequence", "token"])
@pytest.mark.parametrize("positions", [{}, {"first_position": 2, "pad_id": 1}])
def test_a_padded_text_has_the_answer_that_it_has_alone(kind, positions, tmp_path):
    folder = exported(tmp_path, kind, **positions)
    plain, fixed = (engines.load_engine("openvino", folder, 1, lengths=lengths) for lengths in ((), (12, 4)))
    for tokens in (1, 3, 4, 5, 12, 13):
        expected, found = plain.logits(text(tokens)), fixed.logits(text(tokens))
        assert found.shape == expected.shape
        assert np.allclose(found, expected, atol=1e-5)
    assert np.array_equal(fixed.logits(text(6, rows=3)), plain.logits(text(6, rows=3)))
    assert fixed.file_bytes() == plain.file_bytes()


def test_models_with_exits(tmp_path):
    model = tiny(kind="pooled")
    model.save_pretrained(tmp_path)
    openvino.export(model, tmp_path)
    rows = texts(rows=12)
    speed = mixed_speed(model, rows)
    plain, fixed = (
        engines.load_engine("openvino", tmp_path, 1, speed, lengths) for lengths in ((), (len(rows["input_ids"][0]),))
    )
    for row in range(12):
        alone = {name: each[row : row + 1] for name, each in rows.items()}
        assert np.allclose(fixed.logits(alone), plain.logits(alone), atol=1e-5)
    assert fixed.engine.left.tolist() == plain.left.tolist()
    assert len(fixed.engine.left.nonzero()[0]) > 1


@pytest.mark.parametrize("name", ["shares", "counts", "pairs", "merged share"])
def test_where_tokens_leave_by_number_every_size_is_fixed(name, tmp_path):
    model = token_models.ruled(token_models.tiny(), token_models.RULES[name]).eval()
    model.save_pretrained(tmp_path)
    openvino.export(model, tmp_path)
    plain, fixed = (engines.load_engine("openvino", tmp_path, 1, lengths=lengths) for lengths in ((), (8, 12)))
    for tokens in (2, 7, 8, 11):
        assert np.allclose(fixed.logits(text(tokens)), plain.logits(text(tokens)), atol=1e-5)
    for request in fixed.engine._fixed.values():
        operations = request.get_compiled_model().get_runtime_model().get_ops()
        assert not [each for each in operations if any(port.partial_shape.is_dynamic for port in each.outputs())]


def test_which_graph_runs(tmp_path, monkeypatch):
    fixed = engines.load_engine("openvino", exported(tmp_path, "sequence"), 1, lengths=(8, 4))
    asked = []

    class Spy:
        def __init__(self, name, request):
            self.name, self.request = name, request

        def __getattr__(self, name):
            return getattr(self.request, name)

        def infer(self):
            asked.append((self.name, *self.request.input_tensors[0].shape))
            self.request.infer()

    part = fixed.engine
    monkeypatch.setattr(part, "_request", Spy("any", part._request))
    monkeypatch.setattr(part, "_fixed", {length: Spy(length, request) for length, request in part._fixed.items()})
    for tokens, rows in ((3, 1), (4, 1), (5, 1), (9, 1), (4, 2)):
        fixed.logits(text(tokens, rows))
    assert asked == [(4, 1, 4), (4, 1, 4), (8, 1, 8), ("any", 1, 9), ("any", 2, 4)]


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ((0,), r"lengths: 0 must be in \[1, 24\]"),
        ((8, 25), r"lengths: 25 must be in \[1, 24\]"),
        ((8, 4, 8), "lengths: 8, 4, 8 must differ"),
    ],
)
def test_lengths_that_are_none(lengths, said, tmp_path):
    folder = exported(tmp_path, "sequence")
    with pytest.raises(EngineError, match=said):
        engines.load_engine("openvino", folder, 1, lengths=lengths)


def test_positions_that_lie_before_the_first_do_not_count(tmp_path):
    folder = exported(tmp_path, "sequence", first_position=2, pad_id=1)
    with pytest.raises(EngineError, match=r"lengths: 23 must be in \[1, 22\]"):
        engines.load_engine("openvino", folder, 1, lengths=(23,))


def agree(model, folder):
    """The graph of one length, with and without pads, that of any length and PyTorch."""
    model.eval().save_pretrained(folder)
    openvino.export(model, folder)
    names = ("torch", "openvino")
    whole, plain = (engines.load_engine(name, folder, 1) for name in names)
    fixed = engines.load_engine("openvino", folder, 1, lengths=(8, 24))
    for tokens in (6, 8, 24):
        expected = whole.logits(text(tokens))
        assert np.allclose(plain.logits(text(tokens)), expected, atol=1e-5)
        assert np.allclose(fixed.logits(text(tokens)), expected, atol=1e-5)


@pytest.mark.parametrize("rules", [{}, token_models.RULES["shares"], token_models.RULES["pairs"]])
def test_relative_positions(rules, tmp_path):
    """OpenVINO 2026 loses a bias of constant distances in a graph of one length: decision 21."""
    model = token_models.tiny(relative=True)
    model.encoder.relative.weight.data *= 4  # enough for answers to hang on it
    agree(token_models.ruled(model, rules), tmp_path)


@pytest.mark.parametrize("name", PATTERNS)
def test_attention_that_follows_a_pattern(name, tmp_path):
    agree(model_of(PATTERNS[name]), tmp_path)


def test_what_cannot_have_them(tmp_path):
    folder = exported(tmp_path, "sequence")
    with pytest.raises(EngineError, match="lengths: this engine has one graph for all of them"):
        engines.load_engine("torch", folder, 1, lengths=(8,))
    told = folder / "openvino/metadata.json"
    for broken in ("", "[]", json.dumps({"pad_id": "x", "positions": 24})):
        told.write_text(broken, encoding="utf-8")
        with pytest.raises(EngineError, match=r"metadata.json: tells no padding and positions .*export again"):
            engines.load_engine("openvino", folder, 1, lengths=(8,))


def test_artifacts_and_what_times_them(tiny_model, tmp_path):
    task = tasks.resolve("text-classification", text_columns=("text",), label_column="label")
    task = task.replace(labels=("bad", "good"))
    made = artifact.save(load_pretrained(tiny_model, task.head()).model, fast_tokenizer(), task, tmp_path / "a", seed=0)
    made.export("openvino")
    texts = ["the cat was good", "the film was bad and the plot was not very good ?", "good"]
    plain, fixed = (
        list(api.predict(made, texts, engine="openvino", batch_size=1, threads=1, lengths=lengths))
        for lengths in ((), (8, 16))
    )
    for one, other in zip(plain, fixed, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
    assert isinstance(made._predictor("openvino", 1, None, None, (8, 16)).engine, FixedLengths)
    bench = Bench()
    bench.load(folder=str(made.path), engine="openvino", threads=1, lengths=[8])
    assert isinstance(bench.engine, FixedLengths)
    with pytest.raises(DataError, match="lengths: texts about passages run in graphs of any length"):
        api.predict(made, texts, lengths=(8,), passages={"one": "a film"}, states=tmp_path / "states")


def test_numbers_on_a_command_line():
    assert whole_numbers("--lengths", "16, 32") == (16, 32)
    assert whole_numbers("--lengths", None) == ()
    with pytest.raises(UserError, match="--lengths=16,x must be whole numbers with commas between"):
        whole_numbers("--lengths", "16,x")
