"""Batches and texts at the edge, and engines that several threads share: an answer that is right, or one clear line."""

import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_task import TASK, tiny
from tiny_world import fast_tokenizer, write_model, write_rows

from bertpress import api, artifact
from bertpress.artifact import packing
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.engines import load_engine
from bertpress.errors import ArtifactError, BertpressError, ModelError
from bertpress.tasks import loss

TEXTS = ["", "film", "the film was good . " * 200, "\0\u202e\U0001f600", "the cat was dull"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = fast_tokenizer()
    head = HeadSpec(kind="sequence")
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=24, vocabulary=len(tokenizer), positions=64, head=head)
    found = artifact.save(build_model(shape), tokenizer, TASK, tmp_path_factory.mktemp("numbers") / "model")
    for runtime in ("openvino", "onnx"):
        found.export(runtime)
    return found


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_short_long_and_odd_texts_alone_and_together(made, engine):
    together = list(made.predict(TEXTS, engine=engine, threads=1))
    for text, answer in zip(TEXTS, together, strict=True):
        (alone,) = made.predict([text], engine=engine, threads=1)
        assert alone["label"] == answer["label"]
        np.testing.assert_allclose(list(alone["scores"].values()), list(answer["scores"].values()), atol=1e-5)


def test_a_row_of_pads_alone_harms_neither_itself_nor_its_neighbours(made):
    ids = torch.tensor([[2, 7, 9, 3], [0, 0, 0, 0]])
    with torch.no_grad():
        both = made.model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        one = made.model(input_ids=ids[:1], attention_mask=torch.ones(1, 4, dtype=torch.long)).logits
    assert bool(both.isfinite().all())
    torch.testing.assert_close(both[:1], one)


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_has_a_finite_loss_and_gradient(label):
    model = tiny()
    ids = torch.randint(5, 50, (4, 6))
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    value = loss(TASK, found.logits, {"labels": torch.full((4,), label)})
    value.backward()
    assert bool(value.isfinite())
    assert all(bool(w.grad.isfinite().all()) for w in model.parameters() if w.grad is not None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(value, made, tmp_path):
    name = "encoder.layers.0.attention.query.weight"
    state = {key: weight.clone() for key, weight in made.model.state_dict().items()}
    state[name][1, 2] = value
    model = build_model(made.blueprint)
    model.load_state_dict(state)
    with pytest.raises(BertpressError, match=f"^{name}: holds values that are not finite$"):
        artifact.save(model, made.tokenizer, TASK, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    with pytest.raises(ArtifactError, match=f"^{file}: {name} holds values that are not finite$"):
        packing.read(file)


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_an_answer_that_is_not_finite_is_an_error_that_names_the_text(engine, made, tmp_path):
    model = build_model(made.blueprint)
    model.load_state_dict(made.model.state_dict())
    with torch.no_grad():  # finite, and yet too large for what follows
        model.head.dense.bias.fill_(10.0)
        model.head.classifier.weight.fill_(3e38)
    exploding = artifact.save(model, made.tokenizer, TASK, tmp_path / "model")
    if engine != "torch":
        exploding.export({"openvino": "openvino", "onnxruntime": "onnx"}[engine])
    with pytest.raises(ModelError, match=r"^input line \d: the model answers with values that are not finite$"):
        list(exploding.predict(TEXTS, engine=engine, threads=1))


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_threads_that_share_an_engine_get_the_answers_of_one(made, engine):
    batches = [
        {"input_ids": np.full((rows, 5), 5 + rows, np.int64), "attention_mask": np.ones((rows, 5), np.int64)}
        for rows in range(1, 9)
    ]
    shared = load_engine(engine, made.path, 1)
    expected = [shared.logits(batch) for batch in batches]
    wrong = []

    def ask(own):
        for _ in range(20):
            found = shared.logits(batches[own])
            if found.shape != expected[own].shape or not np.allclose(found, expected[own], atol=1e-6):
                wrong.append(own)

    threads = [threading.Thread(target=ask, args=(own,)) for own in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.slow
def test_a_token_of_the_hub_is_written_nowhere(tmp_path, monkeypatch):
    secret = "hf_" + "q7Zk" * 8
    monkeypatch.setenv("HF_TOKEN", secret)
    model, data = write_model(tmp_path / "model"), write_rows(tmp_path / "data")
    short = ["stages.0.train.max_steps=2", "fine_tune.max_steps=2", "export=[]"]
    columns = {"text_columns": ("text",), "label_column": "label"}
    api.compress(
        model, task="text-classification", data=data, out=tmp_path / "run", overrides=short, threads=1, **columns
    )
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path
